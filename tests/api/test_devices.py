"""Several devices, emulated (`make cuda-emu`): replicas, one model on two of them, and what a dead one takes with it."""
import concurrent.futures
import json
import re
import shutil
import subprocess

import pytest

import harness
from harness import CHAT, ENDLESS, FOREVER, PAINTER, PATIENCE_S, ROOT, TINY, WAITING, Server, chat, eventually
from test_cuda import ASK, EMULATED, FAILED, LLAMAS

# where the emulation's NCCL is
TWO = {"CUEMU_DEVICES": "2", "CUEMU_QUIET": "1", "LD_LIBRARY_PATH": str(EMULATED.parent)}
TOGETHER = ("--device", "cuda:0,cuda:1", "--tensor_parallel", 2)
LIBRARY = ("--cuda_activations", "f16", "--cuda_blas_rows", 1)
# With one head of keys and values, which nobody can share.
SHARED = {name: path for name, path in LLAMAS.items() if name not in ("k_a", "k_b")}

pytestmark = pytest.mark.skipif(not EMULATED.exists(), reason="`make cuda-emu` builds it")


@pytest.fixture
def emulated(monkeypatch):
    """Starts servers of the emulated build with two devices; the test stops them."""
    running = []

    def make(*flags, env=None, **options):
        monkeypatch.setattr(harness, "DUETTO", EMULATED)
        running.append(Server("--n_ctx", 128, *flags, env={**TWO, **(env or {})}, **options))
        return running[-1]

    yield make
    for s in running:
        if s.process.poll() is None:
            s.stop()


def refusal(*flags, env=None):
    """What a server that does not start says."""
    command = [EMULATED, "serve", "--port", "0", *flags]
    command += [] if "-m" in flags else ["-m", TINY]
    done = subprocess.run([str(c) for c in command], env={**TWO, "PATH": "", **(env or {})},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1, done.stdout
    return done.stdout


def of_device(server, name, device):
    return server.metric(f'duetto:device_{name}{{device="cuda:{device}"}}')


def ask(server, prompt, **fields):
    return server.post("/v1/completions", {**ASK, "prompt": prompt, **fields})


# ---- replicas ----

def test_requests_spread_over_the_devices_and_say_the_same(emulated):
    server = emulated("--device", "cuda:0,cuda:1")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(server, "the quick brown"), range(16)))
    assert [status for status, _ in answers] == [200] * 16
    assert len({answer["choices"][0]["text"] for _, answer in answers}) == 1
    tokens = [of_device(server, "generated_tokens_total", d) for d in (0, 1)]
    assert min(tokens) > 0 and sum(tokens) == 16 * ASK["max_tokens"]
    eventually(lambda: server.metric("duetto:engine_steps_total") == sum(
        of_device(server, "steps_total", d) for d in (0, 1)))
    status, models = server.get("/v1/models")
    assert status == 200 and [m["id"] for m in models["data"]] == ["tiny"]
    assert server.get("/props")[1]["device"] == "cuda:0,cuda:1"
    assert server.get("/health") == (200, {"status": "ok"})


def test_a_prompt_goes_where_its_beginning_is_cached(emulated):
    server = emulated("--device", "cuda:0,cuda:1")
    long = "the quick brown fox jumps over the lazy dog and " * 2
    for i in range(4):
        assert ask(server, f"{i} {long}", max_tokens=1)[0] == 200
    for i in range(4):
        status, answer = ask(server, f"{i} {long}", max_tokens=1)
        assert status == 200 and answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_dead_device_takes_only_its_own_requests_with_it(emulated):
    server = emulated("--device", "cuda:0,cuda:1", env={"CUEMU_FAIL": "sync:30@1"})
    prompts = iter(range(10**6))

    def lost():
        status, answer = ask(server, f"prompt {next(prompts)}", max_tokens=8)
        assert status == 200 or (status == 500 and "cuda:1" in answer["error"]["message"]), answer
        return status == 500

    eventually(lost)
    status, health = server.get("/health")
    assert status == 200 and health["status"] == "degraded"
    assert [f["device"] for f in health["failed"]] == ["cuda:1"]
    assert "cuda:1" in health["failed"][0]["message"]
    assert (of_device(server, "up", 0), of_device(server, "up", 1)) == (1, 0)
    before = of_device(server, "generated_tokens_total", 0)
    for i in range(4):
        assert ask(server, f"after {i}", max_tokens=4)[0] == 200
    assert of_device(server, "generated_tokens_total", 0) == before + 16
    assert server.process.poll() is None


