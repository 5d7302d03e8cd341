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
