"""Pictures by http(s) URL: off by default, then guarded.  A server of the test's own sends them; it stands on
loopback, which only an entry of image_url_allow opens."""
import base64
import contextlib
import http.server
import subprocess
import threading

import pytest

from harness import BLIP, DUETTO, PAINTER, PATIENCE_S, ROOT, TINY, Server, eventually, reset

CAPTIONS = "/v1/captions"
PICTURE = (BLIP["caption"] / "picture.png").read_bytes()
LIMIT_KIB = 64


class Pictures(http.server.BaseHTTPRequestHandler):
    """What a host may send; the path says what."""
    protocol_version = "HTTP/1.0"
    asked, closed = [], []

    def log_message(self, *unused):
        pass

    def send(self, data, kind="image/png", length=None, status=200, **headers):
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if length != 0:
            self.send_header("Content-Length", length or len(data))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        port = self.server.server_address[1]
        self.asked.append((self.client_address[0], self.path, dict(self.headers)))
        to = {"/to-picture": "/picture.png", "/twice": "/to-picture", "/thrice": "/twice",
              "/loop": "/loop", "/to-private": f"http://127.0.0.2:{port}/picture.png",
              "/to-metadata": "http://169.254.169.254/latest/meta-data/",
              "/to-file": "file:///etc/passwd", "/to-user": f"http://a:b@127.0.0.1:{port}/picture.png",
              "/to-port": "http://127.0.0.1:1/"}
        with contextlib.suppress(OSError):
            if self.path in to:
                self.send(b"elsewhere", "text/html", status=302, Location=to[self.path])
            elif self.path.startswith("/hang"):
                self.send(b"", length=100)
                self.connection.recv(1)  # until the other side closes
                self.closed.append(self.path)
            elif self.path == "/drip":
                self.send(PICTURE[:50], length=len(PICTURE))
                while not self.server.ending.wait(0.05):
                    self.wfile.write(b"\0")
            elif self.path == "/large":
                self.send(b"\x89PNG", length=LIMIT_KIB * 1024 + 1)
            elif self.path == "/endless":
                self.send(PICTURE, length=0)
                while True:
                    self.wfile.write(b"\0" * 4096)
            elif self.path == "/headers":
                self.send(PICTURE, **{f"X-{i}": "x" * 1000 for i in range(90)})
            elif self.path == "/cut":
                self.send(PICTURE[:-100], length=len(PICTURE))
            elif self.path == "/cut-unseen":
                self.send(PICTURE[:-100], length=0)
            elif self.path == "/html":
                self.send(b"<html>secret</html>", "text/html")
            elif self.path == "/secret.png":
                self.send(b"secret, and no picture")
            elif self.path == "/empty":
                self.send(b"", length=0)
            elif self.path == "/error":
                self.send(PICTURE, status=404)
            elif self.path == "/zipped":
                self.send(PICTURE, **{"Content-Encoding": "gzip"})
            else:
                self.send(PICTURE, None if self.path == "/untyped" else "image/png")


@pytest.fixture(scope="module")
def host():
    s = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Pictures)
    s.daemon_threads, s.ending = True, threading.Event()
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s.server_address[1]
    s.ending.set()
    s.shutdown()
    s.server_close()


def options(port, allow="127.0.0.1", mode="listed"):
    return ("--threads", 1, "--image_urls", mode, "--image_url_allow", allow,
            "--image_url_ports", f"80,{port}", "--image_url_timeout_ms", 300000,
            "--max_image_kib", LIMIT_KIB)


MODELS = {"caption": BLIP["caption"], "painter": PAINTER}


@pytest.fixture(scope="module")
def server(start, host):
    return start(*options(host), "--max_image_urls", 2, models=MODELS,
                 env={"http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"})


@pytest.fixture(scope="module")
def public(start, host):
    return start(*options(host, "", "public"), models=MODELS)


def url(port, path="/picture.png", address="127.0.0.1"):
    return f"http://{address}:{port}{path}"


def caption(server, of):
    status, body = server.post(CAPTIONS, {"model": "caption", "image": of, "max_tokens": 8})
    return status, body if status == 200 else body["error"]


def refused(server, of, words, status=400):
    got, e = caption(server, of)
    assert got == status, (of, e)
    assert words in e["message"] and e["param"] == "image", (of, e)
    return e


def test_off_by_default(start, host):
    with Server("--threads", 1, models=MODELS) as s:
        e = refused(s, url(host), "fetches nothing")
        assert e["code"] == "unsupported"
        refused(s, "https://example.org/a.png", "fetches nothing")
        refused(s, "ftp://example.org/a.png", "fetches nothing")


def test_a_picture_is_read(server, host):
    data = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    want = caption(server, data)[1]["captions"]
    for path in ("/picture.png", "/untyped", "/to-picture", "/thrice", "/zipped"):
        status, body = caption(server, url(host, path))
        assert (status, body["captions"]) == (200, want), path
    address, path, headers = Pictures.asked[-1]
    assert headers["User-Agent"].startswith("duetto/") and "Authorization" not in headers
    assert "Cookie" not in headers and "Referer" not in headers and "Accept-Encoding" not in headers
    messages = [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url(host)}}, {"type": "text", "text": ""}]}]
    r = server.client().chat.completions.create(model="caption", messages=messages, max_tokens=8)
    assert r.choices[0].message.content == want[0]["text"]
    frames = server.client().chat.completions.create(model="caption", messages=messages,
                                                     max_tokens=8, stream=True)
    assert "".join(f.choices[0].delta.content or "" for f in frames if f.choices) == want[0]["text"]


