"""Functions that a model may call: what the request may say, what the answer has, through the openai client.

The models are random, so what makes a call one is the grammar alone."""
import json

import jsonschema
import openai
import pytest

from harness import CHAT, ROOT, wide_model

TEMPLATES = {"generic": None, "hermes": "qwen25", "hermes2": "hermes2", "mistral": "mistral3", "granite": "granite3", "llama": "llama32"}
ASK = [{"role": "user", "content": "What is the weather in Rome?"}]
WEATHER = {"type": "object", "additionalProperties": False, "required": ["city", "unit"], "properties": {
    "city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "fahrenheit"]},
    "days": {"type": "integer", "minimum": 1, "maximum": 7},
    "near": {"type": "array", "maxItems": 2, "items": {"type": "object", "required": ["lat"], "properties": {
        "lat": {"type": "number", "minimum": -90, "maximum": 90}}}}}}
TIME = {"type": "object", "required": ["zone"], "properties": {"zone": {"type": "string", "pattern": "^[A-Z]{3}$"}}}
SCHEMAS = {"get_weather": WEATHER, "get-time": TIME, "stop": None}


def tool(name, **more):
    schema = SCHEMAS[name]
    return {"type": "function", "function": {"name": name, "description": "It does \"x\".", **({"parameters": schema} if schema else {}), **more}}


TOOLS = [tool(name) for name in SCHEMAS]


@pytest.fixture(scope="module")
def tools(start, tmp_path_factory):
    """The tiny model with room for the prompts of large templates."""
    return start("--client_templates", "true", models={"tiny": wide_model(tmp_path_factory.mktemp("wide"))})


@pytest.fixture(scope="module")
def talk(tools):
    client = tools.client()

    def make(template=None, messages=ASK, **fields):
        extra = {"chat_template": (ROOT / f"tests/fixtures/templates/{template}.jinja").read_text()} if template else {}
        return client.chat.completions.create(model="tiny", messages=messages, extra_body=extra, **{
            "tools": TOOLS, "max_tokens": 400, "temperature": 1, **fields})
    return make


def check(call):
    arguments = json.loads(call.function.arguments)
    assert call.type == "function" and isinstance(arguments, dict)
    if SCHEMAS[call.function.name]:
        jsonschema.validate(arguments, SCHEMAS[call.function.name])


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"])
def test_a_forced_call_always_has_its_schema(talk, template, choice):
    for seed in range(4):
        answer = talk(template, tool_choice=choice, parallel_tool_calls=False, seed=seed, logprobs=seed == 1).choices[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        [call] = answer.message.tool_calls
        check(call)
        assert choice == "required" or call.function.name == "get_weather"
        assert len(call.id) == 9 and call.id.isalnum() if template == "mistral3" else call.id.startswith("call_")


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_stream_says_the_same(talk, template):
    for seed in (1, 2):
        fields = {"tool_choice": "required", "seed": seed, "n": 2, "max_tokens": 300}
        whole = talk(template, **fields)
        made = {}
        for chunk in talk(template, stream=True, **fields):
            for c in chunk.choices:
                text, calls, ends = made.setdefault(c.index, (["", ""], [], []))
                text[0] += c.delta.content or ""
                for d in c.delta.tool_calls or []:
                    if d.index == len(calls):
                        assert d.id and d.function.name and d.function.arguments == ""
                        calls.append([d.id, d.function.name, ""])
                    else:
                        assert d.index == len(calls) - 1 and d.id is None and d.function.name is None
                    calls[d.index][2] += d.function.arguments
                ends += [c.finish_reason] if c.finish_reason else []
        for c in whole.choices:
            text, calls, ends = made[c.index]
            assert text[0] == (c.message.content or "") and ends == [c.finish_reason]
            assert [x[1:] for x in calls] == [[t.function.name, t.function.arguments] for t in c.message.tool_calls]
            assert len({x[0] for x in calls}) == len(calls)


def test_the_client_s_own_helper_accumulates_a_stream(tools):
    with tools.client().chat.completions.stream(model="tiny", messages=ASK, tools=TOOLS, tool_choice="required", seed=3,
                                                max_tokens=400, parallel_tool_calls=False) as stream:
        for _ in stream:
            pass
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    check(call)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_auto_says_what_it_likes(talk, template):
    answer = talk(template, seed=1, max_tokens=30, messages=[*ASK]).choices[0]
    assert answer.message.content and not answer.message.tool_calls and answer.finish_reason == "length"
    none = talk(template, seed=1, max_tokens=30, tool_choice="none").choices[0]
    assert none.message.content and not none.message.tool_calls


@pytest.mark.parametrize("template", [None, "qwen25", "llama32"])
def test_auto_calls_when_the_model_begins_to(talk, template):
    # JSON or a call: a random model begins either, sooner or later
    fields = {"messages": ASK, "temperature": 1.0, "max_tokens": 300, "response_format": {"type": "json_object"}}
    seen = set()
    for seed in range(60):
        if True in seen and seed > 4:
            break
        answer = talk(template, seed=seed, **fields).choices[0]
        seen.add(bool(answer.message.tool_calls))
        for call in answer.message.tool_calls or []:
            if answer.finish_reason == "tool_calls":
                check(call)
    assert True in seen


def test_several_calls_in_one_answer(talk):
    counts = {len(talk(tool_choice="required", seed=seed, max_tokens=600, tools=[tool("stop")]).choices[0].message.tool_calls)
              for seed in range(10)}
    assert max(counts) > 1


def test_a_conversation_goes_on_after_a_call(talk, tools):
    call = {"id": "call_abcdefghijk", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\", \"unit\": \"celsius\"}"}}
    history = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]},
               {"role": "tool", "tool_call_id": "call_abcdefghijk", "content": "22 degrees"}]
    for template in ("qwen25", "mistral3", "llama32", None):
        extra = {"chat_template": (ROOT / f"tests/fixtures/templates/{template}.jinja").read_text()} if template else {}
        status, r = tools.post("/apply-template", {"messages": history, "tools": TOOLS, **extra})
        assert status == 200, r
        assert "Rome" in r["prompt"] and "22 degrees" in r["prompt"] and "get-time" in r["prompt"]
        assert template != "mistral3" or '"cdefghijk"' in r["prompt"]
        assert talk(template, messages=history, max_tokens=4).choices


