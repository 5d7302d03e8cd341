"""Many at once, and clients that leave."""
import concurrent.futures

import pytest

from harness import CANCELLED, CHAT, LOUD, chat, read_all, unchunked

pytestmark = pytest.mark.asan


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
    server.wait_idle()


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
    server.wait_idle()


def test_a_hundred_clients_that_leave_disturb_nobody(server):
    want = text(server, 3)
    for i in range(100):
        with server.send(CHAT, body(1, stream=True, max_tokens=400)) as c:
            if i % 2:
                c.recv(100)
        if i % 20 == 0:
            assert text(server, 3) == want
    server.wait_idle()
    assert text(server, 3) == want


def test_a_client_that_does_not_read_gets_an_error_not_memory(start):
    s = start("--max_answer_kib", 64)
    with s.send(CHAT, chat(stream=True, **LOUD), "Connection: close", receive_buffer=4096) as c:
        assert c.recv(12) == b"HTTP/1.1 200"
        s.wait_metric(CANCELLED, 1)
        answer = unchunked(read_all(c))
    assert b'"code":"slow_client"' in answer and b"[DONE]" not in answer


def test_an_answer_over_its_limit_is_an_error_that_says_so(start):
    s = start("--max_answer_kib", 64)
    status, r = s.post(CHAT, chat(**LOUD))
    assert status == 400 and r["error"]["code"] == "answer_too_large"
    s.wait_idle()
    assert s.post(CHAT, body(1))[0] == 200
