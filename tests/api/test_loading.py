"""Models that come when they are asked for and go when others need their memory."""
import base64
import concurrent.futures
import shutil
import subprocess
import time

import pytest

from harness import (BERT, BLIP, CHAT, DUETTO, ENDLESS, FOREVER, PAINTER, PATIENCE_S, ROOT, RUNNING,
                     TINY, WAITING, Server, chat, close, eventually, png, wide_model)

pytestmark = pytest.mark.asan
IMAGES, EMBED = "/v1/images/generations", "/v1/embeddings"
ALL = {"tiny": TINY, "painter": PAINTER, "bert": BERT, "blip": BLIP["caption"]}
PICTURE = {"model": "painter", "prompt": "a cat", "size": "64x64", "steps": 2}
# 21 MiB and 7 MiB: with 24 MiB for weights there is room for one of them.
SD, EMOJI_BLIP = ROOT / "models/emoji-sd", ROOT / "models/emoji-blip"
LARGE = {"tiny": TINY, "sd": SD, "blip": EMOJI_BLIP}
SMALL = ("--weights_mib", 24, "--preload", "none")
DRAW = {"model": "sd", "prompt": "apple", "size": "32x32", "steps": 1, "seed": 1}
CAPTION = {"model": "blip", "max_tokens": 3,
           "image": "data:image/png;base64," + base64.b64encode(png()).decode()}


def states(server):
    status, body = server.get("/v1/models")
    assert status == 200
    return {m["id"]: m["status"]["value"] for m in body["data"]}


def loads(server, name):
    text = server.request("GET", "/metrics")[2].decode()
    return float(text.split(f'duetto:model_loads_total{{model_name="{name}"}} ')[1].split()[0])


def test_the_chat_model_is_there_at_start_and_others_come_when_asked_for():
    with Server(models={"painter": PAINTER, "bert": BERT, "tiny": TINY}) as server:
        assert states(server) == {"painter": "unloaded", "bert": "unloaded", "tiny": "loaded"}
        assert server.metric("duetto:models_loaded") == 1
        assert server.post(EMBED, {"input": "a"})[0] == 200
        assert states(server) == {"painter": "unloaded", "bert": "loaded", "tiny": "loaded"}
        assert server.post(IMAGES, PICTURE)[0] == 200
        assert set(states(server).values()) == {"loaded"}
        sizes = {m["id"]: m["meta"]["size"] for m in server.get("/v1/models")[1]["data"]}
        assert server.metric("duetto:weight_bytes") == sum(sizes.values())


def test_all_or_none_may_be_loaded_at_start():
    with Server("--preload", "all", models=ALL) as server:
        assert set(states(server).values()) == {"loaded"}
    with Server("--preload", "none", models=ALL) as server:
        assert set(states(server).values()) == {"unloaded"}
        assert server.get("/health")[0] == 200
        assert server.post(CHAT, chat(max_tokens=2))[0] == 200


def test_a_request_is_checked_before_its_model_is_loaded():
    with Server("--preload", "none", models=ALL) as server:
        status, body = server.post(IMAGES, {**PICTURE, "size": "63x64"})
        assert status == 400 and body["error"]["param"] == "size"
        assert server.post("/tokenize", {"prompt": "hello"})[0] == 200
        assert server.post(EMBED, {"input": []})[0] == 400
        assert set(states(server).values()) == {"unloaded"}


def test_the_longest_unused_goes_when_there_is_no_room():
    with Server(*SMALL, models=LARGE) as server:
        first = server.post(IMAGES, DRAW)[1]["data"]
        assert server.post(CHAT, chat(max_tokens=2))[0] == 200
        assert states(server) == {"sd": "loaded", "tiny": "loaded", "blip": "unloaded"}
        for _ in range(2):
            assert server.post("/v1/captions", CAPTION)[0] == 200
            assert states(server) == {"sd": "unloaded", "tiny": "loaded", "blip": "loaded"}
            assert server.post(IMAGES, DRAW)[1]["data"] == first
            assert states(server) == {"sd": "loaded", "tiny": "loaded", "blip": "unloaded"}
            assert server.metric("duetto:weight_bytes") < 24 << 20
        assert loads(server, "sd") == 3 and loads(server, "tiny") == 1


