"""Starts the built server for a test and talks to it: plain requests, raw sockets, the openai client.

DUETTO names the binary (default build/duetto), TEST_DEVICE the device if not the CPU.  Nothing here depends on how fast the machine is: what a
test waits for gets PATIENCE_S, and a job that must still run when the test looks at it is `endless`.
"""
import base64
import contextlib
import http.client
import io
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time

import openai
import PIL.Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
DUETTO = ROOT / os.environ.get("DUETTO", "build/duetto")
TINY = ROOT / "tests/fixtures/tiny-llama.gguf"
ENDLESS = ROOT / "tests/fixtures/endless-llama.gguf"
BLIP = {kind: ROOT / f"tests/fixtures/blip_{kind}" for kind in ("caption", "vqa", "match")}
BERT = ROOT / "tests/fixtures/bert_tiny"
MINILM = ROOT / "models/cache/all-MiniLM-L6-v2"
PAINTER = ROOT / "tests/fixtures/sd_sd15"
SMOLLM = ROOT / "models/cache/SmolLM2-135M-Instruct.Q4_1.gguf"
SHORT = bool(os.environ.get("DUETTO_TEST_SHORT"))  # fewer rounds, for the slow sanitised server
PATIENCE_S = 300
# No limit of the server ends what a busy machine only makes slow; a test of a limit sets that one.
PATIENT = ("--header_timeout_s", 3600, "--body_timeout_s", 3600, "--idle_timeout_s", 86400,
           "--write_timeout_s", 3600, "--heartbeat_timeout_s", 3600)

CHAT = "/v1/chat/completions"
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
CONNECTIONS, CANCELLED = "duetto:connections", "duetto:requests_cancelled_total"


