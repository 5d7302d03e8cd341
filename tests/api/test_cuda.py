"""The server on an emulated CUDA device (`make cuda-emu`; CUDA_DUETTO names another build): the CPU's answers, and what a
failing device does."""
import base64
import concurrent.futures
import io
import math
import os
import re
import subprocess

import PIL.Image
import PIL.ImageChops
import pytest

import harness
from harness import CHAT, FOREVER, ROOT, RUNNING, WAITING, Server, chat, eventually

EMULATED = ROOT / os.environ.get("CUDA_DUETTO", "build/cuda-emu/duetto")  # or a real one
# Not q8_0: two of its tokens are as good as equal, and the CPU rounds activations more.
LLAMAS = {name: ROOT / f"tests/fixtures/llama_{name}.gguf"
          for name in ("f32", "f16", "bf16", "q4_0", "q5_1", "k_a", "k_b", "window", "yarn")}
ASK = {"prompt": "the quick brown", "max_tokens": 12, "temperature": 0}
FAILED = 70  # the exit code after a dead device

pytestmark = pytest.mark.skipif(not EMULATED.exists(), reason="`make cuda-emu` builds it")


@pytest.fixture
def emulated(monkeypatch):
    """Starts servers of the emulated build; the test stops them."""
    running = []

    def make(*flags, device="cuda:0", **options):
        monkeypatch.setattr(harness, "DUETTO", EMULATED)
        running.append(Server("--device", device, "--n_ctx", 128, *flags, **options))
        return running[-1]

    yield make
    for s in running:
        if s.process.poll() is None:
            s.stop()


def texts(server):
    answers = [server.post("/v1/completions", {**ASK, "model": name}) for name in LLAMAS]
    assert [status for status, _ in answers] == [200] * len(LLAMAS)
    return [answer["choices"][0]["text"] for _, answer in answers]


def test_every_llama_says_what_it_says_on_the_cpu(emulated):
    device = texts(emulated(models=LLAMAS))
    assert device == texts(emulated(models=LLAMAS, device="cpu"))


@pytest.mark.parametrize("model", ["f16", "painter"])
def test_graphs_change_no_bits(emulated, model):
    """The same answer with them and without; with them there were some."""
    answers = []
    for graphs in ("true", "false"):
        server = emulated("--cuda_graphs", graphs, models={"f16": LLAMAS["f16"],
                          "painter": harness.PAINTER}, env={"CUEMU_COUNTS": "1"})
        if model == "painter":
            status, answer = server.post("/v1/images/generations", {
                "model": model, "prompt": "a red heart", "size": "16x16", "seed": 7, "steps": 3})
            answers.append(answer["data"][0]["b64_json"])
        else:
            status, answer = server.post("/v1/completions", {**ASK, "model": model,
                                                             "max_tokens": 40})
            answers.append(answer["choices"][0]["text"])
        assert status == 200
        server.stop()
        launched = re.search(r"(\d+) launched", server.log)  # of the emulation
        assert not launched or (int(launched[1]) > 1) == (graphs == "true")
    assert answers[0] == answers[1]


def test_chat_streams_from_the_device(emulated):
    server = emulated()
    ask = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
    status, answer = server.post(CHAT, ask)
    assert status == 200
    parts = server.client().chat.completions.create(model="tiny", stream=True, **ask)
    text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    assert text == (answer["choices"][0]["message"]["content"] or "")


@pytest.mark.parametrize("fault", ["launch:60", "sync:6", "copy:60"])
def test_a_failing_device_fails_the_request_and_ends_the_process(emulated, fault):
    server = emulated(env={"CUEMU_FAIL": fault, "CUEMU_QUIET": "1"})
    status, answer = server.post("/v1/completions", {**ASK, "max_tokens": 60, "model": "tiny"})
    assert status == 500 and "cuda:0" in answer["error"]["message"]
    assert server.wait_end() == FAILED
    assert "engine.failed" in server.log


@pytest.mark.parametrize("fault", ["launch:40", "sync:6", "copy:60"])
def test_each_of_many_clients_hears_of_a_lost_device(emulated, tmp_path, fault):
    """Chats, half of them streams, and pictures, all longer than the device lives; what ran gets the error, what
    waited may be asked again."""
    dies = tmp_path / "dies"
    server = emulated("--max_sequences", 4, "--n_ctx", 100000, "--cache_mib", 1024, "--max_answer_kib", 1 << 20,
                      models={"endless": harness.ENDLESS, "painter": harness.PAINTER},
                      env={"CUEMU_FAIL": fault, "CUEMU_FAIL_AFTER": str(dies), "CUEMU_QUIET": "1"})

    def ask(i):
        if i % 4 == 0:
            return server.request("POST", "/v1/images/generations", {
                "model": "painter", "prompt": "a fox", "size": "32x32", "steps": 900})
        return server.request("POST", CHAT, chat(f"Say {i}", model="endless", stream=i % 2 == 1, **FOREVER))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        asked = pool.map(ask, range(16))
        eventually(lambda: sum(map(server.metric, (RUNNING, WAITING, "duetto:images_running"))) == 16)
        eventually(lambda: server.metric("duetto:image_steps_total") > 0)  # until then a picture may be asked again
        dies.touch()
        answers = list(asked)
    for status, headers, body in answers:
        assert b'"error"' in body
        assert status in (200, 500) or (status == 503 and headers["Retry-After"])
        assert status != 200 or b"[DONE]" not in body
    assert {status for status, _, _ in answers} >= {500, 503}
    assert eventually(lambda: server.process.poll()) == FAILED


