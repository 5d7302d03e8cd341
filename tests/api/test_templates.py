"""Chat templates that requests bring (client_templates)."""
import anthropic
import pytest

from harness import PATIENCE_S

pytestmark = pytest.mark.asan
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def templates(start):
    return start("--client_templates", "true")


def prompt(server, template, messages, **fields):
    status, r = server.post("/apply-template", {"messages": messages, "chat_template": template,
                                                **fields})
    assert status == 200, r
    return r["prompt"]


@pytest.mark.parametrize("absent", [{}, {"content": None}])
def test_a_template_sees_that_an_assistant_said_nothing(templates, absent):
    says = "{% for m in messages %}[{{ 'none' if m.content is none else m.content }}]{% endfor %}"
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    said_nothing = {"role": "assistant", **absent}
    assert prompt(templates, says, HELLO + [said_nothing]) == "[Hello][none]"
    assert prompt(templates, says, HELLO + [said_nothing | {"tool_calls": calls}]) == "[Hello][none]"


def test_a_template_that_cannot_show_none_sees_an_empty_text(templates):
    messages = HELLO + [{"role": "assistant", "content": None}]
    for shows in ("{{ '[' + m.content + ']' }}", "[{{ m.content }}]"):
        template = "{% for m in messages %}" + shows + "{% endfor %}"
        assert prompt(templates, template, messages) == "[Hello][]"


HOSTILE = ("{% set ns = namespace(x=0) %}{% for i in range(99999) %}{% for j in range(99999) %}"
           "{% set ns.x = ns.x + i * j %}{% endfor %}{% endfor %}")


@pytest.mark.parametrize("path", ["/apply-template", "/tokenize", "/v1/chat/completions"])
def test_a_template_that_never_ends_is_refused(templates, path):
    status, r = templates.post(path, {"messages": HELLO, "chat_template": HOSTILE})
    assert status == 413 and "steps" in r["error"]["message"]
    assert templates.request("GET", "/health")[0] == 200


def test_the_longest_conversation_fits_a_request_s_template(templates):
    template = ("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim }}"
                "{% endfor %}")
    text = prompt(templates, template, 512 * [{"role": "user", "content": " a "},
                                              {"role": "assistant", "content": "b"}])
    assert text == 512 * "<|user|>a<|assistant|>b"


def test_what_a_model_thinks_is_told_apart(templates):
    opens = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    body = {"messages": HELLO, "chat_template": opens, "seed": 3, "max_tokens": 24}
    whole = templates.post("/v1/chat/completions", {**body, "reasoning_format": "none"})[1]["choices"][0]["message"]
    assert whole["content"] and "reasoning_content" not in whole
    apart = templates.post("/v1/chat/completions", body)[1]["choices"][0]["message"]
    assert apart["content"] == "" and apart["reasoning_content"] == whole["content"].strip()
    hidden = templates.post("/v1/chat/completions", {**body, "include_reasoning": False})[1]["choices"][0]["message"]
    assert hidden["content"] == "" and "reasoning_content" not in hidden
    made = ["", ""]
    for chunk in templates.client().chat.completions.create(
            model="tiny", messages=HELLO, stream=True, seed=3, max_tokens=24, extra_body={"chat_template": opens}):
        for c in chunk.choices:
            made[0] += getattr(c.delta, "reasoning_content", None) or ""
            made[1] += c.delta.content or ""
    assert made == [apart["reasoning_content"], ""]


def test_a_form_comes_behind_what_a_model_thinks(templates):
    opens = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    closed = opens + "\n</think>\n\n"
    bans = {"messages": HELLO, "guided_choice": ["yes", "no"], "seed": 1, "max_tokens": 12}
    thinks = templates.post("/v1/chat/completions", {**bans, "chat_template": opens})[1]["choices"][0]["message"]
    assert thinks["content"] == "" and thinks["reasoning_content"] not in ("", "yes", "no")
    for template in (closed, "{{ messages[0].content }}"):
        says = templates.post("/v1/chat/completions", {**bans, "chat_template": template})[1]["choices"][0]["message"]
        assert says["content"] in ("yes", "no") and "reasoning_content" not in says


OPENS = "{% for m in messages %}{{ m.content }}{% endfor %}<think>" + 16 * "\n"


