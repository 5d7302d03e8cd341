"""OpenAI's Responses API, through the openai client: its answers are those of a chat, written in another way.

The models are random: a schema or a grammar is what makes an answer end."""
import base64
import json
import threading

import jsonschema
import openai
import pydantic
import pytest

from harness import BLIP, CHAT, ENDLESS, TINY, Server, named_events, png, wide_model

pytestmark = pytest.mark.asan
RESPONSES = "/v1/responses"
CITY = {"type": "object", "additionalProperties": False, "required": ["city"],
        "properties": {"city": {"enum": ["Rome", "Oslo"]}}}
TOOLS = [{"type": "function", "name": name, "description": "It tells.", "parameters": CITY, "strict": True}
         for name in ("get_weather", "get_time")]
SHORT = {"max_output_tokens": 12, "extra_body": {"seed": 5}}


@pytest.fixture(scope="module")
def wide(start, tmp_path_factory):
    """The tiny model with room for conversations."""
    return start(models={"tiny": wide_model(tmp_path_factory.mktemp("wide"))})


@pytest.fixture(scope="module")
def asker(wide):
    return wide.client()


class Weather(pydantic.BaseModel):
    sunny: bool
    wind: bool


def events(server, **body):
    return named_events(server, RESPONSES, body)


def texts(items):
    return [(i.type, getattr(i, "role", None), i.content[0].text if i.type == "message" else None) for i in items]


def refused(server, body, status=400):
    got, answer = server.post(RESPONSES, body)
    assert got == status, answer
    return answer["error"]


# ---- what is said ----

def test_a_response_says_what_the_chat_says(server, client):
    said = client.responses.create(model="tiny", input="Say something", instructions="Be brief.", temperature=0.8, **SHORT)
    chat = client.chat.completions.create(
        model="tiny", max_tokens=12, seed=5, temperature=0.8,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something"}])
    assert said.output_text == chat.choices[0].message.content
    assert said.usage.input_tokens == chat.usage.prompt_tokens and said.usage.output_tokens == 12
    assert said.usage.total_tokens == chat.usage.total_tokens
    assert said.status == "incomplete" and said.incomplete_details.reason == "max_output_tokens"
    assert said.object == "response" and said.id.startswith("resp_") and said.instructions == "Be brief."
    [message] = said.output
    assert message.role == "assistant" and message.status == "incomplete" and message.id.startswith("msg_")


def test_every_form_of_input_makes_the_same_prompt(server, client):
    forms = ["Hi", [{"role": "user", "content": "Hi"}], [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]]
    said = {client.responses.create(model="tiny", input=form, **SHORT).output_text for form in forms}
    assert len(said) == 1


def test_the_conversation_of_items_is_the_conversation_of_messages(wide, asker):
    items = [{"role": "developer", "content": "Use tools."}, {"role": "user", "content": "Rome?"}, {"type": "reasoning", "id": "rs_1", "summary": []},
             {"role": "assistant", "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
             {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city": "Rome"}'},
             {"type": "function_call", "call_id": "call_2", "name": "get_time", "arguments": '{"city": "Rome"}'},
             {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
             {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "noon"}]}]
    call = [{"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": '{"city": "Rome"}'}}
            for i, name in ((1, "get_weather"), (2, "get_time"))]
    messages = [{"role": "developer", "content": "Use tools."}, {"role": "user", "content": "Rome?"},
                {"role": "assistant", "content": "I look.", "tool_calls": call},
                {"role": "tool", "tool_call_id": "call_1", "content": "sun"}, {"role": "tool", "tool_call_id": "call_2", "content": "noon"}]
    said = asker.responses.create(model="tiny", input=items, **SHORT)
    chat = asker.chat.completions.create(model="tiny", messages=messages, max_tokens=12, seed=5)
    assert said.output_text == chat.choices[0].message.content and said.usage.input_tokens == chat.usage.prompt_tokens
    assert wide.post("/v1/responses/input_tokens", {"input": items}) == (
        200, {"object": "response.input_tokens", "input_tokens": chat.usage.prompt_tokens})


def test_logprobs_are_those_of_the_chat(server, client):
    said = client.responses.create(model="tiny", input="Hi", include=["message.output_text.logprobs"], top_logprobs=2, **SHORT)
    chat = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}], logprobs=True, top_logprobs=2, max_tokens=12, seed=5)
    mine, theirs = said.output[0].content[0].logprobs, chat.choices[0].logprobs.content
    assert [(t.token, t.logprob, len(t.top_logprobs)) for t in mine] == [(t.token, t.logprob, 2) for t in theirs]
    assert not client.responses.create(model="tiny", input="Hi", **SHORT).output[0].content[0].logprobs


