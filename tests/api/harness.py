"""Starts the built server for a test and talks to it over raw sockets.

DUETTO names the binary (build/duetto by default); TINY is a two-layer random model that loads at once.
"""
import contextlib
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DUETTO = ROOT / os.environ.get("DUETTO", "build/duetto")
TINY = ROOT / "tests/fixtures/tiny-llama.gguf"
SMOL = ROOT / "models/cache/SmolLM2-135M-Instruct.Q4_1.gguf"


class Server:
    """A running `duetto serve`; the port is chosen by the system and read from its output."""

    def __init__(self, *flags, model=f"tiny={TINY}", env=None, wait=True):
        command = [str(DUETTO), "serve", "--port", "0", "-m", str(model), *map(str, flags)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, env={**os.environ, **(env or {})}, cwd=ROOT)
        self.lines, self.port = [], None
        self.tls = any(str(f).startswith("--tls") for f in flags)
        self._seen = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        if wait:
            self.wait_ready()

    def _read(self):
        for line in self.process.stdout:
            with self._seen:
                self.lines.append(line.rstrip("\n"))
                found = re.search(r"\bport=(\d+)", line)
                if found and self.port is None:
                    self.port = int(found[1])
                self._seen.notify_all()
        with self._seen:
            self._seen.notify_all()

    @property
    def log(self):
        return "\n".join(self.lines)

    def wait_ready(self, seconds=120):
        end = time.monotonic() + seconds
        with self._seen:
            while not any("Serving on" in line for line in self.lines):
                if self.process.poll() is not None or not self._seen.wait(end - time.monotonic()):
                    raise AssertionError(f"the server did not start:\n{self.log}")

    def request(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, body bytes) of one request on a connection of its own."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(c):
            data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
            c.request(method, path, body=data, headers=headers or {})
            r = c.getresponse()
            return r.status, dict((k.lower(), v) for k, v in r.getheaders()), r.read()

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body, **kw):
        status, headers, data = self.request("POST", path, body, **kw)
        return status, headers, json.loads(data)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def raw(self, data, seconds=5):
        """Sends bytes, returns all that comes back until the server closes or falls silent."""
        with self.connect() as s:
            s.sendall(data)
            s.settimeout(seconds)
            answer = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while part := s.recv(65536):
                    answer += part
            return answer

    def stream(self, path, body, headers=None):
        """Opens a stream and returns its socket once the first bytes of the answer are there."""
        s = self.connect()
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json",
                 f"Content-Length: {len(data)}", *(headers or [])]
        s.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        return s

    def metric(self, name):
        status, _, text = self.get("/metrics")
        assert status == 200
        found = re.search(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text.decode(), re.M)
        return float(found[1]) if found else None

    def wait_metric(self, name, value, seconds):
        """Seconds until the metric has the value; fails after the given time."""
        start = time.monotonic()
        while self.metric(name) != value:
            assert time.monotonic() - start < seconds, f"{name} is {self.metric(name)}"
            time.sleep(0.01)
        return time.monotonic() - start

    def rss_kib(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1])

    def stop(self, signal=15, seconds=60):
        if self.process.poll() is None:
            self.process.send_signal(signal)
        code = self.process.wait(seconds)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


def chat(text="Say something", **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}