@pytest.fixture(scope="module")
def thinker(templates):
    """Fields with which the tiny model answers `u</think>Y`: biases that fall, each token but once."""
    ids = [templates.post("/tokenize", {"content": s})[1]["tokens"][0] for s in "u < / t h in k > Y".split()]
    return {"chat_template": OPENS, "temperature": 0, "max_tokens": 9, "repetition_penalty": 10, "repeat_last_n": 12,
            "logit_bias": {i: 100 - 10 * k for k, i in enumerate(ids)}}


def test_tokens_of_thoughts_are_counted(templates, thinker):
    body = {"messages": HELLO, **thinker}
    status, r = templates.post("/v1/chat/completions", body)
    assert status == 200 and r["choices"][0]["message"] == {"role": "assistant", "content": "Y", "reasoning_content": "u", "refusal": None}
    assert r["usage"]["completion_tokens"] == 9 and r["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8
    r = templates.post("/v1/chat/completions", {**body, "n": 2, "include_reasoning": False})[1]
    assert r["usage"]["completion_tokens_details"]["reasoning_tokens"] == 16
    r = templates.post("/v1/chat/completions", {**body, "reasoning_format": "none"})[1]
    assert r["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    chunks = list(templates.client().chat.completions.create(
        model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}, extra_body=thinker))
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 8


def test_responses_tell_thoughts_as_an_item(templates, thinker):
    fields = {k: v for k, v in thinker.items() if k != "max_tokens"}
    client = templates.client()
    said = client.responses.create(model="tiny", input="Hello", max_output_tokens=9, extra_body=fields)
    thought, message = said.output
    assert thought.type == "reasoning" and thought.content[0].type == "reasoning_text" and thought.content[0].text == "u"
    assert message.type == "message" and said.output_text == "Y" and said.usage.output_tokens_details.reasoning_tokens == 8
    with client.responses.stream(model="tiny", input="Hello", max_output_tokens=9, extra_body=fields) as stream:
        events = list(stream)
    last = events[-1].response
    assert [o.type for o in last.output] == ["reasoning", "message"] and last.output_text == "Y"
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == "u"
    assert [e.output_index for e in events if e.type == "response.output_item.done"] == [0, 1]
    # a conversation goes on behind them, and may bring them
    more = client.responses.create(model="tiny", input="And?", previous_response_id=said.id, max_output_tokens=2)
    again = client.responses.create(
        model="tiny", input=[{"role": "user", "content": "Hello"}, *(o.model_dump(exclude_none=True) for o in said.output),
                             {"role": "user", "content": "And?"}], max_output_tokens=2)
    assert more.usage.input_tokens == again.usage.input_tokens


def test_a_response_of_thoughts_alone_is_incomplete(templates):
    r = templates.post("/v1/responses", {"input": "Hello", "chat_template": OPENS, "max_output_tokens": 6, "seed": 1})[1]
    assert [o["type"] for o in r["output"]] == ["reasoning"] and r["status"] == r["output"][0]["status"] == "incomplete"
    assert r["usage"]["output_tokens_details"]["reasoning_tokens"] == 6


def test_messages_tell_thoughts_as_a_block_to_those_who_ask(templates, thinker):
    claude = anthropic.Anthropic(base_url=templates.url.removesuffix("/v1"), api_key="-", max_retries=0, timeout=PATIENCE_S)
    body = {"model": "tiny", "max_tokens": 9, "messages": HELLO}
    fields = {k: v for k, v in thinker.items() if k != "max_tokens"}
    def ask(**more):
        return claude.messages.create(extra_body=fields, **body, **more).content
    assert [b.type for b in ask()] == [b.type for b in ask(thinking={"type": "disabled"})] == ["text"]
    thought, text = ask(thinking={"type": "enabled", "budget_tokens": 1024})
    assert thought.type == "thinking" and thought.thinking == "u" and text.text == "Y"
    with claude.messages.stream(thinking={"type": "adaptive"}, extra_body=fields, **body) as stream:
        events = list(stream)
        said = stream.get_final_message()
    assert [b.type for b in said.content] == ["thinking", "text"] and said.content[0].thinking == "u" and said.content[1].text == "Y"
    assert "".join(e.thinking for e in events if e.type == "thinking") == "u"
    status, r = templates.post("/v1/messages", {**body, "thinking": True})
    assert status == 400 and r["error"]["param"] == "thinking"
    without = "{{ 'thinks' if enable_thinking is undefined or enable_thinking else 'acts' }}"
    counts = [templates.post("/v1/messages/count_tokens", {**body, "chat_template": without, **t})[1]["input_tokens"]
              for t in ({}, {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}})]
    assert counts[0] == counts[1] > counts[2]
