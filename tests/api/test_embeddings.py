"""Embeddings by the openai client.  The vectors are those of transformers (tools/make_bert_golden.py wrote them
down), for a tiny random BERT and for all-MiniLM-L6-v2."""
import concurrent.futures
import json
import math

import openai
import pytest

from harness import BERT, MINILM, TINY

GOLDEN = json.loads((BERT / "golden.json").read_text())
TEXTS = GOLDEN["texts"]


@pytest.fixture(scope="module")
def server(start):
    return start("--threads", 1, models={"tiny": TINY, "bert": BERT})


def embed(server, texts, **options):
    return server.client().embeddings.create(model="bert", input=texts, **options)


def vectors(answer):
    return [d.embedding for d in answer.data]


def check(got, expected, bound=1e-3):
    for a, b in zip(got, expected, strict=True):
        top = max(map(abs, b))
        assert max(abs(x - y) for x, y in zip(a, b, strict=True)) <= bound * top


def test_vectors_are_those_of_transformers(server):
    r = embed(server, TEXTS)
    check(vectors(r), GOLDEN["tiny"])
    assert [d.index for d in r.data] == list(range(len(TEXTS)))
    assert r.model == "bert" and r.usage.prompt_tokens == r.usage.total_tokens > len(TEXTS)


def test_floats_and_base64_are_the_same_numbers(server):
    floats = vectors(embed(server, TEXTS[0], encoding_format="float"))[0]
    assert floats == pytest.approx(vectors(embed(server, TEXTS[0]))[0], rel=1e-6)


def test_a_text_has_the_same_bits_alone_among_others_and_under_load(server):
    alone = [vectors(embed(server, t))[0] for t in TEXTS]
    assert vectors(embed(server, TEXTS)) == alone
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda i: vectors(embed(server, TEXTS[i % len(TEXTS):] + TEXTS[:1])), range(24)):
            assert all(v in alone for v in got)


def test_documents_are_ordered_by_the_cosine_of_their_vectors(server):
    query, *rest = TEXTS
    documents = [rest[0], query, *rest[1:], rest[0]]
    at, *others = vectors(embed(server, [query, *documents]))
    cosines = [sum(x * y for x, y in zip(at, v)) for v in others]
    order = sorted(range(len(documents)), key=lambda i: (-round(cosines[i], 9), i))
    status, r = server.post("/v1/rerank", {"model": "bert", "query": query, "documents": [{"text": d} if i % 2 else d for i, d in enumerate(documents)]})
    assert status == 200 and r["model"] == "bert" and r["usage"]["total_tokens"] > 0 and r["id"].startswith("rerank_")
    assert [x["index"] for x in r["results"]] == order and order[0] == 1
    assert [x["document"]["text"] for x in r["results"]] == [documents[i] for i in order]
    assert [x["relevance_score"] for x in r["results"]] == pytest.approx([cosines[i] for i in order], abs=1e-5)
    _, best = server.post("/v1/rerank", {"query": query, "documents": documents, "top_n": 2, "return_documents": False})
    assert best["results"] == [{k: x[k] for k in ("index", "relevance_score")} for x in r["results"][:2]]


@pytest.mark.parametrize("body, param", [
    ({}, "query"), ({"query": "", "documents": ["x"]}, "query"), ({"query": {"text": "x"}, "documents": ["x"]}, "query"), ({"query": "x"}, "documents"),
    ({"query": "x", "documents": []}, "documents"), ({"query": "x", "documents": ["x", ""]}, "documents[1]"), ({"query": "x", "documents": [3]}, "documents[0]"),
    ({"query": "x", "documents": ["x"], "top_n": 0}, "top_n"), ({"query": "x", "documents": ["word " * 4000]}, "documents"),
    ({"query": "x", "documents": ["x"] * 2048}, "documents"), ({"query": "x", "documents": ["x"], "model": "tiny"}, "model")])
def test_a_wrong_ranking_is_named(server, body, param):
    status, r = server.post("/v1/rerank", body)
    assert status == 400 and r["error"]["param"] == param


def test_dimensions_cut_and_scale_again(server):
    whole = vectors(embed(server, TEXTS[0]))[0][:5]
    length = math.sqrt(sum(x * x for x in whole))
    check([vectors(embed(server, TEXTS[0], dimensions=5))[0]], [[x / length for x in whole]], 1e-6)


def test_token_ids_are_texts_too(server):
    vocab = (BERT / "vocab.txt").read_text().split("\n")
    plain = [vocab.index(word) for word in TEXTS[1].split()]
    expected = vectors(embed(server, TEXTS[1]))
    assert vectors(embed(server, plain)) == expected
    assert vectors(embed(server, [[2, *plain, 3]])) == expected


@pytest.mark.parametrize("body", [
    {}, {"input": []}, {"input": ""}, {"input": ["a", ""]}, {"input": 5}, {"input": [1.5]}, {"input": [-1]},
    {"input": [10 ** 9]}, {"input": ["a", 3]}, {"input": [[]]}, {"input": {"a": 1}}, {"input": "the " * 80},
    {"input": ["a"] * 2049}, {"input": "a", "dimensions": 0}, {"input": "a", "dimensions": 25},
    {"input": "a", "encoding_format": "hex"}, {"input": "a", "model": "tiny"}])
def test_what_is_wrong_is_said(server, body):
    status, answer = server.post("/v1/embeddings", body)
    assert status in (400, 413) and answer["error"]["param"]


def test_a_model_that_is_not_there_is_404(server):
    with pytest.raises(openai.NotFoundError):
        server.client().embeddings.create(model="none", input="a")


def test_the_models_list_tells_what_it_gives(server):
    _, model = server.get("/v1/models/bert")
    assert model["meta"]["modalities"] == {"input": ["text"], "output": ["embedding"]}


@pytest.mark.skipif(not MINILM.exists(), reason="make models puts it there")
def test_minilm_gives_what_transformers_gives(start):
    s = start(models={"minilm": MINILM})
    check(vectors(s.client().embeddings.create(model="minilm", input=TEXTS)), GOLDEN["minilm"])