def test_parse_gives_an_object(asker):
    said = asker.responses.parse(model="tiny", input="Weather?", text_format=Weather, max_output_tokens=400)
    assert isinstance(said.output_parsed, Weather) and said.status == "completed"
    assert said.text.format.type == "json_schema" and said.completed_at
    any_json = asker.responses.create(model="tiny", input="x", text={"format": {"type": "json_object"}}, temperature=0, **SHORT)
    assert any_json.output_text.lstrip()[0] == "{"


def test_a_request_is_repeated_in_the_answer(asker):
    said = asker.responses.create(
        model="tiny", input="x", metadata={"who": "me"}, temperature=0.5, top_p=0.9, tools=TOOLS, tool_choice="none", user="u",
        parallel_tool_calls=False, truncation="auto", text={"verbosity": "low"}, reasoning={"effort": "low"}, prompt_cache_key="k", **SHORT)
    assert said.metadata == {"who": "me"} and (said.temperature, said.top_p, said.user) == (0.5, 0.9, "u")
    assert [t.name for t in said.tools] == ["get_weather", "get_time"] and said.tool_choice == "none"
    assert said.parallel_tool_calls is False and said.truncation == "auto" and said.text.verbosity == "low"
    assert said.reasoning.effort == "low" and said.prompt_cache_key == "k" and said.max_output_tokens == 12


# ---- functions ----

@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_time"},
                                    {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_time"}]}],
                         ids=["required", "named", "allowed"])
def test_a_call_has_its_schema_and_goes_on(asker, choice):
    first = asker.responses.create(model="tiny", input="Rome?", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    [call] = first.output
    assert call.type == "function_call" and call.status == first.status == "completed" and call.id.startswith("fc_")
    jsonschema.validate(json.loads(call.arguments), CITY)
    assert choice == "required" or call.name == "get_time"
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    kept = asker.responses.create(model="tiny", previous_response_id=first.id, input=[output], **SHORT)
    told = asker.responses.create(model="tiny", input=[{"role": "user", "content": "Rome?"}, call.model_dump(exclude_none=True), output], **SHORT)
    assert kept.output_text == told.output_text and kept.usage.input_tokens == told.usage.input_tokens


@pytest.mark.parametrize("fields", [
    {"input": "Hi", "max_output_tokens": 15}, {"input": "Hi", "max_output_tokens": 15, "include": ["message.output_text.logprobs"]},
    {"input": "Rome?", "tools": TOOLS, "tool_choice": "required"}, {"input": "Rome?", "tools": TOOLS, "tool_choice": "required", "max_output_tokens": 25},
    {"input": "Rome?", "tools": TOOLS, "max_output_tokens": 40}, {"input": "Hi", "max_output_tokens": 1, "ignore_eos": True}],
    ids=["text", "logprobs", "calls", "call-cut-off", "auto", "one-token"])
def test_a_stream_says_the_same(wide, fields):
    for seed in (1, 2):
        body = {"seed": seed, "store": False, **fields}
        _, whole = wide.post(RESPONSES, body)
        got = events(wide, **body)
        assert [d["sequence_number"] for _, d in got] == list(range(len(got)))
        assert all(name == data["type"] for name, data in got)
        names = [name for name, _ in got]
        assert names[:2] == ["response.created", "response.in_progress"]
        assert names[-1] == f"response.{whole['status']}"
        items, made = {}, {}
        for name, data in got:
            i = data.get("output_index")
            if name == "response.output_item.added":
                assert i == len(items) and data["item"]["status"] == "in_progress"
                items[i] = None
            elif name.endswith(".delta"):
                made[i] = made.get(i, "") + data["delta"]
            elif name.endswith("_text.done"):
                assert data["text"] == made.get(i, "")
            elif name.endswith("arguments.done"):
                assert data["arguments"] == made.get(i, "")
            elif name == "response.output_item.done":
                items[i] = data["item"]
        last = got[-1][1]["response"]
        assert last["output"] == list(items.values()) and last["usage"] == {**whole["usage"], "input_tokens_details": last["usage"]["input_tokens_details"]}
        strip = lambda out: [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in out]
        assert strip(last["output"]) == strip(whole["output"])


def test_the_clients_own_stream_accumulates(asker):
    with asker.responses.stream(model="tiny", input="Rome?", tools=TOOLS, tool_choice="required", parallel_tool_calls=False) as stream:
        kinds = {e.type for e in stream}
        said = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds and said.output[0].parsed_arguments["city"] in ("Rome", "Oslo")
    with asker.responses.stream(model="tiny", input="Weather?", text_format=Weather) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Weather)


