"""/v1/chat/completions through the openai client."""
import json

import pytest

pytestmark = pytest.mark.asan
HELLO = [{"role": "user", "content": "Hello there"}]
NO_CONTROL = {str(i): -100 for i in range(3)}  # the tiny model's control tokens have no text


def chat(client, messages=None, **options):
    options = {"model": "tiny", "max_tokens": 12, "seed": 1, **options}
    return client.chat.completions.create(messages=messages or HELLO, **options)


def text_of(client, **options):
    return chat(client, **options).choices[0].message.content


def collect(stream):
    """(chunks, text of each choice, finish_reason of each choice)"""
    chunks, texts, finish = list(stream), {}, {}
    for chunk in chunks:
        for c in chunk.choices:
            texts[c.index] = texts.get(c.index, "") + (c.delta.content or "")
            if c.finish_reason:
                finish[c.index] = c.finish_reason
    return chunks, texts, finish


def test_answer_has_openai_shape(client):
    r = chat(client, extra_body={"ignore_eos": True})
    assert r.id.startswith("chatcmpl-") and r.object == "chat.completion" and r.model == "tiny"
    assert r.created > 1_600_000_000 and r.system_fingerprint.startswith("fp_")
    choice = r.choices[0]
    assert choice.index == 0 and choice.message.role == "assistant"
    assert choice.message.refusal is None and choice.logprobs is None
    assert choice.finish_reason == "length"
    assert r.usage.completion_tokens == 12 and r.usage.prompt_tokens > 5
    assert r.usage.total_tokens == r.usage.prompt_tokens + 12
    assert r.usage.prompt_tokens_details.cached_tokens >= 0


def test_absent_and_empty_model_mean_the_default(server):
    for model in ({}, {"model": ""}, {"model": None}):
        status, body = server.post("/v1/chat/completions",
                                   {"messages": HELLO, "max_tokens": 1, **model})
        assert status == 200 and body["model"] == "tiny"


def test_the_same_seed_gives_the_same_text(client):
    assert text_of(client, seed=7) == text_of(client, seed=7)


def test_different_seeds_give_different_texts(client):
    assert len({text_of(client, seed=s, max_tokens=20) for s in range(5)}) > 1


def test_temperature_zero_needs_no_seed(client):
    texts = {text_of(client, temperature=0, seed=s) for s in range(3)}
    assert len(texts) == 1


def test_four_choices_differ_and_each_is_counted(client):
    r = chat(client, n=4, max_tokens=16, extra_body={"ignore_eos": True})
    assert [c.index for c in r.choices] == [0, 1, 2, 3]
    assert len({c.message.content for c in r.choices}) > 1
    assert r.usage.completion_tokens == 64


def test_a_choice_is_the_same_alone_and_among_four(client):
    four = chat(client, n=4, seed=5).choices[0].message.content
    assert four == chat(client, n=1, seed=5).choices[0].message.content


@pytest.mark.parametrize("max_tokens", [0, 1, 2])
def test_max_tokens_is_kept(client, max_tokens):
    r = chat(client, max_tokens=max_tokens, extra_body={"ignore_eos": True})
    assert r.usage.completion_tokens == max_tokens
    assert r.choices[0].finish_reason == "length"
    if max_tokens == 0:
        assert r.choices[0].message.content == ""


def test_max_completion_tokens_is_the_new_name(client):
    r = client.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=3,
                                       extra_body={"ignore_eos": True})
    assert r.usage.completion_tokens == 3


def test_without_max_tokens_the_context_ends_the_answer(server):
    status, r = server.post("/v1/chat/completions", {"messages": HELLO, "ignore_eos": True})
    assert status == 200 and r["choices"][0]["finish_reason"] == "length"
    assert r["usage"]["total_tokens"] == 512


def test_stream_gives_the_same_text_as_no_stream(client):
    whole = text_of(client, max_tokens=30, seed=3)
    _, texts, finish = collect(chat(client, max_tokens=30, seed=3, stream=True))
    assert texts == {0: whole} and set(finish) == {0}