def eventually(what, seconds=PATIENCE_S):
    """what() once it is true; fails when it does not become so."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "what the test waits for does not happen"
        time.sleep(0.005)
    return value


def wide_model(folder):
    """The tiny model with a context of 8192 tokens, as a file in this folder."""
    key, path = b"llama.context_length\x04\0\0\0", folder / "wide.gguf"
    data = TINY.read_bytes()
    assert key + struct.pack("<I", 512) in data
    path.write_bytes(data.replace(key + struct.pack("<I", 512), key + struct.pack("<I", 8192)))
    return path


class Server:
    """A running `duetto serve`; the system chooses the port, the server's log tells it."""

    def __init__(self, *flags, models=None, env=None, keys=()):
        command = [DUETTO, "serve", "--port", 0, "--drain_settle_s", 0, "--drain_grace_s", 0, *PATIENT]
        for name, path in ({"tiny": TINY} if models is None else models).items():
            command += ["-m", f"{name}={path}"]
        if "TEST_DEVICE" in os.environ and "--device" not in flags:
            command += ["--device", os.environ["TEST_DEVICE"]]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("DUETTO_")}
        if keys:
            environ["DUETTO_API_KEYS"] = ",".join(keys)
        self.key = keys[0] if keys else "none"
        self.tls = any(str(f).startswith("--tls") for f in flags)
        self.lines, self.port, self.ends_with = [], None, 0
        self.process = subprocess.Popen(
            [str(c) for c in (*command, *flags)], cwd=ROOT, env={**environ, **(env or {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        eventually(lambda: self.port or self.process.poll() is not None)
        assert self.port, f"the server does not start:\n{self.log}"
        self.wait_ready()

    def _read(self):
        for line in self.process.stdout:
            found = re.search(r"\bport=(\d+)", line)
            if found and self.port is None:
                self.port = int(found[1])
            self.lines.append(line)

    @property
    def log(self):
        return "".join(self.lines)

    def wait_ready(self):
        eventually(lambda: self.process.poll() is not None or
                   self.request("GET", "/health")[0] == 200)
        assert self.process.poll() is None, f"the server has ended:\n{self.log}"

    # ---- requests ----

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1"

    def client(self, **options):
        return openai.OpenAI(base_url=self.url, api_key=options.pop("api_key", self.key),
                             max_retries=0, timeout=PATIENCE_S, **options)

    def connect(self, receive_buffer=None):
        s = socket.socket()
        if receive_buffer:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        s.settimeout(PATIENCE_S)
        s.connect(("127.0.0.1", self.port))
        if self.tls:
            s = ssl._create_unverified_context().wrap_socket(s)
        return s

    def request(self, method, path, body=None, headers=None):
        """(status, headers, body) of one request on a connection of its own."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        c.sock = self.connect()
        with contextlib.closing(c):
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            c.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            r = c.getresponse()
            return r.status, r.headers, r.read()

    def post(self, path, body):
        status, _, text = self.request("POST", path, body)
        return status, json.loads(text)

    def get(self, path):
        status, _, text = self.request("GET", path)
        return status, json.loads(text)

    def send(self, path, body, *headers, receive_buffer=None):
        """The socket that a POST was written to; nothing is read yet."""
        s = self.connect(receive_buffer)
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json",
                 f"Content-Length: {len(data)}", *headers]
        s.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        return s

    def raw(self, data):
        """Sends bytes and says that no more will come; all that comes back."""
        with self.connect() as s:
            with contextlib.suppress(OSError):
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
            return read_all(s)

    # ---- what it says about itself ----

    def metric(self, name):
        status, _, text = self.request("GET", "/metrics")
        assert status == 200
        found = re.search(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text.decode(), re.M)
        return float(found[1])

    def wait_metric(self, name, value):
        """Seconds until the metric has the value."""
        start = time.monotonic()
        eventually(lambda: self.metric(name) == value)
        return time.monotonic() - start

    def wait_idle(self):
        """Nothing runs or waits."""
        self.wait_metric(WAITING, 0)
        self.wait_metric(RUNNING, 0)

    def rss_kib(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1])

    # ---- the end ----

    def wait_end(self):
        """The exit code, once it has ended by itself."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait_end()

    def __enter__(self):
        return self

    def __exit__(self, kind, *unused):
        """However the test ends; unless it failed, the server must end well."""
        try:
            code = self.stop() if kind is None else None
        finally:
            self.process.kill()
            self.process.wait()
        if kind is None:
            self.check(code)

    def check(self, code):
        assert code == self.ends_with, self.log[-4000:]
        for bad in ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:"):
            assert bad not in self.log, self.log[-4000:]


def endless(*flags):
    """A server whose jobs run until they are cancelled, if their request is chat(**FOREVER)."""
    return Server("--max_answer_kib", 1 << 20, "--cache_mib", 4096, *flags,
                  models={"endless": ENDLESS})


# No max_tokens: it goes on to the end of the context, hundreds of thousands of tokens.
FOREVER = {"ignore_eos": True, "temperature": 0}


# Some 14 MB from the tiny model: more than two sockets hold, so unfinished until the client reads.
LOUD = {"n": 16, "max_tokens": 450, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}


def chat(text="Say something", **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


def named_events(server, path, body):
    """The events of a stream whose events have names, each as (name, data)."""
    status, headers, text = server.request("POST", path, {"stream": True, **body})
    assert status == 200 and headers["Content-Type"] == "text/event-stream"
    found = []
    for block in text.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def read_all(s):
    """What comes until the other side closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := s.recv(65536):
            data += part
    return data


def unchunked(answer):
    """The body of a raw answer in chunks, which end anywhere; it must be whole."""
    text = io.BytesIO(answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")[2])
    body = []
    while n := int(text.readline(), 16):
        body.append(text.read(n))
        assert len(body[-1]) == n and text.read(2) == b"\r\n"
    assert text.read() == b"\r\n"
    return b"".join(body)


def close(s):
    s.close()


def reset(s):
    """Closes so that the server sees a reset, as from a process that died."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    s.close()


# ---- pictures ----

def png(width=64, height=64, hole=False, color=(200, 40, 40)):
    """A PNG's bytes; with a hole its right half is transparent."""
    im = PIL.Image.new("RGBA" if hole else "RGB", (width, height), color)
    if hole:
        im.paste((0, 0, 0, 0), (width // 2, 0, width, height))
    out = io.BytesIO()
    im.save(out, "PNG")
    return out.getvalue()


def picture(data):
    """The picture in an element of an answer's data, or in an event."""
    im = PIL.Image.open(io.BytesIO(base64.b64decode(data.b64_json)))
    im.load()
    return im


def form(fields, files=(), boundary="duettotest"):
    """(body, headers) of a multipart form."""
    body = b""
    for name, value in fields.items():
        body += (f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
                 f"{value}\r\n").encode()
    for name, data in files:
        body += (f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="x.png"\r\n'
                 "Content-Type: image/png\r\n\r\n").encode() + data + b"\r\n"
    return (body + f"--{boundary}--\r\n".encode(),
            {"Content-Type": f"multipart/form-data; boundary={boundary}"})