def crowd(server, n, then=lambda: None, **fields):
    """n requests at once: (status, headers, body) of each; `then` is called while they run."""
    body = {**ASK, "prompt": "the quick brown", "max_tokens": 40, "ignore_eos": True, **fields}
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        asked = pool.map(lambda _: server.request("POST", "/v1/completions", body), range(n))
        then()
        return list(asked)


def test_what_waits_for_a_device_that_dies_goes_to_another_one(emulated):
    server = emulated("--device", "cuda:0,cuda:1", "--max_sequences", 1,
                      env={"CUEMU_FAIL": "sync:40@1"})
    answers = crowd(server, 10)
    assert sorted(status for status, _, _ in answers) == [200] * 9 + [500]
    texts = {json.loads(body)["choices"][0]["text"] for status, _, body in answers if status == 200}
    assert len(texts) == 1
    assert server.get("/health")[1]["status"] == "degraded"


def test_what_waits_for_the_last_device_may_be_asked_again(emulated, tmp_path):
    dies = tmp_path / "dies"
    server = emulated("--device", "cuda:0", "--max_sequences", 1, "--n_ctx", 100000, models={"endless": ENDLESS},
                      env={"CUEMU_FAIL": "sync:40", "CUEMU_FAIL_AFTER": str(dies)})

    def all_are_there():
        server.wait_metric(WAITING, 5)
        dies.touch()
    answers = crowd(server, 6, all_are_there, max_tokens=90000)
    assert sorted(status for status, _, _ in answers) == [500] + [503] * 5
    for status, headers, body in answers:
        assert (headers["Retry-After"] is not None) == (status == 503)
        assert b"cuda:0" in body
    assert eventually(lambda: server.process.poll()) == FAILED


def test_an_adapter_is_on_all_devices_or_on_none(start, tmp_path):
    """On the CPU, as two devices.  A picture with another adapter keeps the second one's only place."""
    for name in ("kohya", "peft"):
        shutil.copy(ROOT / f"tests/fixtures/lora/{name}.safetensors", tmp_path)
    server = start("--device", "cpu,cpu/scalar", "--threads", 1, "--lora_dir", tmp_path,
                   "--max_loras", 1, models={"painter": PAINTER})
    assert server.post("/v1/adapters", {"name": "kohya"})[0] == 200
    assert server.request("DELETE", "/v1/adapters/kohya")[0] == 200
    draw = {"prompt": "a fox", "size": "32x32", "steps": 1}
    long = {**draw, "steps": 900, "n": 4, "size": "64x64", "background": True}
    assert server.post("/v1/images/generations", draw)[0] == 200  # of the first
    status, job = server.post("/v1/images/generations", {**long, "loras": ["kohya"]})
    assert status == 202
    status, answer = server.post("/v1/adapters", {"name": "peft"})
    assert status == 429 and "not on every device" in answer["error"]["message"]
    eventually(lambda: [a["id"] for a in server.get("/v1/adapters")[1]["data"] if a["loaded"]]
               == ["kohya"])
    server.request("DELETE", f"/v1/jobs/{job['id']}")


def test_when_all_devices_are_dead_the_process_ends(emulated):
    server = emulated("--device", "cuda:0,cuda:1", env={"CUEMU_FAIL": "copy:120@0,sync:30@1"})
    statuses = []
    while statuses.count(500) < 2 and len(statuses) < 100:
        statuses.append(ask(server, f"prompt {len(statuses)}", max_tokens=8)[0])
    assert set(statuses) == {200, 500}
    assert eventually(lambda: server.process.poll()) == FAILED


