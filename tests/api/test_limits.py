"""What HTTP allows and we do not: sizes of targets and headers, methods, bodies that are announced."""
import json

import pytest

pytestmark = pytest.mark.asan
CLOSE = "Host: x\r\nConnection: close\r\n"
ROUTES = {"/health": "GET", "/live": "GET", "/ping": "GET", "/ready": "GET", "/version": "GET",
          "/metrics": "GET", "/props": "GET", "/openapi.json": "GET", "/v1/models": "GET",
          "/v1/models/tiny": "GET", "/v1/chat/completions": "POST", "/v1/completions": "POST",
          "/tokenize": "POST", "/detokenize": "POST", "/apply-template": "POST"}


def answer(server, head, body=b""):
    """(status, error object or None); the connection is the request's own."""
    text = server.raw(f"{head}\r\n{CLOSE}\r\n".encode() + body)
    head, _, body = text.partition(b"\r\n\r\n")
    found = json.loads(body) if body else {}
    return int(head.split()[1]), found.get("error")


def test_a_target_that_is_too_long_is_414_in_json(server):
    for n in (9000, 40000):
        status, error = answer(server, f"GET /{'a' * n} HTTP/1.1")
        assert status == 414 and error["code"] == "uri_too_long"
    assert answer(server, f"GET /health?{'a' * 8000} HTTP/1.1")[0] == 200


def test_headers_that_are_too_large_are_431_in_json(server):
    for n in (33000, 50000):
        status, error = answer(server, f"GET /health HTTP/1.1\r\nX: {'a' * n}")
        assert status == 431 and error["code"] == "headers_too_large"
    assert answer(server, "GET /health HTTP/1.1" + "\r\nX: a" * 300)[0] == 200


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_has_its_methods_and_no_others(server, path):
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "get"):
        if (method if method != "HEAD" else "GET") == ROUTES[path]:
            continue
        status, headers, text = server.request(method, path)
        assert status == 405 and headers["Allow"].startswith(ROUTES[path])
        assert method == "HEAD" or json.loads(text)["error"]["code"] == "method_not_allowed"


def test_a_connection_goes_on_after_errors(server):
    good = b'POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n%s\r\n{"content":"a"}'
    text = server.raw(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{"
                      b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
                      b"PUT /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
                      + good % b"" + good % b"Connection: close\r\n")
    assert [part[:3] for part in text.split(b"HTTP/1.1 ")[1:]] == \
        [b"400", b"404", b"405", b"200", b"200"]


@pytest.mark.parametrize("expect, length", [("Expect: 100-continue\r\n", 3 << 20), ("", 1 << 40)])
def test_a_body_that_is_announced_too_large_is_refused_unread(server, expect, length):
    with server.connect() as s:
        s.sendall(f"POST /tokenize HTTP/1.1\r\nHost: x\r\n{expect}"
                  f"Content-Length: {length}\r\n\r\n".encode())
        text = b""
        while part := s.recv(65536):  # the server closes, though nothing was sent
            text += part
    assert text.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in text
    assert b'"code":"request_too_large"' in text


def test_a_client_that_expects_it_is_told_to_continue(server):
    with server.connect() as s:
        s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                  b"Connection: close\r\nContent-Length: 15\r\n\r\n")
        assert s.recv(65536).startswith(b"HTTP/1.1 100 ")
        s.sendall(b'{"content":"a"}')
        assert s.recv(65536).startswith(b"HTTP/1.1 200 ")
