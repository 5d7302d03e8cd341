"""/v1/completions through the openai client."""
import pytest

pytestmark = pytest.mark.asan


def complete(client, prompt="Once upon a time", **options):
    options = {"model": "tiny", "max_tokens": 8, "seed": 1, **options}
    options["extra_body"] = {"ignore_eos": True, **options.get("extra_body", {})}
    return client.completions.create(prompt=prompt, **options)


def tokens_of(server, text):
    return server.post("/tokenize", {"content": text})[1]["tokens"]


def test_answer_has_openai_shape(client):
    r = complete(client)
    assert r.id.startswith("cmpl-") and r.object == "text_completion"
    assert r.choices[0].finish_reason == "length" and r.choices[0].logprobs is None
    assert r.usage.completion_tokens == 8


def test_max_tokens_defaults_to_sixteen(server):
    _, r = server.post("/v1/completions", {"prompt": "a", "ignore_eos": True})
    assert r["usage"]["completion_tokens"] == 16


def test_all_four_kinds_of_prompt_mean_the_same(server, client):
    ids = tokens_of(server, "Once upon")
    want = complete(client, "Once upon").choices[0].text
    for prompt in (["Once upon"], ids, [ids]):
        assert complete(client, prompt).choices[0].text == want


def test_choices_are_numbered_prompt_by_prompt(client):
    r = complete(client, ["a b", "c d"], n=2, temperature=0, echo=True)
    assert [c.index for c in r.choices] == [0, 1, 2, 3]
    assert [c.text[:3] for c in r.choices] == ["a b", "a b", "c d", "c d"]
    assert r.choices[0].text == r.choices[1].text
    assert r.usage.completion_tokens == 32


def test_a_prompt_in_a_list_is_answered_as_alone(client):
    both = complete(client, ["alpha", "omega"], temperature=0).choices
    assert both[0].text == complete(client, "alpha", temperature=0).choices[0].text
    assert both[1].text == complete(client, "omega", temperature=0).choices[0].text


def test_stream_gives_the_same_text(client):
    whole = complete(client, max_tokens=20).choices[0].text
    chunks = list(complete(client, max_tokens=20, stream=True,
                           stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole
    assert chunks[-1].usage.completion_tokens == 20


def test_echo_puts_the_prompt_in_front(client):
    text = "Once upon a time"
    r = complete(client, text, echo=True)
    assert r.choices[0].text == text + complete(client, text).choices[0].text
    streamed = "".join(c.choices[0].text for c in complete(client, text, echo=True, stream=True))
    assert streamed == r.choices[0].text


def test_echo_of_token_ids_is_their_text(server, client):
    r = complete(client, tokens_of(server, "Once upon"), echo=True, max_tokens=0)
    assert r.choices[0].text == "Once upon"


def test_logprobs_have_the_legacy_format(client):
    r = complete(client, logprobs=3, temperature=0)
    lp = r.choices[0].logprobs
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == 8
    assert lp.text_offset[0] == 0 and lp.text_offset == sorted(lp.text_offset)
    for token, logprob, top in zip(lp.tokens, lp.token_logprobs, lp.top_logprobs):
        assert logprob <= 0 and 1 <= len(top) <= 4
        assert top[token] == max(top.values()) == pytest.approx(logprob, abs=1e-5)


def test_logprobs_zero_gives_the_chosen_token_alone(client):
    lp = complete(client, logprobs=0).choices[0].logprobs
    assert all(list(top) == [token] for token, top in zip(lp.tokens, lp.top_logprobs))


def test_echo_with_logprobs_and_no_tokens_scores_the_prompt(server, client):
    """What lm-eval's loglikelihood asks for."""
    text = "Once upon a time"
    n = len(tokens_of(server, text))
    lp = complete(client, text, echo=True, logprobs=2, max_tokens=0).choices[0].logprobs
    assert len(lp.tokens) == n and "".join(lp.tokens) == text
    assert lp.token_logprobs[0] is None and lp.top_logprobs[0] is None
    assert all(v <= 0 for v in lp.token_logprobs[1:])
    assert [text[a:].startswith(t) for a, t in zip(lp.text_offset, lp.tokens)] == [True] * n


def test_prompt_scores_agree_with_generation_scores(client):
    """A greedy continuation scored as a prompt has the probabilities it was made with."""
    made = complete(client, "abc", temperature=0, logprobs=0, max_tokens=6)
    text = "abc" + made.choices[0].text
    scored = complete(client, text, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    if scored.tokens[-6:] == made.choices[0].logprobs.tokens:  # the text may tokenise otherwise
        assert scored.token_logprobs[-6:] == pytest.approx(
            made.choices[0].logprobs.token_logprobs, abs=0.05)


def test_echo_logprobs_and_generation_join(server, client):
    n = len(tokens_of(server, "Once upon"))
    lp = complete(client, "Once upon", echo=True, logprobs=1, max_tokens=3).choices[0].logprobs
    assert len(lp.tokens) == n + 3


def test_echo_logprobs_do_not_depend_on_the_cache(client):
    first = complete(client, "the same prompt twice " * 8, echo=True, logprobs=1, max_tokens=0)
    again = complete(client, "the same prompt twice " * 8, echo=True, logprobs=1, max_tokens=0)
    a, b = first.choices[0].logprobs, again.choices[0].logprobs
    assert a.tokens == b.tokens and a.token_logprobs == b.token_logprobs


def test_echo_logprobs_of_every_choice(client):
    r = complete(client, "ab cd", n=2, echo=True, logprobs=1, max_tokens=2)
    a, b = (c.logprobs for c in r.choices)
    assert len(a.tokens) == len(b.tokens) and a.token_logprobs[1:-2] == b.token_logprobs[1:-2]


def test_best_of_must_be_n(client):
    assert len(complete(client, n=2, best_of=2).choices) == 2


def test_an_empty_prompt_begins_a_text(client):
    assert complete(client, "").usage.prompt_tokens == 1


def test_stop_in_a_stream(client):
    whole = complete(client, temperature=0, max_tokens=30).choices[0].text
    stop = whole[10:12]
    chunks = list(complete(client, temperature=0, max_tokens=30, stop=stop, stream=True))
    text = "".join(c.choices[0].text for c in chunks)
    assert text == whole[:whole.index(stop)]
    assert chunks[-1].choices[0].finish_reason == "stop"
