"""The text filter: what it finds in prompts and answers is held back or told, as its list, the option and the key say.

Grammars make the random model say what is looked for."""
import base64
import json
import subprocess

import anthropic
import openai
import pytest

from harness import BLIP, CHAT, DUETTO, PAINTER, PATIENCE_S, TINY, eventually, png

pytestmark = pytest.mark.asan
LIST = """# What this server does not talk about.
[weapons]
blow up
/pipe\\s*bombs?/i

[manners flag]
darn
"""
KEYS = ["alice", "bob text_filter=flag", "carol text_filter=block"]
HELLO = [{"role": "user", "content": "Hello"}]
SAYS = {"grammar": 'root ::= "I would blow up, darn."', "max_tokens": 64}
NICE = {"grammar": 'root ::= "I would blow, darn."', "max_tokens": 64}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("filter") / "words.txt"
    path.write_text(LIST)
    return path


@pytest.fixture(scope="module")
def filtered(start, words):
    return start("--text_filter", words, models={"tiny": TINY, "painter": PAINTER, "vqa": BLIP["vqa"]}, keys=KEYS)


def ask(server, path, body, key="alice"):
    status, _, answer = server.request("POST", path, body, {"Authorization": f"Bearer {key}"})
    return status, json.loads(answer)


def test_an_answer_ends_where_it_says_what_is_listed(filtered):
    status, r = ask(filtered, CHAT, {"messages": HELLO, "n": 2, "logprobs": True, **SAYS})
    assert status == 200
    for choice in r["choices"]:
        assert choice["message"]["content"] == "I would " and choice["finish_reason"] == "content_filter"
        assert choice["content_filter_results"] == {"weapons": {"filtered": True, "detected": True}}
        assert "I would ".startswith("".join(t["token"] for t in choice["logprobs"]["content"]))
    status, r = ask(filtered, "/v1/completions", {"prompt": "Hello", **SAYS})
    assert r["choices"][0]["text"] == "I would " and r["choices"][0]["finish_reason"] == "content_filter"
    assert r["usage"]["completion_tokens"] < 40  # it went no further


def test_nothing_of_it_is_in_a_stream(filtered):
    pieces = list(filtered.client(api_key="alice").chat.completions.create(
        model="tiny", messages=HELLO, stream=True, max_tokens=64, extra_body={"grammar": SAYS["grammar"]}))
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == "I would "
    assert pieces[-1].choices[0].finish_reason == "content_filter"


def test_what_is_flagged_is_only_told(filtered):
    status, r = ask(filtered, CHAT, {"messages": HELLO, **NICE})
    assert status == 200 and r["choices"][0]["message"]["content"] == "I would blow, darn."
    assert r["choices"][0]["finish_reason"] == "stop"
    assert r["choices"][0]["content_filter_results"] == {"manners": {"filtered": False, "detected": True}}
    status, r = ask(filtered, CHAT, {"messages": HELLO, **SAYS}, key="bob")
    assert r["choices"][0]["message"]["content"] == "I would blow up, darn." and r["choices"][0]["finish_reason"] == "stop"
    found = r["choices"][0]["content_filter_results"]
    assert found == {c: {"filtered": False, "detected": True} for c in ("weapons", "manners")}
    status, r = ask(filtered, CHAT, {"messages": HELLO, "grammar": 'root ::= "Fine."'})
    assert "content_filter_results" not in r["choices"][0]


def test_the_other_apis_say_it_in_their_words(filtered):
    client = filtered.client(api_key="carol")
    said = client.responses.create(model="tiny", input="Hello", extra_body={"grammar": SAYS["grammar"]})
    assert said.status == "incomplete" and said.incomplete_details.reason == "content_filter" and said.output_text == "I would "
    events = list(client.responses.create(model="tiny", input="Hello", stream=True, extra_body={"grammar": SAYS["grammar"]}))
    assert events[-1].type == "response.incomplete" and not any("blow" in str(e) for e in events)
    claude = anthropic.Anthropic(base_url=filtered.url.removesuffix("/v1"), api_key="alice", max_retries=0, timeout=PATIENCE_S)
    said = claude.messages.create(model="tiny", max_tokens=64, messages=HELLO, extra_body={"grammar": SAYS["grammar"]})
    assert said.stop_reason == "refusal" and said.content[0].text == "I would "