def test_both_answer_chats_while_one_is_busy(emulated):
    server = emulated("--device", "cuda:0,cuda:1", "--max_sequences", 1, "--n_ctx", 4096,
                      models={"endless": ENDLESS})
    sockets = [server.send(CHAT, chat(f"Say {i}", stream=True, **FOREVER)) for i in range(2)]
    for device in (0, 1):
        eventually(lambda: of_device(server, "requests_running", device) == 1)
    for s in sockets:
        s.close()
    server.wait_idle()


@pytest.mark.parametrize("devices, words", [
    ("cuda:0,cuda:2", "cuda:2: there are 2 CUDA devices"),
    ("cuda:0,", "empty name"),
    ("cuda:0,cuda:0", "named twice"),
    ("cuda:0,gpu1", "no device is named 'gpu1'"),
])
def test_a_list_that_makes_no_sense_is_refused_at_the_start(devices, words):
    assert words in refusal("--device", devices)


# ---- one model on several devices ----

def test_every_llama_says_on_two_devices_what_it_says_on_one(emulated):
    alone, shared = emulated("--device", "cuda:0", models=SHARED), emulated(*TOGETHER, models=SHARED)
    prompt = "the quick brown fox jumps over the lazy dog and goes on and on " * 2
    for name in SHARED:
        texts = []
        for server in (alone, shared):
            status, answer = ask(server, prompt, model=name)
            assert status == 200
            texts.append(answer["choices"][0]["text"])
        assert texts[0] == texts[1], name
    assert shared.get("/props")[1]["device"] == "cuda:0+cuda:1"
    # each device has about half of the layers' weights; the first all embeddings too
    assert shared.metric("duetto:weight_bytes") < 0.8 * alone.metric("duetto:weight_bytes")


def test_a_shared_model_gives_the_same_bits_under_load(emulated):
    server = emulated(*TOGETHER)
    fields = {"temperature": 1.0, "seed": 7, "logprobs": 3}
    prompts = [f"{i} the quick brown fox jumps over the lazy dog " * (1 + i % 2) for i in range(6)]
    alone = [ask(server, p, **fields)[1]["choices"][0] for p in prompts]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda p: ask(server, p, **fields)[1]["choices"][0], prompts))
    assert [c["text"] for c in together] == [c["text"] for c in alone]
    assert [c["logprobs"] for c in together] == [c["logprobs"] for c in alone]


def test_a_shared_model_streams_a_chat(emulated):
    server = emulated(*TOGETHER)
    parts = server.client().chat.completions.create(
        model="tiny", stream=True, max_tokens=8, temperature=0,
        messages=[{"role": "user", "content": "hi"}])
    assert [p.choices[0].finish_reason for p in parts if p.choices][-1] in ("stop", "length")


def test_two_replicas_of_two_devices_each(emulated):
    server = emulated("--device", "cuda:0,cuda:1,cuda:2,cuda:3", "--tensor_parallel", 2,
                      env={"CUEMU_DEVICES": "4"})
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(server, "the quick brown", max_tokens=3), range(4)))
    assert len({answer["choices"][0]["text"] for _, answer in answers}) == 1
    for pair in ("cuda:0+cuda:1", "cuda:2+cuda:3"):
        assert server.metric(f'duetto:device_generated_tokens_total{{device="{pair}"}}') > 0


@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("graphs, fault", [
    ("true", "launch:40@1"), ("false", "copy:60@1"), ("true", "nccl:70"), ("true", "launch:40@0")])