def test_stream_starts_with_the_role_and_ends_with_the_reason(client):
    chunks, _, _ = collect(chat(client, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert all(c.choices[0].finish_reason is None for c in chunks[:-1])
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert len({c.id for c in chunks}) == 1
    assert {c.object for c in chunks} == {"chat.completion.chunk"}


def test_stream_of_four_choices_is_interleaved_but_whole(client):
    whole = chat(client, n=4, seed=9)
    _, texts, finish = collect(chat(client, n=4, seed=9, stream=True))
    assert texts == {c.index: c.message.content for c in whole.choices}
    assert finish == {c.index: c.finish_reason for c in whole.choices}


def test_usage_chunk_comes_last_when_asked_for(client):
    chunks, _, _ = collect(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens > 0
    assert all(c.usage is None for c in chunks[:-1])


def test_raw_stream_is_sse_and_ends_with_done(server):
    status, headers, body = server.request("POST", "/v1/chat/completions", {
        "messages": HELLO, "max_tokens": 3, "stream": True})
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    frames = body.decode().split("\n\n")
    assert frames[-1] == "" and frames[-2] == "data: [DONE]"
    for frame in frames[:-2]:
        assert frame.startswith(("data: {", ": "))


def test_stop_text_ends_the_answer_and_is_not_in_it(client):
    whole = text_of(client, temperature=0, max_tokens=40, extra_body={"ignore_eos": True})
    stop = whole[len(whole) // 2:][:2]
    assert stop
    r = chat(client, temperature=0, max_tokens=40, stop=[stop], extra_body={"ignore_eos": True})
    assert r.choices[0].finish_reason == "stop"
    assert r.choices[0].message.content == whole[:whole.index(stop)]
    kept = chat(client, temperature=0, max_tokens=40, stop=stop,
                extra_body={"include_stop_str_in_output": True, "ignore_eos": True})
    assert kept.choices[0].message.content == whole[:whole.index(stop)] + stop


def test_logit_bias_bans_and_forces_tokens(server, client):
    _, tokens = server.post("/tokenize", {"content": "z"})
    forced = tokens["tokens"][0]
    text = text_of(client, logit_bias={str(forced): 100}, temperature=0, max_tokens=4,
                   extra_body={"ignore_eos": True})
    assert text == "zzzz"
    text = text_of(client, logit_bias={str(forced): -100}, max_tokens=60,
                   extra_body={"ignore_eos": True})
    assert "z" not in text


def test_logprobs_describe_every_token(client):
    r = chat(client, logprobs=True, top_logprobs=3, temperature=0, extra_body={"ignore_eos": True},
             logit_bias=NO_CONTROL)
    content = r.choices[0].logprobs.content
    assert len(content) == 12
    for entry in content:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
        best = [t.logprob for t in entry.top_logprobs]
        assert best == sorted(best, reverse=True)
    joined = bytes(b for entry in content for b in entry.bytes)
    assert joined.decode(errors="replace") == r.choices[0].message.content


def test_streamed_logprobs_are_the_same(client):
    whole = chat(client, logprobs=True, top_logprobs=2, seed=4).choices[0].logprobs.content
    stream = chat(client, logprobs=True, top_logprobs=2, seed=4, stream=True)
    parts = [e for chunk in stream for c in chunk.choices if c.logprobs
             for e in c.logprobs.content]
    assert [e.token for e in parts] == [e.token for e in whole]
    assert [e.logprob for e in parts] == pytest.approx([e.logprob for e in whole], abs=1e-4)


def test_content_parts_are_joined(server):
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]
    _, joined = server.post("/apply-template", {"messages": [{"role": "user", "content": parts}]})
    _, plain = server.post("/apply-template", {
        "messages": [{"role": "user", "content": "Hello\nthere"}]})
    assert joined == plain


def test_all_roles_are_taken(client):
    r = chat(client, [
        {"role": "system", "content": "a"}, {"role": "developer", "content": "b"},
        {"role": "user", "content": "c", "name": "bob"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "d"},
    ], max_tokens=1)
    assert r.choices[0].finish_reason in ("stop", "length")


def test_tools_are_shown_and_tool_choice_auto_or_none_is_fine(client):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    for choice in ("auto", "none"):
        assert chat(client, tools=tools, tool_choice=choice, max_tokens=1).choices


def test_ignored_fields_are_ignored(client):
    r = chat(client, max_tokens=1, user="me", metadata={"a": "b"}, store=False,
             service_tier="auto", response_format={"type": "text"},
             extra_body={"never_heard_of": 1})
    assert r.choices


def test_continue_final_message_goes_on_without_a_new_turn(server):
    messages = HELLO + [{"role": "assistant", "content": "Once upon"}]
    _, r = server.post("/apply-template", {
        "messages": messages, "continue_final_message": True, "add_generation_prompt": False})
    assert r["prompt"].endswith("<|im_start|>assistant\nOnce upon")


def test_timings_are_added_when_asked_for(server):
    _, r = server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 4,
                                                "timings": True, "ignore_eos": True})
    assert r["timings"]["predicted_n"] == 4 and r["timings"]["prompt_n"] >= 0
    _, r = server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1})
    assert "timings" not in r