@pytest.mark.parametrize("path,body,param", [
    (CHAT, {"messages": [{"role": "system", "content": "Blow\n up."}, *HELLO]}, "messages"),
    (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": "PIPEBOMB"}, *HELLO]}, "messages"),
    ("/v1/completions", {"prompt": ["nice", "to blow up"]}, "prompt"),
    ("/v1/responses", {"input": "pipe bombs"}, None),
    ("/v1/messages", {"max_tokens": 4, "messages": [{"role": "user", "content": "blow up"}]}, None),
])
def test_a_prompt_is_held_back(filtered, path, body, param):
    status, r = ask(filtered, path, {"max_tokens": 4, **body} if path != "/v1/responses" else body)
    assert status == 400 and r["error"]["code"] == "content_filter" and "(weapons)" in r["error"]["message"]
    assert param is None or r["error"]["param"] == param
    assert ask(filtered, path, body, key="bob")[0] == 200


def test_token_ids_are_read_as_text(filtered):
    ids = ask(filtered, "/tokenize", {"content": "We blow up."})[1]["tokens"]
    assert ask(filtered, "/v1/completions", {"prompt": ids, "max_tokens": 1})[1]["error"]["code"] == "content_filter"


def test_prompts_for_pictures_are_held_back(filtered):
    body = {"model": "painter", "prompt": "a fox about to blow up", "size": "32x32", "steps": 1}
    status, r = ask(filtered, "/v1/images/generations", body)
    assert status == 400 and r["error"]["code"] == "content_policy_violation" and r["error"]["param"] == "prompt"
    assert ask(filtered, "/v1/images/generations", body, key="bob")[0] == 200
    assert ask(filtered, "/sdapi/v1/txt2img", {"prompt": "blow up", "steps": 1, "width": 32, "height": 32})[0] == 400


def test_questions_about_pictures_are_held_back(filtered):
    picture = "data:image/png;base64," + base64.b64encode(png()).decode()
    status, r = ask(filtered, "/v1/captions", {"model": "vqa", "image": picture, "prompt": "Does it blow up?"})
    assert status == 400 and r["error"]["code"] == "content_filter" and r["error"]["param"] == "prompt"
    parts = [{"type": "text", "text": "A pipe bomb?"}, {"type": "image_url", "image_url": {"url": picture}}]
    status, r = ask(filtered, CHAT, {"model": "vqa", "messages": [{"role": "user", "content": parts}]})
    assert status == 400 and r["error"]["code"] == "content_filter" and r["error"]["param"] == "messages"
    assert ask(filtered, "/v1/captions", {"model": "vqa", "image": picture, "prompt": "Is it red?", "max_tokens": 2})[0] == 200


def test_moderations_are_openais(filtered):
    client = filtered.client(api_key="alice")
    one = client.moderations.create(input="how to blow up a bridge")
    assert one.id.startswith("modr_") and len(one.results) == 1 and one.results[0].flagged
    assert one.results[0].categories.to_dict() == {"weapons": True, "manners": False}
    assert one.results[0].category_scores.to_dict() == {"weapons": 1, "manners": 0}
    more = client.moderations.create(model="omni-moderation-latest", input=["fine", "darn", ""])
    assert [r.flagged for r in more.results] == [False, True, False] and more.model == "omni-moderation-latest"
    parts = client.moderations.create(input=[{"type": "text", "text": "darn"}, {"type": "text", "text": "pipe bomb"}])
    assert len(parts.results) == 1 and all(parts.results[0].categories.to_dict().values())


@pytest.mark.parametrize("value,param", [(None, "input"), ([], "input"), (3, "input"), ([1], "input[0]"), (["a", {"type": "text", "text": "b"}], "input[1]"),
                                         ([{"type": "image_url", "image_url": {"url": "x"}}], "input[0]"), (300 * ["a"], "input")])
def test_rubbish_for_moderations_is_told(filtered, value, param):
    status, r = ask(filtered, "/v1/moderations", {"input": value})
    assert status == 400 and r["error"]["param"] == param


def test_all_that_is_found_is_in_the_log_and_counted(filtered):
    def found():
        return [line for line in list(filtered.lines) if "text_filter" in line and "request=" in line]
    before, n = filtered.metric("duetto:texts_flagged_total"), len(found())
    ask(filtered, CHAT, {"messages": [{"role": "user", "content": "darn"}], **SAYS})
    eventually(lambda: filtered.metric("duetto:texts_flagged_total") == before + 2)
    lines = eventually(lambda: len(found()) >= n + 2 and found()[-2:])
    assert "text=prompt" in lines[0] and "action=flag" in lines[0] and "categories=manners" in lines[0]
    assert "text=answer" in lines[1] and "action=block" in lines[1] and "categories=weapons" in lines[1] and "key=0" in lines[1]
    assert not any("blow" in line for line in filtered.lines)


def test_without_a_list_there_are_no_moderations(server):
    with pytest.raises(openai.APIStatusError) as refused:
        server.client().moderations.create(input="x")
    assert refused.value.status_code == 501


@pytest.mark.parametrize("text,told", [("blow up\n", "line 1: a category"), ("[a]\nx\n/(/\n", "line 3: missing closing parenthesis"), ("", "nothing to look for"),
                                       (None, "No such file")])
def test_a_list_that_is_wrong_ends_the_start(tmp_path, text, told):
    path = tmp_path / "words.txt"
    if text is not None:
        path.write_text(text)
    done = subprocess.run([DUETTO, "serve", "--port", "0", "-m", TINY, "--text_filter", path], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode not in (0, None) and told in done.stderr + done.stdout
