"""Anthropic's Messages API, through its own client: its answers are those of a chat, written in another way.

The models are random: a schema or a grammar is what makes an answer end."""
import base64
import json

import anthropic
import jsonschema
import pytest

from harness import BLIP, CHAT, ENDLESS, PATIENCE_S, TINY, Server, named_events, png, wide_model

pytestmark = pytest.mark.asan
MESSAGES = "/v1/messages"
CITY = {"type": "object", "additionalProperties": False, "required": ["city"], "properties": {"city": {"enum": ["Rome", "Oslo"]}}}
TOOLS = [{"name": name, "description": "It tells.", "input_schema": CITY} for name in ("get_weather", "get_time")]
HELLO = [{"role": "user", "content": "Hello"}]
SHORT = {"model": "tiny", "max_tokens": 12, "extra_body": {"seed": 5}}
GREEDY = {"model": "tiny", "max_tokens": 12, "extra_body": {"temperature": 0}}


@pytest.fixture(scope="module")
def wide(start, tmp_path_factory):
    """The tiny model with room for conversations."""
    return start(models={"tiny": wide_model(tmp_path_factory.mktemp("wide"))})


def client_of(server, key="none"):
    return anthropic.Anthropic(base_url=server.url.removesuffix("/v1"), api_key=key, max_retries=0, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def claude(wide):
    return client_of(wide)


def events(server, **body):
    return named_events(server, MESSAGES, body)


def refused(server, body, status=400):
    got, answer = server.post(MESSAGES, body)
    assert got == status and answer["type"] == "error", answer
    return answer["error"]


def test_a_message_says_what_the_chat_says(wide, claude):
    said = claude.messages.create(messages=HELLO, system="Be brief.", **SHORT)
    chat = wide.client().chat.completions.create(model="tiny", max_tokens=12, seed=5,
                                                 messages=[{"role": "system", "content": "Be brief."}, *HELLO])
    [block] = said.content
    assert block.type == "text" and block.text == chat.choices[0].message.content
    assert said.role == "assistant" and said.type == "message" and said.model == "tiny" and said.id.startswith("msg_")
    assert said.stop_reason == "max_tokens" and said.stop_sequence is None
    assert said.usage.input_tokens + said.usage.cache_read_input_tokens == chat.usage.prompt_tokens and said.usage.output_tokens == 12
    assert claude.messages.count_tokens(model="tiny", messages=HELLO, system=[{"type": "text", "text": "Be brief."}]).input_tokens == chat.usage.prompt_tokens


def test_a_stop_sequence_is_named(wide, claude):
    text = claude.messages.create(messages=HELLO, **GREEDY).content[0].text
    said = claude.messages.create(messages=HELLO, stop_sequences=["never", text[4:7]], **GREEDY)
    assert said.stop_reason == "stop_sequence" and said.stop_sequence == text[4:7]
    assert said.content[0].text == text[:text.index(text[4:7])]


def test_blocks_are_the_messages_of_a_chat(wide, claude):
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Rome?", "cache_control": {"type": "ephemeral"}}]},
              {"role": "assistant", "content": [
                  {"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "I look."},
                  {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Rome"}},
                  {"type": "tool_use", "id": "call_2", "name": "get_time", "input": {}}]},
              {"role": "user", "content": [
                  {"type": "tool_result", "tool_use_id": "call_1", "content": "sun"},
                  {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "noon"}]},
                  {"type": "text", "text": "And?"}]}]
    calls = [{"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}},
             {"id": "call_2", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}]
    messages = [{"role": "user", "content": "Rome?"}, {"role": "assistant", "content": "I look.", "tool_calls": calls},
                {"role": "tool", "tool_call_id": "call_1", "content": "sun"}, {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
                {"role": "user", "content": "And?"}]
    said = claude.messages.create(messages=blocks, **SHORT)
    chat = wide.client().chat.completions.create(model="tiny", messages=messages, max_tokens=12, seed=5)
    assert said.content[0].text == chat.choices[0].message.content
    assert said.usage.input_tokens + said.usage.cache_read_input_tokens == chat.usage.prompt_tokens


def test_the_assistants_last_message_is_gone_on_with(wide, claude):
    said = claude.messages.create(messages=[*HELLO, {"role": "assistant", "content": "Well, "}], **SHORT)
    body = {"messages": [*HELLO, {"role": "assistant", "content": "Well, "}], "continue_final_message": True, "add_generation_prompt": False,
            "max_tokens": 12, "seed": 5}
    assert said.content[0].text == wide.post(CHAT, body)[1]["choices"][0]["message"]["content"]


@pytest.mark.parametrize("choice", [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "get_time"}], ids=["any", "named"])
def test_a_call_has_its_schema(wide, claude, choice):
    said = claude.messages.create(model="tiny", max_tokens=500, messages=HELLO, tools=TOOLS, tool_choice=choice)
    [call] = said.content
    assert call.type == "tool_use" and said.stop_reason == "tool_use"
    jsonschema.validate(call.input, CITY)
    assert choice["type"] == "any" or call.name == "get_time"
    more = claude.messages.create(messages=[*HELLO, {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]},
                                            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}]}], **SHORT)
    assert more.content[0].type == "text"
    none = claude.messages.create(messages=HELLO, tools=TOOLS, tool_choice={"type": "none"}, **SHORT)
    assert none.content[0].type == "text"


