"""Answers that must have a form: JSON, JSON that a schema allows, one of some texts."""
import datetime
import json
import re
import uuid

import pytest

from harness import CHAT

HELLO = [{"role": "user", "content": "Hello"}]
PERSON = {"type": "object", "required": ["name", "age"], "properties": {
    "name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 7, "maximum": 120},
    "tags": {"type": "array", "items": {"enum": ["a", "bc"]}, "maxItems": 2}}}


def answer(server, **fields):
    status, r = server.post(CHAT, {"messages": HELLO, "max_tokens": 300, **fields})
    assert status == 200, r
    choice = r["choices"][0]
    assert choice["finish_reason"] == "stop"
    return choice["message"]["content"]


def schema(s):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": s}}


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_a_model_that_knows_no_json_writes_what_the_schema_allows(server, temperature):
    for seed in range(8):
        person = json.loads(answer(server, response_format=schema(PERSON), seed=seed, temperature=temperature,
                                   logprobs=seed % 2 == 1))
        assert set(person) <= set(PERSON["properties"]) and {"name", "age"} <= set(person)
        assert isinstance(person["name"], str) and len(person["name"]) <= 8
        assert 7 <= person["age"] <= 120
        assert all(t in ("a", "bc") for t in person.get("tags", []))


@pytest.mark.parametrize("fields, wanted", [
    ({"guided_choice": ["yes", "no", "yellow"]}, ["yes", "no", "yellow"]),
    ({"structured_outputs": {"choice": ["one", "two"]}}, ["one", "two"]),
    ({"guided_json": '{"type": "boolean"}'}, ["true", "false"]),
    ({"json_schema": {"const": "x"}}, ['"x"']),
    ({"structured_outputs": {"json": {"type": "null"}}}, ["null"]),
])
def test_other_servers_names_for_it(server, fields, wanted):
    assert answer(server, **fields) in wanted


def test_each_choice_of_a_stream_has_the_form(client):
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(model="tiny", messages=HELLO, n=3, stream=True, seed=5, max_tokens=300,
                                                response_format=schema(PERSON)):
        for c in chunk.choices:
            texts[c.index] += c.delta.content or ""
    assert len(set(texts)) > 1
    assert all(json.loads(t)["age"] >= 7 for t in texts)


def test_completions_have_it_too_and_the_same_seed_gives_the_same(client):
    made = [client.completions.create(model="tiny", prompt="Hello", seed=3, max_tokens=300,
                                      extra_body={"response_format": schema(PERSON)}) for _ in range(2)]
    assert made[0].choices[0].text == made[1].choices[0].text
    json.loads(made[0].choices[0].text)


def test_an_object_is_enough_for_json_object(server):
    status, r = server.post(CHAT, {"messages": HELLO, "max_tokens": 12, "response_format": {"type": "json_object"}})
    assert status == 200 and r["choices"][0]["message"]["content"].startswith("{")


@pytest.mark.parametrize("bad, word", [
    ({"type": "string", "pattern": "(?=a)"}, "looking around"), ({"$ref": "#/x"}, "$ref"), ({"type": "foo"}, "foo"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "no answer"),
])
def test_a_schema_that_cannot_be_held_to_is_refused(server, bad, word):
    status, r = server.post(CHAT, {"messages": HELLO, "response_format": schema(bad)})
    assert status == 400 and r["error"]["param"] == "response_format" and word in r["error"]["message"]


GBNF = """root ::= "<" word ("," word){1,2} ">"
word ::= [a-c]+ | "\\x41" """


@pytest.mark.parametrize("fields, wanted", [
    ({"guided_regex": "[a-z]{3}-(yes|no)"}, "[a-z]{3}-(yes|no)"),
    ({"structured_outputs": {"regex": "\\d{2}"}}, "\\d{2}"),
    ({"grammar": GBNF}, "<([a-c]+|A)(,([a-c]+|A)){1,2}>"),
    ({"guided_grammar": GBNF}, "<([a-c]+|A)(,([a-c]+|A)){1,2}>"),
    ({"structured_outputs": {"grammar": "root ::= \"é\"{2}"}}, "éé"),
])
def test_regular_expressions_and_grammars(server, fields, wanted):
    for seed in range(4):
        assert re.fullmatch(wanted, answer(server, seed=seed, **fields))


def test_patterns_and_formats_of_strings(server):
    made = json.loads(answer(server, seed=1, response_format=schema({"type": "object", "required": ["id", "on", "tag"], "properties": {
        "id": {"type": "string", "format": "uuid"}, "on": {"type": "string", "format": "date"},
        "tag": {"type": "string", "pattern": "^[A-Z][a-z]*$", "maxLength": 5}}})))
    uuid.UUID(made["id"])
    datetime.date.fromisoformat(made["on"])
    assert re.fullmatch("[A-Z][a-z]{0,4}", made["tag"])


@pytest.mark.parametrize("fields, param, word", [
    ({"guided_regex": "a(?=b)"}, "guided_regex", "looking around"), ({"grammar": "root ::= x"}, "grammar", "x, in line 1"),
    ({"grammar": "root ::= root \"a\""}, "grammar", "left recursion"), ({"guided_regex": 5}, "guided_regex", "string"),
    ({"guided_regex": "a", "grammar": "root ::= \"a\""}, "grammar", "both"),
    ({"guided_regex": "a" * 70000}, "guided_regex", "65536"),
])
def test_a_form_that_cannot_be_read_is_refused_by_name(server, fields, param, word):
    status, r = server.post(CHAT, {"messages": HELLO, **fields})
    assert status in (400, 413) and r["error"]["param"] == param and word in r["error"]["message"]