@pytest.mark.parametrize("fault", ["malloc:1", "malloc:2", "host:1", "host:2", "copy:3", "sync:1"])
def test_a_device_that_fails_at_the_start_never_hangs(fault):
    """Either it comes up (what failed was not needed), or it ends with a sentence."""
    command = [EMULATED, "serve", "--port", "0", "--device", "cuda:0", "-m", harness.TINY]
    env = {"CUEMU_FAIL": fault, "CUEMU_QUIET": "1", "PATH": ""}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        said = ""
        for line in process.stdout:
            said += line
            if " ready " in line:
                process.terminate()
    assert process.returncode == (0 if " ready " in said else 1), said
    assert " ready " in said or "duetto: " in said


def test_a_picture_is_that_of_the_cpu(emulated):
    ask = {"model": "painter", "prompt": "a red heart", "size": "32x32", "seed": 7, "steps": 1}
    pictures = []
    for device in ("cuda:0", "cpu"):
        server = emulated(models={"painter": harness.PAINTER}, device=device)
        status, answer = server.post("/v1/images/generations", ask)
        assert status == 200
        pictures.append(PIL.Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))))
    difference = PIL.ImageChops.difference(*(p.convert("RGB") for p in pictures))
    assert max(high for _, high in difference.getextrema()) <= 4


@pytest.mark.parametrize("fixture", ["sd_sd15", "sd_sdxl"])
def test_pictures_of_halves_are_nearly_those_of_f32(emulated, fixture):
    """Activations of f16 and bf16: other bits, the same picture."""
    pictures, ask = {}, {"model": "painter", "prompt": "a fox", "size": "32x32", "seed": 7, "steps": 2}
    for kind in ("f32", "f16", "bf16"):
        server = emulated("--cuda_activations", kind,
                          models={"painter": ROOT / "tests/fixtures" / fixture})
        status, answer = server.post("/v1/images/generations", ask)
        assert status == 200
        png = base64.b64decode(answer["data"][0]["b64_json"])
        pictures[kind] = PIL.Image.open(io.BytesIO(png)).convert("RGB")
        server.stop()
    for kind, db in (("f16", 46), ("bf16", 30)):
        assert pictures[kind].tobytes() != pictures["f32"].tobytes()
        difference = PIL.ImageChops.difference(pictures[kind], pictures["f32"]).tobytes()
        noise = sum(d * d for d in difference) / len(difference)
        assert noise == 0 or 10 * math.log10(255 * 255 / noise) > db


def test_the_cpu_says_that_it_has_no_halves(emulated):
    server = emulated("--cuda_activations", "f16", device="cpu")
    assert server.post("/v1/completions", {**ASK, "model": "tiny"})[0] == 200
    eventually(lambda: "activations.f32" in server.log)


BLAS = {"CUEMU_QUIET": "1", "LD_LIBRARY_PATH": str(EMULATED.parent)}


@pytest.mark.skipif(not (EMULATED.parent / "libcublasLt.so.13").exists(), reason="it is of the emulated device")
@pytest.mark.parametrize("behaviour", ["", "varies"])
def test_products_by_the_library(emulated, behaviour):
    """Texts and a picture are as good by cuBLASLt; where its sums depend on the rows, the log says who computes."""
    models = {"f16": LLAMAS["f16"], "k_a": LLAMAS["k_a"], "painter": ROOT / "tests/fixtures/sd_sd15"}
    said = []
    for rows in (0, 2):
        server = emulated("--cuda_activations", "f16", "--cuda_blas_rows", rows, models=models,
                          env={**BLAS, "CUEMU_BLAS": behaviour, "CUEMU_COUNTS": "1"})
        said.append([server.post("/v1/completions", {**ASK, "model": m})[1]["choices"][0]["text"]
                     for m in ("f16", "k_a")])
        status, _ = server.post("/v1/images/generations",
                                {"model": "painter", "prompt": "a fox", "size": "32x32", "seed": 7, "steps": 1})
        assert status == 200
        server.stop()
        assert ("panel_unpack" in server.log) == (rows > 0 and not behaviour)
        assert ("are not the same for every number of rows" in server.log) == (rows > 0 and behaviour != "")
    assert said[0] == said[1]


def test_without_the_library_the_log_says_so(emulated, tmp_path):
    server = emulated("--cuda_activations", "f16", "--cuda_blas_rows", 1, env={"LD_LIBRARY_PATH": str(tmp_path)})
    assert server.post("/v1/completions", {**ASK, "model": "tiny"})[0] == 200
    eventually(lambda: "our own kernels compute all products" in server.log)
