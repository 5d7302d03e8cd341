"""The real small model: does it talk sense?"""


def ask(client, question, **options):
    r = client.chat.completions.create(
        model="smollm", messages=[{"role": "user", "content": question}],
        **{"temperature": 0, "max_tokens": 40, **options})
    return r.choices[0].message.content


def test_it_explains_gravity(smollm):
    text = ask(smollm.client(), "What is gravity?").lower()
    assert "gravity" in text and any(word in text for word in ("mass", "force", "matter", "pull", "attract"))


def test_it_ends_its_answer_by_itself(smollm):
    r = smollm.client().chat.completions.create(
        model="smollm", temperature=0, max_tokens=200,
        messages=[{"role": "user", "content": "What is the capital of France? Be short."}])
    assert r.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in r.choices[0].message.content


def test_a_completion_goes_on_with_the_text(smollm):
    r = smollm.client().completions.create(model="smollm", prompt="The capital of France is",
                                           temperature=0, max_tokens=8)
    assert "Paris" in r.choices[0].text


def test_likely_text_scores_better_than_unlikely_text(smollm):
    def score(text):
        lp = smollm.client().completions.create(model="smollm", prompt=text, echo=True, logprobs=0,
                                                max_tokens=0).choices[0].logprobs
        return sum(v for v in lp.token_logprobs if v is not None) / (len(lp.tokens) - 1)

    assert score("The cat sat on the mat.") > score("The mat cat on sat the. the")


def test_a_stream_is_the_same_as_the_whole(smollm):
    client = smollm.client()
    whole = ask(client, "Name three colours.", seed=1, temperature=0.8)
    stream = client.chat.completions.create(
        model="smollm", messages=[{"role": "user", "content": "Name three colours."}], seed=1,
        temperature=0.8, max_tokens=40, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == whole


def test_a_text_that_repeats_is_drafted(smollm):
    before = [smollm.metric(f"vllm:spec_decode_num_{what}_tokens_total") for what in ("draft", "accepted")]
    line = "The lighthouse keeper counts the ships that pass the rocks at night. "
    text = smollm.client().completions.create(model="smollm", prompt=line * 4, temperature=0, max_tokens=60)
    assert line.strip() in text.choices[0].text
    made, right = (smollm.metric(f"vllm:spec_decode_num_{what}_tokens_total") - was
                   for what, was in zip(("draft", "accepted"), before))
    assert 0 < right <= made  # how many depends on what steps cost here
