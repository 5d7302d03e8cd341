"""Several devices, emulated (`make cuda-emu`): replicas, one model on two of them, and what a dead one takes with it."""
import concurrent.futures
import subprocess

import pytest

import harness
from harness import CHAT, ENDLESS, FOREVER, TINY, Server, chat, eventually
from test_cuda import ASK, EMULATED, FAILED

TWO = {"CUEMU_DEVICES": "2", "CUEMU_QUIET": "1"}

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
    command = [EMULATED, "serve", "--port", "0", "-m", TINY, *flags]
    done = subprocess.run([str(c) for c in command], env={**TWO, "PATH": "", **(env or {})},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
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
    assert server.metric("duetto:engine_steps_total") == sum(
        of_device(server, "steps_total", d) for d in (0, 1))
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
    server = emulated("--device", "cuda:0,cuda:1", env={"CUEMU_FAIL": "launch:300@1"})
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


def test_when_all_devices_are_dead_the_process_ends(emulated):
    server = emulated("--device", "cuda:0,cuda:1", env={"CUEMU_FAIL": "launch:200@0,sync:30@1"})
    statuses = []
    while statuses.count(500) < 2:
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
