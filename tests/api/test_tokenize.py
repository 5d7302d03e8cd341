"""/tokenize, /detokenize and /apply-template."""
import pytest

from harness import BERT, BLIP, PAINTER, Server

pytestmark = pytest.mark.asan
TEXTS = ["", "Hello there", "  two  spaces ", "a\nb\r\n\tc", "héllo wörld", "日本語のテキスト", "🙂🙃 ok",
         "<not a token>", "1234567890", "x" * 1000]


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_round_trip(server, text):
    status, r = server.post("/tokenize", {"content": text})
    assert status == 200 and r["count"] == len(r["tokens"]) and r["max_model_len"] == 512
    status, back = server.post("/detokenize", {"tokens": r["tokens"]})
    assert status == 200 and back == {"content": text, "prompt": text}


def test_pieces_join_to_the_text(server):
    _, r = server.post("/tokenize", {"content": "Grüße 🙂", "with_pieces": True})
    joined = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"])
                      for p in r["tokens"])
    assert joined.decode() == "Grüße 🙂"


def test_special_tokens_are_read_unless_told_otherwise(server):
    _, special = server.post("/tokenize", {"content": "<|im_end|>"})
    _, plain = server.post("/tokenize", {"content": "<|im_end|>", "parse_special": False})
    assert special["tokens"] == [2] and plain["count"] > 1
    assert server.post("/detokenize", {"tokens": [2]})[1]["content"] == "<|im_end|>"


def test_vllm_clients_are_understood(server):
    _, r = server.post("/tokenize", {"model": "tiny", "prompt": "Hello", "return_token_strs": True,
                                     "add_special_tokens": True})
    assert len(r["token_strs"]) == r["count"]


def test_messages_are_tokenised_as_chat_would(server):
    messages = [{"role": "user", "content": "Hello"}]
    _, r = server.post("/tokenize", {"messages": messages})
    _, answer = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
    assert r["count"] == answer["usage"]["prompt_tokens"]


def test_apply_template_shows_the_prompt(server):
    _, r = server.post("/apply-template", {"messages": [{"role": "user", "content": "Hi"}]})
    assert r["prompt"] == ("<|im_start|>system\nYou are tiny<|im_end|>\n"
                           "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    _, r = server.post("/apply-template", {"messages": [{"role": "user", "content": "Hi"}],
                                           "add_generation_prompt": False})
    assert r["prompt"].endswith("Hi<|im_end|>\n")


def test_developer_is_system_where_the_template_knows_no_developer(server):
    _, a = server.post("/apply-template", {"messages": [{"role": "developer", "content": "x"}]})
    _, b = server.post("/apply-template", {"messages": [{"role": "system", "content": "x"}]})
    assert a == b


def test_a_large_answer_arrives_whole(server):
    """More than one block of a send."""
    ids = [3 + i % 200 for i in range(60000)]
    status, r = server.post("/detokenize", {"tokens": ids})
    assert status == 200 and len(r["content"]) > 50000 and r["content"] == r["prompt"]
    status, again = server.post("/detokenize", {"tokens": ids[:30000]})
    assert r["content"].startswith(again["content"][:20000])


def test_models_without_chat_have_tokens_too():
    with Server("--preload", "none", models={"blip": BLIP["caption"], "bert": BERT,
                                             "painter": PAINTER}) as server:
        for model in ("blip", "bert"):
            status, r = server.post("/tokenize", {"model": model, "content": "a cat"})
            assert status == 200 and r["count"] > 0
            status, back = server.post("/detokenize", {"model": model, "tokens": r["tokens"]})
            assert status == 200 and back["content"].startswith("a")
            status, r = server.post("/tokenize", {"model": model, "messages": [
                {"role": "user", "content": "a"}]})
            assert status == 400 and "no chat" in r["error"]["message"]
        framed = server.post("/tokenize", {"model": "bert", "prompt": "a cat"})[1]["tokens"]
        bare = server.post("/tokenize", {"model": "bert", "content": "a cat"})[1]["tokens"]
        assert framed[1:-1] == bare and framed[0] != framed[-1]
        usage = server.post("/v1/embeddings", {"model": "bert", "input": "a cat"})[1]["usage"]
        assert usage["prompt_tokens"] == len(framed)
        status, r = server.post("/tokenize", {"model": "painter", "content": "a cat"})
        assert status == 400 and "makes images" in r["error"]["message"]
