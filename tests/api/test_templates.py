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
