"""Chat templates that requests bring (client_templates)."""
import pytest

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


def test_other_apis_leave_out_what_a_model_thinks(templates):
    opens = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    status, r = templates.post("/v1/responses", {"input": "Hello", "chat_template": opens, "max_output_tokens": 12, "seed": 1})
    assert status == 200 and r["output"][0]["content"][0]["text"] == "", r