def test_an_answer_keeps_to_its_schema(wide, claude):
    said = claude.messages.create(model="tiny", max_tokens=500, messages=HELLO, output_config={"format": {"type": "json_schema", "schema": CITY}})
    jsonschema.validate(json.loads(said.content[0].text), CITY)
    assert said.stop_reason == "end_turn"


@pytest.mark.parametrize("fields", [{"max_tokens": 15}, {"max_tokens": 400, "tools": TOOLS, "tool_choice": {"type": "any"}},
                                    {"max_tokens": 25, "tools": TOOLS, "tool_choice": {"type": "any"}}, {"max_tokens": 40, "tools": TOOLS}],
                         ids=["text", "calls", "call-cut-off", "auto"])
def test_a_stream_says_the_same(wide, fields):
    for seed in (1, 2):
        body = {"messages": HELLO, "seed": seed, **fields}
        _, whole = wide.post(MESSAGES, body)
        got = events(wide, **body)
        assert all(name == data["type"] for name, data in got)
        assert [name for name, _ in got[-2:]] == ["message_delta", "message_stop"] and got[0][0] == "message_start"
        assert got[0][1]["message"]["content"] == [] and got[0][1]["message"]["usage"]["input_tokens"] > 0
        blocks, ended = [], 0
        for name, data in got[1:-2]:
            if name == "content_block_start":
                assert data["index"] == len(blocks) == ended
                blocks.append([data["content_block"], ""])
            elif name == "content_block_delta":
                assert data["index"] == ended
                blocks[-1][1] += data["delta"].get("text", "") + data["delta"].get("partial_json", "")
            else:
                assert name == "content_block_stop" and data["index"] == ended
                ended += 1
        assert ended == len(blocks) == len(whole["content"])
        for (begun, made), block in zip(blocks, whole["content"]):
            if block["type"] == "text":
                assert made == block["text"]
            elif block["input"] or whole["stop_reason"] == "tool_use":
                assert json.loads(made) == block["input"] and begun["name"] == block["name"]
        last = got[-2][1]
        assert last["delta"] == {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_the_clients_own_stream_accumulates(wide, claude):
    with claude.messages.stream(messages=HELLO, **SHORT) as stream:
        text = "".join(stream.text_stream)
        said = stream.get_final_message()
    assert said.content[0].text == text == claude.messages.create(messages=HELLO, **SHORT).content[0].text
    with claude.messages.stream(model="tiny", max_tokens=500, messages=HELLO, tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True}) as stream:
        said = stream.get_final_message()
    jsonschema.validate(said.content[0].input, CITY)


def test_a_picture_is_seen(start):
    server = start(models={"tiny": TINY, "blip": BLIP["caption"]})
    data = base64.b64encode(png()).decode()
    ask = {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]}]}
    chat = server.post(CHAT, ask)[1]["choices"][0]["message"]["content"]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    said = client_of(server).messages.create(model="blip", max_tokens=5, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
    assert said.content[0].text == chat


@pytest.mark.parametrize("body, param", [
    ({}, "messages"), ({"messages": []}, "messages"), ({"messages": [1]}, "messages[0].role"), ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"), ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0]"),
    ({"messages": [*HELLO, {"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[1].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "data:,"}}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "y", "input": "z"}]}]}, "messages[0].content[0]"),
    ({"messages": HELLO, "system": 1}, "system"), ({"messages": HELLO, "system": [{"type": "image"}]}, "system"), ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
    ({"messages": HELLO, "tools": 1}, "tools"), ({"messages": HELLO, "tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
    ({"messages": HELLO, "tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"), ({"messages": HELLO, "tools": [{"name": "a", "input_schema": 1}]}, "tools[0].input_schema"),
    ({"messages": HELLO, "tool_choice": {"type": "some"}}, "tool_choice"), ({"messages": HELLO, "tool_choice": {"type": "any"}}, "tool_choice"),
    ({"messages": HELLO, "stop_sequences": [""]}, "stop_sequences[0]"), ({"messages": HELLO, "output_config": {"format": {"type": "x"}}}, "output_config.format"),
    ({"messages": HELLO, "mcp_servers": [{}]}, "mcp_servers"), ({"messages": [{"role": "user", "content": "x " * 40000}]}, "messages")])
def test_what_is_wrong_is_named(wide, body, param):
    error = refused(wide, body)
    assert error["param"] == param and error["type"] == "invalid_request_error"


def test_errors_are_the_clients_own(wide, claude, start):
    with pytest.raises(anthropic.NotFoundError) as e:
        claude.messages.create(model="none", max_tokens=1, messages=HELLO)
    assert e.value.body["error"]["type"] == "not_found_error"
    server = start(keys=("right",))
    with pytest.raises(anthropic.AuthenticationError):
        client_of(server, "wrong").messages.create(messages=HELLO, **SHORT)
    assert client_of(server, "right").messages.create(messages=HELLO, **SHORT).content
    assert server.request("POST", "/v1/messages/count_tokens", {"messages": HELLO}, {"x-api-key": "right"})[0] == 200


def test_an_answer_that_is_too_large_is_refused():
    with Server("--max_answer_kib", 16, models={"endless": ENDLESS}) as server:
        assert refused(server, {"messages": HELLO, "ignore_eos": True, "seed": 1, "max_tokens": 100000})["code"] == "answer_too_large"