# ---- what is kept ----

def test_a_response_is_kept_gone_on_from_and_forgotten(server, client):
    first = client.responses.create(model="tiny", input="One", instructions="Only now.", **SHORT)
    second = client.responses.create(model="tiny", input="Two", previous_response_id=first.id, **SHORT)
    told = client.responses.create(model="tiny", store=False, **SHORT, input=[
        {"role": "user", "content": "One"}, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "Two"}])
    assert second.output_text == told.output_text and second.previous_response_id == first.id
    assert client.responses.retrieve(second.id) == second
    items = client.responses.input_items.list(second.id)
    assert texts(items) == [("message", "user", "One"), ("message", "assistant", first.output_text), ("message", "user", "Two")]
    assert items.first_id == items.data[0].id and items.last_id == items.data[-1].id and not items.has_more
    client.responses.delete(first.id)
    for path in (f"/v1/responses/{first.id}", f"/v1/responses/{told.id}", f"/v1/responses/{first.id}/input_items", f"/v1/responses/{second.id}/else"):
        status, answer = server.get(path)
        assert status == 404 and answer["error"]["code"] == "response_not_found"
    assert server.request("DELETE", f"/v1/responses/{first.id}")[0] == 404
    assert refused(server, {"input": "x", "previous_response_id": first.id}, 404)["code"] == "previous_response_not_found"
    assert client.responses.retrieve(second.id) == second


def test_a_streamed_response_is_kept_too(server, client):
    *_, last = client.responses.create(model="tiny", input="Hi", stream=True, **SHORT)
    assert client.responses.retrieve(last.response.id).output == last.response.output


def test_another_key_does_not_see_it(start):
    server = start("--max_responses", 2, keys=("one", "two"))
    one, two = server.client(), server.client(api_key="two")
    said = one.responses.create(model="tiny", input="Hi", **SHORT)
    with pytest.raises(openai.NotFoundError):
        two.responses.retrieve(said.id)
    with pytest.raises(openai.NotFoundError):
        two.responses.create(model="tiny", input="x", previous_response_id=said.id)
    two.responses.create(model="tiny", input="Hi", **SHORT)
    assert one.responses.retrieve(said.id) == said
    two.responses.create(model="tiny", input="Hi", **SHORT)  # the third: the oldest goes
    with pytest.raises(openai.NotFoundError):
        one.responses.retrieve(said.id)


def test_a_server_may_keep_nothing():
    with Server("--max_responses", 0) as server:
        said = server.client().responses.create(model="tiny", input="Hi", **SHORT)
        assert said.store is False and server.get(f"/v1/responses/{said.id}")[0] == 404
        assert refused(server, {"input": "x", "store": True})["param"] == "store"
        assert refused(server, {"input": "x", "previous_response_id": said.id})["code"] == "unsupported"


# ---- limits and rubbish ----

