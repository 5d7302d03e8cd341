"""Many at once, and clients that leave."""
import concurrent.futures
import http.client
import json
import socket
import time

import pytest

CHAT = "/v1/chat/completions"


def body(i, **options):
    return {"messages": [{"role": "user", "content": f"Tell me about number {i} " * (1 + i % 7)}],
            "max_tokens": 24, "seed": i, "ignore_eos": True, **options}


def text(server, i, **options):
    status, r = server.post(CHAT, body(i, **options))
    assert status == 200, r
    return r["choices"][0]["message"]["content"]


def test_64_chats_on_16_slots_say_the_same_as_alone(server):
    alone = [text(server, i) for i in range(64)]
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        together = list(pool.map(lambda i: text(server, i), range(64)))
    assert together == alone
    assert server.wait_idle()


def test_mixed_requests_at_once_all_answer(server):
    def one(i):
        kind = i % 5
        if kind == 0:
            return server.post(CHAT, body(i))[0]
        if kind == 1:
            return server.request("POST", CHAT, body(i, stream=True))[0]
        if kind == 2:
            return server.post("/v1/completions", {"prompt": ["a", "b"], "n": 2})[0]
        if kind == 3:
            return server.post("/tokenize", {"content": "hello " * 100})[0]
        return server.get("/v1/models")[0]

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        assert set(pool.map(one, range(200))) == {200}
    assert server.wait_idle()


def open_stream(server, **options):
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    c.request("POST", CHAT, json.dumps(body(1, stream=True, **options)),
              {"Content-Type": "application/json"})
    return c, c.getresponse()


def test_a_client_that_leaves_frees_its_slot(smollm):
    c, r = open_stream(smollm, max_tokens=1900)
    assert r.status == 200 and r.readline().startswith(b"data: ")
    assert smollm.metric("vllm:num_requests_running") == 1
    r.close()
    c.close()
    start = time.monotonic()
    assert smollm.wait_idle(5)
    assert time.monotonic() - start < 2


def test_a_client_that_leaves_before_the_answer_frees_its_slot(smollm):
    c = http.client.HTTPConnection("127.0.0.1", smollm.port, timeout=60)
    c.request("POST", CHAT, json.dumps(body(1, max_tokens=1900)),
              {"Content-Type": "application/json"})
    deadline = time.monotonic() + 10
    while smollm.metric("vllm:num_requests_running") == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert smollm.metric("vllm:num_requests_running") == 1
    c.close()
    assert smollm.wait_idle(5)


@pytest.mark.asan
def test_a_hundred_clients_that_leave_disturb_nobody(server):
    want = text(server, 3)
    for i in range(100):
        c, r = open_stream(server, max_tokens=400)
        if i % 2:
            r.readline()
        r.close()
        c.close()
        if i % 20 == 0:
            assert text(server, 3) == want
    assert server.wait_idle()
    assert text(server, 3) == want


LOUD = {"n": 16, "max_tokens": 450, "logprobs": True, "top_logprobs": 20}


@pytest.mark.asan
def test_a_client_that_does_not_read_gets_an_error_not_memory(start):
    s = start("--max_answer_kib", "64", "--write_timeout_s", "600")
    with socket.socket() as c:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.connect(("127.0.0.1", s.port))
        text = json.dumps(body(1, stream=True, **LOUD)).encode()
        c.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n%s" % (CHAT.encode(), len(text), text))
        assert c.recv(12) == b"HTTP/1.1 200"
        assert s.wait_idle(60)
        c.settimeout(20)
        answer = bytearray()
        while b"\r\n0\r\n" not in answer[-64:]:
            part = c.recv(65536)
            if not part:
                break
            answer += part
    assert b'"code":"slow_client"' in answer and b"[DONE]" not in answer


@pytest.mark.asan
def test_an_answer_over_its_limit_is_an_error_that_says_so(start):
    s = start("--max_answer_kib", "64")
    status, r = s.post(CHAT, body(1, **LOUD))
    assert status == 400 and r["error"]["code"] == "answer_too_large"
    assert s.wait_idle()
    assert s.post(CHAT, body(1))[0] == 200