def test_many_requests_for_all_models_are_all_answered():
    asked = [(IMAGES, DRAW), ("/v1/captions", CAPTION), (CHAT, chat(max_tokens=3))] * 4
    with Server(*SMALL, models=LARGE) as server:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda a: server.post(*a)[0], asked))
        assert answers == [200] * len(asked)


def test_a_model_that_never_fits_is_refused_and_the_others_go_on():
    with Server("--weights_mib", 8, models=LARGE) as server:
        status, body = server.post(IMAGES, DRAW)
        assert status == 400 and body["error"]["code"] == "memory_exceeded"
        assert '"sd" needs 21 MiB' in body["error"]["message"]
        assert server.post(CHAT, chat(max_tokens=2))[0] == 200
        assert states(server) == {"sd": "unloaded", "tiny": "loaded", "blip": "unloaded"}


def test_a_default_model_that_does_not_fit_ends_the_start():
    done = subprocess.run([DUETTO, "serve", "--port", "0", "--weights_mib", "8", "-m", f"sd={SD}"],
                          capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "its weights need 21 MiB, the budget is 8 MiB" in done.stderr


def test_a_file_that_is_gone_fails_its_requests_alone(tmp_path):
    path = tmp_path / "copy.gguf"
    path.write_bytes(TINY.read_bytes())
    with Server(models={"tiny": TINY, "copy": path}) as server:
        path.rename(tmp_path / "away.gguf")
        status, body = server.post(CHAT, chat(model="copy", max_tokens=2))
        assert status == 503 and body["error"]["code"] == "model_load_failed"
        assert server.post(CHAT, chat(model="tiny", max_tokens=2))[0] == 200
        (tmp_path / "away.gguf").rename(path)
        assert server.post(CHAT, chat(model="copy", max_tokens=2))[0] == 200


@pytest.mark.parametrize("other", ["endless-llama", "llama_f32", "wide"])
def test_a_file_that_was_replaced_fails_its_requests_alone(tmp_path, other):
    """The prompt was read with the vocabulary of the first, and the cache's pages have its shape."""
    path = tmp_path / "copy.gguf"
    shutil.copy(TINY, path)
    with Server(models={"tiny": TINY, "copy": path}) as server:
        shutil.copy(wide_model(tmp_path) if other == "wide" else ROOT / f"tests/fixtures/{other}.gguf", path)
        status, body = server.post(CHAT, chat(model="copy", max_tokens=2))
        assert status == 503 and body["error"]["code"] == "model_load_failed"
        assert "another one than when the server was started" in body["error"]["message"]
        assert server.post(CHAT, chat(model="tiny", max_tokens=2))[0] == 200
        shutil.copy(TINY, path)
        assert server.post(CHAT, chat(model="copy", max_tokens=2))[0] == 200


def test_a_directory_that_was_replaced_fails_its_requests_alone(tmp_path):
    path = tmp_path / "sd"
    shutil.copytree(PAINTER, path)
    with Server(models={"tiny": TINY, "sd": path}) as server:
        shutil.rmtree(path)
        shutil.copytree(SD, path)
        status, body = server.post(IMAGES, DRAW)
        assert status == 503 and "another one than when the server was started" in body["error"]["message"]
        assert server.post(CHAT, chat(max_tokens=2))[0] == 200


def test_requests_that_wait_for_a_load_can_leave():
    """Pictures without end hold the memory that the captions need."""
    with Server(*SMALL, models=LARGE) as server:
        busy = server.send(IMAGES, {**DRAW, "steps": 500, "size": "256x256"})
        eventually(lambda: server.metric("duetto:images_running") == 1)
        waiting = [server.send("/v1/captions", CAPTION) for _ in range(3)]
        server.wait_metric(WAITING, 3)
        for s in waiting:
            close(s)
        server.wait_metric(WAITING, 0)
        assert states(server)["sd"] == "loaded"
        close(busy)
        eventually(lambda: server.metric("duetto:images_running") == 0)
        assert server.post("/v1/captions", CAPTION)[0] == 200


def test_models_that_do_not_fit_together_take_turns():
    """Both are asked for all the time."""
    end = time.monotonic() + 6
    with Server(*SMALL, models=LARGE) as server:

        def ask(what):
            n = 0
            while n == 0 or time.monotonic() < end:
                assert server.post(*what)[0] == 200
                n += 1
            return n

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            counts = list(pool.map(ask, [(IMAGES, DRAW), ("/v1/captions", CAPTION)] * 2))
        assert min(counts) >= 2, counts


def test_chat_goes_on_while_a_model_is_loaded():
    with Server("--cache_mib", 4096, models={"endless": ENDLESS, **LARGE}) as server:
        stream = server.send(CHAT, chat(model="endless", stream=True, **FOREVER))
        server.wait_metric(RUNNING, 1)
        assert server.post(IMAGES, DRAW)[0] == 200
        assert server.metric(RUNNING) == 1 and stream.recv(1000)
        close(stream)
        server.wait_metric(RUNNING, 0)


def test_a_small_cache_makes_the_context_smaller_and_says_so(tmp_path):
    with Server("--cache_mib", 1, "--kv_type", "f32", models={"wide": wide_model(tmp_path)}) as server:
        n_ctx = server.get("/v1/models/wide")[1]["max_model_len"]
        assert 16 <= n_ctx < 8192
        for body in (chat("a b " * 2 * n_ctx), chat("a b " * 8 * n_ctx)):
            status, answer = server.post(CHAT, body)
            assert status == 400 and answer["error"]["code"] == "context_length_exceeded"
            assert f"context is {n_ctx} tokens (of 8192, as many as cache_mib holds)" in answer["error"]["message"]
        status, answer = server.post(CHAT, chat(ignore_eos=True))
        assert status == 200 and answer["usage"]["total_tokens"] == n_ctx
        long = [{"role": "user", "content": "a b " * 100}] * 30
        assert server.post("/v1/responses", {"input": long, "truncation": "auto", "max_output_tokens": 4})[0] == 200
    with Server(models={"wide": wide_model(tmp_path)}) as server:
        assert "is 8192 tokens, but" in server.post(CHAT, chat("a b " * 8192))[1]["error"]["message"]


# ---- models_dir ----


def test_models_dir_serves_what_is_not_hidden(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).symlink_to(TINY)
    (tmp_path / "sd").symlink_to(SD)
    (tmp_path / "._a.gguf").write_text("what another system leaves behind")
    (tmp_path / "self").symlink_to(tmp_path)
    with Server("--models_dir", tmp_path, models={}) as server:
        assert list(states(server)) == ["a", "b", "sd"]


@pytest.mark.parametrize("names, why", [
    ([], "it has no *.gguf and no directory of a model"),
    (["a.gguf", "a"], "two models are called a"),
    (["a\nb.gguf"], "UTF-8 without control characters"),
    ([f"{i}.gguf" for i in range(65)], "at most 64 models"),
    (None, "No such file or directory"),
])
def test_a_models_dir_that_cannot_be_served_is_told(tmp_path, names, why):
    folder = tmp_path / "models"
    if names is not None:
        folder.mkdir()
    for name in names or []:
        (folder / name).symlink_to(TINY if name.endswith(".gguf") else SD)
    done = subprocess.run([DUETTO, "serve", "--port", "0", "--models_dir", folder],
                          capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert why in done.stderr and str(folder) in done.stderr