def test_a_team_that_loses_a_device_fails_as_one(emulated, graphs, fault, logprobs):
    """In steps whose tokens the first device chooses, and in those whose logits come to the host; without drafts, of
    which there are more or fewer by what steps cost."""
    server = emulated(*TOGETHER, "--cuda_graphs", graphs, "--draft_tokens", 0, env={"CUEMU_FAIL": fault})
    status, answer = ask(server, "the quick brown", max_tokens=60, ignore_eos=True, logprobs=logprobs)
    assert status == 500 and ("cuda:" in answer["error"]["message"])
    assert eventually(lambda: server.process.poll()) == FAILED


def test_a_sync_of_a_team_that_fails_fails_all(emulated):
    server = emulated(*TOGETHER, env={"CUEMU_FAIL": "sync:9@1"})
    status, answer = ask(server, "the quick brown", max_tokens=60, logprobs=1)
    assert status == 500 and ("cuda:" in answer["error"]["message"])
    assert eventually(lambda: server.process.poll()) == FAILED


def test_a_team_launches_graphs_and_chooses_ahead(emulated):
    """The answer is that of one that does neither."""
    texts = []
    for graphs in ("true", "false"):
        server = emulated(*TOGETHER, "--cuda_graphs", graphs, env={"CUEMU_COUNTS": "1"})
        fields = {"temperature": 0.9, "seed": 3, "top_p": 0.9, "max_tokens": 40, "ignore_eos": True}
        status, answer = ask(server, "the quick brown", **fields)
        assert status == 200
        texts.append(answer["choices"][0]["text"])
        assert server.metric("duetto:engine_steps_ahead_total") > 30
        server.stop()
        launched = int(re.search(r"(\d+) launched", server.log)[1])
        assert launched > 100 if graphs == "true" else launched == 0
    assert texts[0] == texts[1]


@pytest.mark.parametrize("graphs", ["true", "false"])
def test_a_team_says_by_cublaslt_what_one_device_says(emulated, graphs):
    """The logits' bounds are tests/golden/test_llama.c's, which run_tests.py runs on two devices."""
    prompt = "the quick brown fox jumps over the lazy dog and goes on and on " * 2
    texts = []
    for device in (("--device", "cuda:0"), TOGETHER):
        server = emulated(*device, *LIBRARY, "--cuda_graphs", graphs, models=SHARED, env={"CUEMU_COUNTS": "1"})
        texts.append({name: ask(server, prompt, model=name, max_tokens=16)[1]["choices"][0]["text"] for name in SHARED})
        server.stop()
        assert "panel_unpack" in server.log and "cuda.blas" not in server.log
        assert (int(re.search(r"(\d+) launched", server.log)[1]) > 10) == (graphs == "true")
    assert texts[0] == texts[1]


def test_a_team_has_the_library_on_all_devices_or_on_none(emulated):
    server = emulated(*TOGETHER, *LIBRARY, env={"CUEMU_COUNTS": "1", "CUEMU_FAIL": "blas:1@1"})
    assert ask(server, "the quick brown")[0] == 200
    server.stop()
    assert "our own kernels compute all products" in server.log
    assert "panel_unpack" not in server.log


@pytest.mark.parametrize("fault", ["nccl:1", "malloc:4", "launch:5@1", "host:3"])
def test_a_team_that_does_not_come_up_ends_with_a_sentence(fault):
    assert "duetto: " in refusal(*TOGETHER, env={"CUEMU_FAIL": fault})


@pytest.mark.parametrize("flags, env, words", [
    (("-m", LLAMAS["k_a"], *TOGETHER), {}, "cannot be dealt out to 2 devices"),
    (("--device", "cuda:0", "--tensor_parallel", 2), {}, "groups of 2"),
    (("--device", "cuda:0,cpu", "--tensor_parallel", 2), {}, "only CUDA devices"),
])
def test_what_cannot_be_shared_is_refused_at_the_start(flags, env, words):
    assert words in refusal(*flags, env=env)


def test_without_nccl_nothing_is_shared(tmp_path):
    (tmp_path / "libnccl.so.2").write_text("no library, found before one of the system\n")
    assert "needs NCCL" in refusal(*TOGETHER, env={"LD_LIBRARY_PATH": str(tmp_path)})