def test_pictures_of_edits_and_of_the_webui(server, host):
    fields = {"model": "painter", "prompt": "x", "steps": 2, "size": "64x64"}
    status, body = server.post("/v1/images/edits", fields | {"images": [{"image_url": url(host)}]})
    assert status == 200, body
    status, body = server.post("/v1/images/variations", fields | {"image": url(host)})
    assert status == 200, body
    status, body = server.post("/sdapi/v1/img2img", {
        "prompt": "x", "steps": 2, "width": 64, "height": 64, "init_images": [url(host)]})
    assert status == 200, body
    status, body = server.post("/v1/images/edits",
                               fields | {"image": url(host), "mask": url(host, "/error")})
    assert status == 400 and body["error"]["param"] == "mask", body


def test_urls_that_are_refused_unasked(server, host):
    n = len(Pictures.asked)
    for of, words in ((f"http://a:b@127.0.0.1:{host}/", "user"),
                      (f"ftp://127.0.0.1:{host}/", "http:// or https://"),
                      ("file:///etc/passwd", "http:// or https://"),
                      ("http://127.0.0.1:1/", "port"), ("http://127.0.0.1:22/", "port"),
                      ("http://127.0.0.1/a b", "space"), ("http:///", "URL"),
                      ("http:" + "/" * 9000, "URL"), ("HTTP:x", "URL")):
        assert refused(server, of, words)["code"] == "invalid_image_url"
    assert len(Pictures.asked) == n


def test_addresses_that_are_not_allowed(server, public, host):
    n = len(Pictures.asked)
    for s in (server, public):
        for address in ("127.0.0.2", "[::1]", "0.0.0.0", "[::]", "10.0.0.1", "192.168.0.1", "169.254.169.254",
                        "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::1]", "100.64.0.1", "224.0.0.1"):
            refused(s, url(host, address=address), "an address that this server does not ask")
    for address in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0177.0.0.1", "127.1"):
        refused(public, url(host, address=address), "an address that this server does not ask")
    refused(server, url(host, address="8.8.8.8"), "an address that this server does not ask")
    assert len(Pictures.asked) == n


def test_allowed_hosts_are_not_allowed_addresses(start, host):
    """A name in the list may be asked where it leads to public addresses only."""
    with Server(*options(host, "localhost"), models=MODELS) as s:
        refused(s, url(host, address="localhost"), "an address that this server does not ask")
        refused(s, url(host), "a host that this server does not ask")
    with Server(*options(host, "localhost,127.0.0.0/8,::1"), models=MODELS) as s:
        assert caption(s, url(host, address="localhost"))[0] == 200
        assert caption(s, url(host, address="127.0.0.2"))[0] == 200


def test_redirects_are_checked(server, host):
    for path, words in (("/to-private", "an address that this server does not ask"),
                        ("/to-metadata", "an address that this server does not ask"),
                        ("/to-file", "http:// or https://"), ("/to-user", "user"),
                        ("/to-port", "port"), ("/loop", "one redirect after another")):
        e = refused(server, url(host, path), words)
        assert "after a redirect" in e["message"]


def test_what_is_no_picture(server, host):
    for path, words in (("/html", "Content-Type"), ("/error", "status 404"), ("/empty", "empty"),
                        ("/cut", "middle"), ("/cut-unseen", "image"), ("/secret.png", "image"),
                        ("/headers", "cannot be asked")):
        e = refused(server, url(host, path), words)
        assert "secret" not in e["message"], e


def test_limits_of_size(server, host):
    refused(server, url(host, "/large"), f"more than {LIMIT_KIB * 1024} bytes", 413)
    refused(server, url(host, "/endless"), f"more than {LIMIT_KIB * 1024} bytes", 413)


def test_a_limit_of_time(host):
    with Server(*options(host), "--image_url_timeout_ms", 300, models=MODELS) as s:
        for path in ("/hang", "/drip"):  # neither ends by itself
            refused(s, url(host, path), "too slow")


def test_many_at_once(server, host):
    body = {"model": "caption", "image": url(host, "/hang")}
    n = len(Pictures.asked)
    waiting = [server.send(CAPTIONS, body) for _ in range(2)]
    eventually(lambda: len(Pictures.asked) == n + 2)
    status, e = caption(server, url(host))
    assert status == 429 and "fetched" in e["message"], e
    for s in waiting:
        reset(s)
    eventually(lambda: caption(server, url(host))[0] == 200)


def test_a_client_that_leaves_ends_the_download(host):
    with Server(*options(host), models=MODELS) as s:
        for path, leave in (("/hang/reset", reset), ("/hang/close", lambda c: c.close())):
            m = len(Pictures.asked)
            c = s.send(CAPTIONS, {"model": "caption", "image": url(host, path)})
            eventually(lambda: len(Pictures.asked) > m)
            leave(c)
            eventually(lambda: path in Pictures.closed)
        assert caption(s, url(host))[0] == 200
        m = len(Pictures.asked)
        c = s.send(CAPTIONS, {"model": "caption", "image": url(host, "/hang")})
        eventually(lambda: len(Pictures.asked) > m)
        assert s.stop() == 0  # the end of the server does not wait for it either
        c.close()


def test_options_that_are_none():
    for flags, words in ((("--image_urls", "listed"), "image_url_allow has no host"),
                         (("--image_urls", "public", "--image_url_allow", "http://x"), "neither a host"),
                         (("--image_urls", "public", "--image_url_ports", "http"), "image_url_ports")):
        r = subprocess.run([str(DUETTO), "serve", "-m", str(TINY), *flags], cwd=ROOT, text=True,
                           capture_output=True, timeout=PATIENCE_S)
        assert r.returncode == 1 and words in r.stderr, r.stderr
