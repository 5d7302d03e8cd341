"""Pictures to text by the openai client and by /v1/captions.  The models are tiny ones of random weights; what
they say is what transformers says (tools/make_blip_golden.py wrote it down)."""
import base64
import concurrent.futures
import io
import json
import struct

import openai
import PIL.Image
import pytest

from harness import BLIP, CHAT, TINY

CAPTIONS = "/v1/captions"


def golden(kind, name):
    """A list of the golden.safetensors."""
    data = (BLIP[kind] / "golden.safetensors").read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    t = json.loads(data[8:8 + n])[name]
    raw = data[8 + n:][slice(*t["data_offsets"])]
    return [x[0] for x in struct.iter_unpack({"I32": "<i", "F32": "<f"}[t["dtype"]], raw)]


def words(kind, name):
    """The text of those tokens, up to the end."""
    vocab = (BLIP[kind] / "vocab.txt").read_text().split("\n")
    text = ""
    for i in golden(kind, name):
        if i == 3:
            break
        token = vocab[i]
        text += token[2:] if token.startswith("##") else token if token in ".?!," else " " + token
    return text[1:] if text.startswith(" ") else text


def data_url(kind="caption"):
    png = (BLIP[kind] / "picture.png").read_bytes()
    return "data:image/png;base64," + base64.b64encode(png).decode()


def saw(text=None, url=None):
    parts = [{"type": "image_url", "image_url": {"url": url or data_url()}}]
    if text is not None:
        parts.append({"type": "text", "text": text})
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module")
def server(start):
    return start("--threads", 1, models={"tiny": TINY, "caption": BLIP["caption"],
                                         "vqa": BLIP["vqa"], "match": BLIP["match"]})


def chat(server, messages, **options):
    return server.client().chat.completions.create(messages=messages, max_tokens=12, **options)


def test_chat_with_a_picture_captions_it(server):
    r = chat(server, saw(), model="caption")
    assert r.choices[0].message.content == words("caption", "greedy")
    assert r.choices[0].finish_reason == "stop" and r.model == "caption"
    assert r.usage.prompt_tokens == 1 and r.usage.completion_tokens == len(golden("caption", "greedy"))


def test_the_text_is_what_the_caption_begins_with(server):
    r = chat(server, saw("a picture of"), model="caption")
    assert r.choices[0].message.content == words("caption", "prompt_greedy")
    assert r.choices[0].finish_reason == "length"


def test_a_vqa_model_answers_the_question(server):
    r = chat(server, saw("What is under the tree?"), model="vqa")
    assert r.choices[0].message.content == words("vqa", "greedy")
    assert r.usage.prompt_tokens == 1 + len(golden("vqa", "ids"))


def test_a_later_question_is_about_the_picture_before(server):
    messages = saw("no?") + [{"role": "assistant", "content": "yes"},
                             {"role": "user", "content": "what is under the tree?"}]
    assert chat(server, messages, model="vqa").choices[0].message.content == words("vqa", "greedy")