def test_a_second_request_finds_its_prompt_in_the_cache(server):
    text = json.dumps({"messages": [{"role": "user", "content": "cache me " * 20}],
                       "max_tokens": 1})
    server.request("POST", "/v1/chat/completions", text)
    second = json.loads(server.request("POST", "/v1/chat/completions", text)[2])["usage"]
    assert second["prompt_tokens_details"]["cached_tokens"] > 0
    off = json.loads(text) | {"cache_prompt": False}
    _, third = server.post("/v1/chat/completions", off)
    assert third["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_penalties_change_the_answer(client):
    plain = text_of(client, temperature=0, max_tokens=60, extra_body={"ignore_eos": True})
    for options in ({"frequency_penalty": 2}, {"presence_penalty": 2},
                    {"extra_body": {"repetition_penalty": 5, "ignore_eos": True}}):
        options.setdefault("extra_body", {"ignore_eos": True})
        assert text_of(client, temperature=0, max_tokens=60, **options) != plain


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 0}, {"min_p": 1}])
def test_filters_down_to_one_token_are_greedy(client, options):
    greedy = text_of(client, temperature=0)
    assert text_of(client, temperature=1, extra_body=options) == greedy


def test_a_prediction_changes_the_speed_alone(server, client):
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "Write it again"}], "max_tokens": 60, "temperature": 0}
    plain = client.chat.completions.create(**ask)
    text = plain.choices[0].message.content
    details = plain.usage.completion_tokens_details
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (0, 0)
    # How many of its tokens are tried depends on what steps cost here and now.
    for content, most, helps in ((text, 60, True), ([{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}], 60, True),
                                 ("Quite another text, of which it says nothing.", 8, False), ("", 0, False)):
        steps = server.metric("duetto:engine_steps_total")
        said = client.chat.completions.create(prediction={"type": "content", "content": content}, **ask)
        steps = server.metric("duetto:engine_steps_total") - steps
        details = said.usage.completion_tokens_details
        assert said.choices[0].message.content == text and said.usage.completion_tokens == 60
        assert helps <= details.accepted_prediction_tokens <= most
        assert helps or (details.rejected_prediction_tokens > 0) == bool(content)
        assert not helps or steps < 60 + 4 - details.accepted_prediction_tokens / 2  # of 60 tokens, and the prompt
    for bad in ("text", {"type": "other", "content": "x"}, {"type": "content"}, {"type": "content", "content": [{"type": "text"}]}):
        status, answer = server.post("/v1/chat/completions", {**ask, "prediction": bad})
        assert status == 400 and answer["error"]["param"] == "prediction"