def test_truncation_leaves_out_the_oldest_turns(server, client):
    turns = [{"role": role, "content": f"{i} " + "long " * 30} for i in range(12) for role in ("user", "assistant")]
    turns.append({"role": "user", "content": "Last"})
    assert refused(server, {"input": turns})["code"] == "context_length_exceeded"
    cut = client.responses.create(model="tiny", input=turns, instructions="Stay.", truncation="auto", **SHORT)
    counts = [client.responses.input_tokens.count(model="tiny", input=turns[i:], instructions="Stay.").input_tokens for i in (18, 20, 22, 24)]
    assert cut.usage.input_tokens in counts and cut.usage.input_tokens <= 512 - 12
    assert refused(server, {"input": "long " * 600, "truncation": "auto"})["code"] == "context_length_exceeded"


@pytest.mark.parametrize("body, param", [
    ({}, "input"), ({"input": []}, "input"), ({"input": 3}, "input"), ({"input": ["x"]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"), ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]}, "input[1].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0].image_url"),
    ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}, "input[0].content[0]"),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"), ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"), ({"input": "x", "tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"input": "x", "tools": 1}, "tools"), ({"input": "x", "tool_choice": "required"}, "tool_choice"),
    ({"input": "x", "tool_choice": {"type": "web_search"}}, "tool_choice"), ({"input": "x", "text": 1}, "text"),
    ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format"), ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ({"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "nothing"}}}}, "text.format"),
    ({"input": "x", "include": ["file_search_call.results"]}, "include"), ({"input": "x", "include": 1}, "include"),
    ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"), ({"input": "x", "temperature": 3}, "temperature"),
    ({"input": "x", "instructions": ["x"]}, "instructions"), ({"input": "x", "metadata": {"k": 1}}, "metadata"), ({"input": "x", "truncation": "some"}, "truncation"),
    ({"input": "x", "background": True}, "background"), ({"input": "x", "conversation": "conv_1"}, "conversation"), ({"input": "x", "prompt": {"id": "p"}}, "prompt"),
    ({"input": "x", "store": 1}, "store"), ({"input": "x", "model": "none"}, "model"), ({"input": "x", "stream": "yes"}, "stream")])
def test_what_is_wrong_is_named(server, body, param):
    assert refused(server, body, 404 if param == "model" else 400)["param"] == param


def test_a_long_stream_ends_when_its_client_leaves():
    with Server("--max_answer_kib", 1 << 20, models={"endless": ENDLESS}) as server:
        stream = server.client().responses.create(model="endless", input="x", stream=True, extra_body={"ignore_eos": True})
        for event, _ in zip(stream, range(20)):
            assert event.type.startswith("response.")
        stream.close()
        server.wait_idle()


def test_an_answer_that_is_too_large_fails_with_its_name():
    with Server("--max_answer_kib", 16, models={"endless": ENDLESS}) as server:
        body = {"input": "x", "ignore_eos": True, "seed": 1}
        assert refused(server, body, 400)["code"] == "answer_too_large"
        name, data = events(server, **body)[-1]
        assert name == "response.failed" and data["response"]["status"] == "failed" and data["response"]["error"]["code"] == "server_error"


def test_a_picture_is_seen(start):
    server = start(models={"tiny": TINY, "blip": BLIP["caption"]})
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    body = {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
    chat = server.post(CHAT, body)[1]["choices"][0]["message"]["content"]
    ask = [{"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}]
    said = server.client().responses.create(model="blip", input=ask, max_output_tokens=5)
    assert said.output_text == chat
    bad = [{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]
    assert refused(server, {"model": "blip", "input": bad})["param"].startswith("input[1].content[0]")


def test_many_at_once_are_kept_apart(server, client):
    said = [None] * 8

    def ask(i):
        first = client.responses.create(model="tiny", input=f"Number {i}", max_output_tokens=8, extra_body={"seed": i})
        said[i] = client.responses.create(model="tiny", input="Next", previous_response_id=first.id, max_output_tokens=8)
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(said))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, r in enumerate(said):
        assert texts(client.responses.input_items.list(r.id))[0][2] == f"Number {i}"
