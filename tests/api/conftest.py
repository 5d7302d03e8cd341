"""Servers for the API tests.  `server` is one with the tiny model for the whole run; `start` makes
more with other options; `smollm` is one with the real small model, skipped where it is not there.

DUETTO names the binary (default build/duetto)."""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / os.environ.get("DUETTO", "build/duetto")
TINY = ROOT / "tests/fixtures/tiny-llama.gguf"
SMOLLM = ROOT / "models/cache/SmolLM2-135M-Instruct.Q4_1.gguf"
START_S = 120


def pytest_configure(config):
    config.addinivalue_line("markers", "asan: also runs against the sanitised server")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A running `duetto serve`."""

    def __init__(self, log, *args, models=None, config=None, env=None, keys=None):
        self.port, self.log = free_port(), log
        command = [BINARY, "serve", "--port", str(self.port)]
        for name, path in (models or {"tiny": TINY}).items():
            command += ["-m", f"{name}={path}"]
        if config is not None:
            path = log.with_suffix(".json")
            path.write_text(json.dumps(config))
            command += ["-c", path]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("DUETTO_")}
        environ |= env or {}
        if keys:
            environ["DUETTO_API_KEYS"] = ",".join(keys)
        self.key = keys[0] if keys else "none"
        with open(log, "w") as out:
            self.process = subprocess.Popen([*map(str, command), *args], cwd=ROOT, env=environ,
                                            stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def wait(self):
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.log.read_text()[-2000:]}")
            try:
                if self.request("GET", "/health")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the server is not ready: {self.log.read_text()[-2000:]}")

    def client(self, **options):
        return openai.OpenAI(base_url=self.url, api_key=options.pop("api_key", self.key),
                             max_retries=0, timeout=120, **options)

    def request(self, method, path, body=None, headers=None):
        """(status, headers, body) without any client library's help."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            c.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            r = c.getresponse()
            return r.status, dict(r.getheaders()), r.read()
        finally:
            c.close()

    def post(self, path, body):
        status, _, text = self.request("POST", path, body)
        return status, json.loads(text)

    def get(self, path):
        status, _, text = self.request("GET", path)
        return status, json.loads(text)

    def metric(self, name):
        for line in self.request("GET", "/metrics")[2].decode().splitlines():
            if line.startswith(name) and line[len(name)] in " {":
                return float(line.split()[-1])
        raise KeyError(name)

    def wait_idle(self, seconds=10):
        """True once nothing runs or waits."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.metric("vllm:num_requests_running") == 0 == \
                    self.metric("vllm:num_requests_waiting"):
                return True
            time.sleep(0.02)
        return False

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts servers that live until the end of the run."""
    running = []

    def make(*args, wait=True, **options):
        log = tmp_path_factory.mktemp("server") / "log.txt"
        s = Server(log, "--drain_settle_s", "0", *args, **options)
        running.append(s)
        return s.wait() if wait else s

    yield make
    codes = [s.stop() for s in running]
    logs = "".join(s.log.read_text() for s in running)
    assert "ERROR: AddressSanitizer" not in logs and "runtime error:" not in logs, logs[-4000:]
    assert all(code in (0, -signal.SIGTERM) for code in codes), codes


@pytest.fixture(scope="session")
def server(start):
    return start()


@pytest.fixture(scope="session")
def client(server):
    return server.client()


@pytest.fixture(autouse=True)
def still_alive(request):
    """No test may kill the shared server."""
    yield
    if "server" in request.fixturenames:
        s = request.getfixturevalue("server")
        assert s.process.poll() is None, s.log.read_text()[-3000:]


@pytest.fixture(scope="session")
def smollm(start):
    if not SMOLLM.exists():
        pytest.skip("models/cache has no SmolLM2; `make models` gets it")
    return start("--n_ctx", "2048", models={"smollm": SMOLLM})
