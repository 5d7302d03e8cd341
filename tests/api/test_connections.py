"""Connections: many, slow, cut off in the middle, half closed."""
import contextlib
import json
import socket

import pytest

from harness import (CANCELLED, CHAT, CONNECTIONS, FOREVER, PATIENCE_S, RUNNING, Server, chat, close, endless,
                     eventually, read_all, reset, unchunked)

pytestmark = pytest.mark.asan
GET = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = json.dumps(chat("x" * 500_000)).encode()
POST = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(BODY)) + BODY
CHUNKED = (b"POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
           b"5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n")
CUTS = {
    "nothing": b"", "a letter": GET[:1], "a line": GET[:22], "a header": GET[:28],
    "headers": POST[:POST.index(b"{")], "a body's begin": POST[:300], "half a body": POST[:300_000],
    "a chunk's size": CHUNKED[:CHUNKED.index(b"5\r\n") + 1],
    "a chunk": CHUNKED[:CHUNKED.index(b"2\r\n")], "all but the last chunk": CHUNKED[:-5],
    "one request and a half": GET + GET[:10], "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00 hello",
}


@pytest.fixture(scope="module")
def patient(start):
    return start("--max_connections", 64)


@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("cut", CUTS)
def test_a_client_that_leaves_in_the_middle_is_forgotten(patient, cut, leave):
    for _ in range(100):  # more than there is room for
        s = patient.connect()
        s.sendall(CUTS[cut])
        leave(s)
    patient.wait_metric(CONNECTIONS, 1)


@pytest.mark.parametrize("leave", [close, reset])
def test_a_client_may_leave_while_a_worker_reads_its_body(patient, leave):
    body = b'{"tokens": [' + b"5, " * 60_000 + b"5]}"
    for path in ("POST /detokenize", "GET /v1/models/tiny", "POST /v1/chat/completions"):
        for _ in range(30):
            s = patient.connect()
            s.sendall(b"%s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
                      % (path.encode(), len(body)) + body)
            leave(s)
    patient.wait_metric(CONNECTIONS, 1)


def test_who_waits_for_room_gets_in_when_there_is_some(start):
    s = start("--max_connections", 4)
    with contextlib.ExitStack() as stack:
        inside = [stack.enter_context(s.connect()) for _ in range(4)]
        for c in inside:
            c.sendall(GET)
            assert c.recv(12) == b"HTTP/1.1 200"
        waiting = stack.enter_context(s.connect())
        waiting.sendall(GET)
        waiting.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waiting.recv(12)
        inside[0].close()
        waiting.settimeout(PATIENCE_S)
        assert waiting.recv(12) == b"HTTP/1.1 200"


def test_one_address_may_have_only_so_many(start):
    s = start("--max_connections_per_ip", 2)

    def get_in():
        c = s.connect()
        with contextlib.suppress(OSError):
            c.sendall(GET)
            if c.recv(12):
                return c
        return c.close()

    first, second = eventually(get_in), eventually(get_in)
    assert get_in() is None
    first.close()
    eventually(get_in).close()
    second.close()


def test_a_half_closed_client_gets_the_answers_that_are_there(patient):
    assert patient.raw(GET).count(b"HTTP/1.1 200") == 1
    assert patient.raw(GET * 20).count(b"HTTP/1.1 200") == 20


def completion(version="1.1", **fields):
    body = json.dumps({"prompt": "x", "ignore_eos": True, "max_tokens": 400, **fields}).encode()
    return (f"POST /v1/completions HTTP/{version}\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n").encode() + body


@contextlib.contextmanager
def idle(server, n):
    """Connections between two requests: libmicrohttpd looks at the oldest first, so at no other by chance."""
    with contextlib.ExitStack() as stack:
        for _ in range(n):
            c = stack.enter_context(server.connect())
            c.sendall(GET)
            assert c.recv(12) == b"HTTP/1.1 200"
        yield


@pytest.mark.parametrize("others", [0, 3])
def test_a_half_closed_client_gets_an_answer_that_takes_time(server, others):
    with idle(server, others):
        for _ in range(10):  # whether it was waiting already when it closed, or just began to
            answer = server.raw(completion()).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            head, body = answer.split(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert json.loads(body)["usage"]["completion_tokens"] == 400
            assert unchunked(server.raw(completion(stream=True))).endswith(b"data: [DONE]\n\n")
        assert server.raw(completion("1.0", stream=True)).endswith(b"data: [DONE]\n\n")


def test_a_half_closed_client_of_http_1_0_counts_as_gone():
    """It may not be asked."""
    with endless() as s:
        assert s.raw(completion("1.0", max_tokens=10**6)) == b""
        s.wait_metric(CANCELLED, 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("leave", [close, reset])
def test_a_client_that_half_closes_and_leaves_ends_its_work(leave, stream):
    with endless("--sse_keepalive_s", 1) as s, idle(s, 3):
        for _ in range(5):
            c = s.send(CHAT, chat(stream=stream, **FOREVER))
            s.wait_metric(RUNNING, 1)
            c.shutdown(socket.SHUT_WR)
            assert c.recv(1000)  # the question, or what it streams
            assert s.metric(RUNNING) == 1
            leave(c)
            s.wait_metric(RUNNING, 0)


@pytest.mark.parametrize("option, sent", [
    ("header", b""), ("header", b"GET / HT"), ("idle", GET), ("body", POST[:400])])
def test_a_silent_client_is_closed_in_time(option, sent):
    """Only the one limit that is for it is short."""
    with Server(f"--{option}_timeout_s", 1) as s, s.connect() as c:
        c.sendall(sent)
        answer = read_all(c)  # until the server closes
    if option == "idle":
        assert answer.startswith(b"HTTP/1.1 200")
    elif option == "body":
        head, body = answer.split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ") and b"x-request-id: req-" in head
        assert json.loads(body)["error"]["code"] == "request_timeout"
    else:
        assert answer == b""


@pytest.mark.parametrize("request_, status", [
    (GET.replace(b"Host: a\r\n", b""), 400), (GET.replace(b"Host: a", b"Host a"), 400),
    (GET.replace(b"1.1", b"2.0"), 505), (GET.replace(b"Host:", b"X" * 70_000 + b":"), 431),
    (GET.replace(b"/version", b"/" + b"x" * 70_000), 414),
    (POST.replace(b"Length: ", b"Length: -"), 400),
    (POST.replace(b"Length: ", b"Length: 99999999999999999999"), 413),
    (CHUNKED.replace(b"5\r\n", b"5x\r\n"), 400),
    (CHUNKED.replace(b"5\r\n", b"ffffffffffffffffff\r\n"), 413),
], ids=range(9))
def test_what_is_no_http_is_refused_and_closed(patient, request_, status):
    """By libmicrohttpd, in its own words; docs/API.md says so."""
    assert patient.raw(request_).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("encoding", [b"gzip, chunked", b"gzip", b"identity", b"chunked, chunked"])
def test_a_body_whose_end_nobody_knows_is_refused_at_once(patient, encoding):
    with patient.connect() as c:
        c.sendall(CHUNKED.replace(b"chunked", encoding))
        head, body = read_all(c).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert "Transfer-Encoding" in json.loads(body)["error"]["message"]