def test_a_picture_without_a_model_goes_to_the_first_that_sees(server):
    status, body = server.post(CHAT, {"messages": saw(), "max_tokens": 12})
    assert status == 200 and body["model"] == "caption"
    assert body["choices"][0]["message"]["content"] == words("caption", "greedy")
    status, body = server.post(CHAT, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    assert status == 200 and body["model"] == "tiny"


def test_streams_and_logprobs(server):
    text, reason = "", None
    for chunk in chat(server, saw("a picture of"), model="caption", stream=True):
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    assert (text, reason) == (words("caption", "prompt_greedy"), "length")
    r = chat(server, saw(), model="caption", logprobs=True, top_logprobs=2)
    content = r.choices[0].logprobs.content
    assert len(content) == len(golden("caption", "greedy"))
    assert all(t.logprob == t.top_logprobs[0].logprob <= 0 for t in content)


def test_choices_are_sampled_with_a_seed(server):
    def sample(n, seed):
        r = chat(server, saw(), model="caption", n=n, temperature=1.5, seed=seed)
        return [c.message.content for c in r.choices]
    five = sample(5, 7)
    assert len(set(five)) > 1 and sample(2, 7) == five[:2]


def test_many_pictures_at_once_give_the_same_texts(server):
    """Each alone or beside others of other models: the same words."""
    def one(i):
        if i % 3 == 0:
            return chat(server, saw(), model="caption").choices[0].message.content == words("caption", "greedy")
        if i % 3 == 1:
            r = chat(server, saw("what is under the tree?"), model="vqa")
            return r.choices[0].message.content == words("vqa", "greedy")
        return "choices" in server.post(CHAT, {"model": "tiny", "max_tokens": 8, "messages": [
            {"role": "user", "content": "hello"}]})[1]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert all(pool.map(one, range(36)))
    server.wait_idle()
    server.wait_metric("duetto:images_held_bytes", 0)


def test_captions_route(server):
    status, r = server.post(CAPTIONS, {"image": data_url(), "max_tokens": 12})
    assert status == 200 and r["object"] == "caption" and r["model"] == "caption"
    assert r["captions"] == [{"index": 0, "text": words("caption", "greedy"), "finish_reason": "stop"}]
    plain = data_url().split(",")[1]
    for image in (plain, {"b64_json": plain}, {"image_url": {"url": data_url()}}, [data_url()]):
        status, again = server.post(CAPTIONS, {"image": image, "max_tokens": 12, "mode": "caption"})
        assert status == 200 and again["captions"] == r["captions"]
    status, r = server.post(CAPTIONS, {"image": plain, "prompt": "what is under the tree?",
                                       "mode": "vqa", "max_tokens": 12})
    assert status == 200 and r["captions"][0]["text"] == words("vqa", "greedy")
    status, r = server.post(CAPTIONS, {"image": plain, "n": 3, "temperature": 1, "seed": 1})
    assert [c["index"] for c in r["captions"]] == [0, 1, 2]


BEAMS = ((2, 1), (3, 1), (5, 1), (4, 0.5), (3, 2), (3, -1))


@pytest.mark.parametrize("kind, text, prefix", [("caption", "", ""), ("caption", "a picture of", "prompt_"),
                                                ("vqa", "what is under the tree?", "")])
def test_beam_search_as_transformers(server, kind, text, prefix):
    for n, penalty in BEAMS:
        name = f"{prefix}beams_{n}_{penalty:g}"
        status, r = server.post(CAPTIONS, {"image": data_url(), "prompt": text, "model": kind,
                                           "num_beams": n, "length_penalty": penalty, "max_tokens": 12})
        assert status == 200, r
        assert r["captions"][0]["text"] == words(kind, name), name
        want = golden(kind, name)
        assert r["captions"][0]["finish_reason"] == ("stop" if 3 in want else "length")
        assert r["usage"]["completion_tokens"] == len(want)


def test_match(server):
    status, r = server.post(CAPTIONS, {"image": data_url(), "mode": "itm",
                                       "prompt": "two dogs on a red car"})
    probability, cosine = golden("match", "scores")
    assert status == 200 and r["object"] == "caption.match" and "captions" not in r
    assert r["match"] == pytest.approx(probability, rel=1e-3)
    assert r["similarity"] == pytest.approx(cosine, rel=1e-3)
    assert r["usage"]["completion_tokens"] == 0


def refused(server, body, path=CAPTIONS, status=400):
    got, r = server.post(path, body)
    assert got == status, r
    return r["error"]


def test_wrong_requests(server):
    url = data_url()
    for where in ("http://example.com/a.png", "https://127.0.0.1/a.png"):
        e = refused(server, {"image": where})
        assert "fetches nothing" in e["message"] and e["param"] == "image"
        e = refused(server, {"model": "caption", "messages": saw(url=where)}, CHAT)
        assert "fetches nothing" in e["message"] and e["param"] == "messages[0].content[0].image_url"
    assert refused(server, {})["param"] == "image"
    assert refused(server, {"image": "!"})["param"] == "image"
    assert refused(server, {"image": base64.b64encode(b"GIF89a").decode()})["param"] == "image"
    assert refused(server, {"image": url[:-4000]})["param"] == "image"
    assert refused(server, {"image": url, "mode": "vqa"})["param"] == "prompt"
    assert refused(server, {"image": url, "mode": "vqa", "model": "caption"})["param"] == "mode"
    assert refused(server, {"image": url, "mode": "poem"})["param"] == "mode"
    assert refused(server, {"image": url, "model": "tiny"})["param"] == "model"
    assert refused(server, {"image": url, "mode": "itm", "prompt": "a", "n": 2})["param"] == "n"
    assert refused(server, {"image": url, "num_beams": 3, "n": 2})["param"] == "num_beams"
    assert refused(server, {"image": url, "num_beams": 3, "temperature": 1})["param"] == "num_beams"
    assert refused(server, {"image": url, "prompt": "dog " * 100})["code"] == "context_length_exceeded"
    assert refused(server, {"image": url, "mode": "vqa", "prompt": "dog " * 100})["code"] == \
        "context_length_exceeded"
    words_only = [{"role": "user", "content": "hi"}]
    assert "picture" in refused(server, {"model": "caption", "messages": words_only}, CHAT)["message"]
    two = [{"role": "user", "content": saw()[0]["content"] * 2}]
    assert "one picture" in refused(server, {"model": "caption", "messages": two}, CHAT)["message"]
    assert refused(server, {"model": "match", "messages": saw("a")}, CHAT)["param"] == "model"
    assert "only text" in refused(server, {"model": "tiny", "messages": saw()}, CHAT)["message"]
    with pytest.raises(openai.BadRequestError):
        chat(server, saw(), model="caption", tools=[{"type": "function", "function": {"name": "f"}}])


def test_bodies_are_larger_where_a_model_sees(server, start):
    """A picture of more bytes than other requests may have."""
    out = io.BytesIO()
    PIL.Image.effect_noise((1200, 1200), 90).convert("RGB").save(out, "PNG", compress_level=0)
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    assert len(url) > 2 << 20
    r = chat(server, saw(url=url), model="caption")
    assert r.choices[0].finish_reason in ("stop", "length")
    assert refused(start(), {"messages": saw(url=url)}, CHAT, 413)
    out = io.BytesIO()
    PIL.Image.new("1", (20000, 2000)).save(out, "PNG")
    bomb = base64.b64encode(out.getvalue()).decode()
    assert "pixels" in refused(server, {"image": bomb})["message"]


def test_models_say_that_they_see(server):
    models = {m["id"]: m for m in server.get("/v1/models")[1]["data"]}
    assert models["caption"]["meta"]["modalities"] == {"input": ["text", "image"], "output": ["text"]}
    assert models["vqa"]["meta"]["arch"] == "blip"