def test_a_template_without_tools_or_a_system_is_told_in_words(tools):
    gemma = (ROOT / "tests/fixtures/templates/gemma.jinja").read_text()
    status, r = tools.post("/apply-template", {"messages": ASK, "tools": TOOLS, "chat_template": gemma})
    assert status == 200 and "<tool_call>" in r["prompt"] and "get_weather" in r["prompt"]
    assert r["prompt"].index("get_weather") < r["prompt"].index("Rome")


def test_only_allowed_tools_are_called(talk):
    only = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "get-time"}}]}}
    for seed in range(3):
        assert {c.function.name for c in talk(tool_choice=only, seed=seed).choices[0].message.tool_calls} == {"get-time"}


ODD = {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 3}}, "required": ["n"]}


def test_values_of_another_type_than_their_enum_says_are_kept_unless_strict(talk):
    odd = {"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "required": ["n"], "properties": {"n": {"type": "string", "enum": [1, 2]}}}}}
    said = talk(tools=[odd], tool_choice="required").choices[0].message.tool_calls[0]
    assert json.loads(said.function.arguments)["n"] in (1, 2)
    odd["function"]["strict"] = True
    with pytest.raises(openai.BadRequestError):
        talk(tools=[odd], tool_choice="required")


def test_a_schema_with_unknown_words_is_held_to_without_them_unless_strict(talk):
    odd = {"type": "function", "function": {"name": "odd", "parameters": ODD}}
    [call] = talk(tools=[odd], tool_choice="required", parallel_tool_calls=False).choices[0].message.tool_calls
    assert isinstance(json.loads(call.function.arguments)["n"], int)
    odd["function"]["strict"] = True
    with pytest.raises(openai.BadRequestError, match="multipleOf") as e:
        talk(tools=[odd], tool_choice="required")
    assert e.value.param == "tools[0].function.parameters"


@pytest.mark.parametrize("fields, param", [
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]}, "tools[0].function.parameters"),
    ({"tools": 129 * [TOOLS[0]]}, "tools"),
    ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls"),
])
def test_wrong_tools_are_refused_by_name(tools, fields, param):
    status, r = tools.post(CHAT, {"messages": ASK, **fields})
    assert status == 400 and r["error"]["param"] == param
