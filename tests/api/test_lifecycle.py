"""Clients that leave, overload, and shutting down: nobody else pays for it."""
import concurrent.futures
import json
import os
import random
import signal
import socket
import threading
import time

import pytest

from harness import Server, chat

pytestmark = pytest.mark.asan
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
LONG = {"max_tokens": 400, "ignore_eos": True, "temperature": 0}


@pytest.fixture
def short():
    """Fewer rounds, for the slow sanitised server."""
    return bool(os.environ.get("DUETTO_TEST_SHORT"))


def reset(s):
    """Closes so that the server sees a reset, as from a process that died."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    s.close()


def stream_text(data):
    """The text of a complete chat stream; checks its frame."""
    events = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(e)["choices"][0]["delta"] for e in events[:-1] if json.loads(e)["choices"]]
    return "".join(d.get("content") or "" for d in deltas)


def read_all(s):
    data = b""
    while part := s.recv(65536):
        data += part
    s.close()
    return data


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
def test_a_client_that_leaves_frees_its_slot(leave):
    with Server("--max_sequences", 2) as server:
        for _ in range(4):
            s = server.stream("/v1/chat/completions", chat(stream=True, **LONG))
            s.recv(100)
            leave(s)
            server.wait_metric(RUNNING, 0, 2)
        quiet = server.stream("/v1/chat/completions", chat(**LONG))  # suspended: nothing is sent
        server.wait_metric(RUNNING, 1, 2)
        leave(quiet)
        server.wait_metric(RUNNING, 0, 2)
        assert server.post("/v1/chat/completions", chat(max_tokens=2))[0] == 200


def test_queued_clients_that_leave_are_forgotten():
    with Server("--max_sequences", 1) as server:
        first = server.stream("/v1/chat/completions", chat(stream=True, **LONG))
        first.recv(100)
        queued = [server.stream("/v1/chat/completions", chat(**LONG)) for _ in range(5)]
        time.sleep(0.05)
        for s in queued:
            s.close()
        first.close()
        server.wait_metric(WAITING, 0, 2)
        server.wait_metric(RUNNING, 0, 2)


def test_aborts_do_not_disturb_the_neighbours(short):
    body = chat("Tell me a story", max_tokens=60, temperature=0.8, seed=5, ignore_eos=True)
    with Server("--max_sequences", 8) as server:
        alone = server.post("/v1/chat/completions", body)[2]["choices"][0]["message"]["content"]
        stop = threading.Event()

        def abort(seed):
            rng = random.Random(seed)
            while not stop.is_set():
                s = server.stream("/v1/chat/completions",
                                  chat("word " * rng.randint(1, 30), stream=True, **LONG))
                time.sleep(rng.random() * 0.02)
                (reset if rng.random() < 0.5 else socket.socket.close)(s)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(abort, i) for i in range(3)]
            for _ in range(5 if short else 20):
                answer = server.post("/v1/chat/completions", body)[2]
                assert answer["choices"][0]["message"]["content"] == alone
            stop.set()
            for j in jobs:
                j.result()
        server.wait_metric(RUNNING, 0, 5)


def test_a_full_queue_is_429_with_retry_after():
    with Server("--max_sequences", 1, "--max_queued_jobs", 2) as server:
        streams = []
        for _ in range(3):
            streams.append(server.stream("/v1/chat/completions", chat(stream=True, **LONG)))
            time.sleep(0.05)
        status, headers, body = server.post("/v1/chat/completions", chat(max_tokens=1))
        if status != 200:  # the machine may have been faster than us
            assert status == 429 and int(headers["retry-after"]) >= 1
            assert set(body["error"]) == {"message", "type", "param", "code"}
        for s in streams:
            s.close()
        server.wait_metric(RUNNING, 0, 5)


def test_sixty_four_chats_on_sixteen_slots_are_the_same_as_alone():
    with Server("--max_sequences", 16) as server:
        bodies = [chat(f"Number {i} " + "x" * (i % 7), max_tokens=24, seed=i, ignore_eos=True,
                       temperature=0 if i % 2 else 0.9) for i in range(64)]
        ask = lambda b: server.post("/v1/chat/completions", b)[2]["choices"][0]["message"]["content"]
        alone = [ask(b) for b in bodies]
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            assert list(pool.map(ask, bodies)) == alone


def test_term_finishes_streams_and_refuses_new_requests():
    with Server("--drain_settle_s", 1) as server:
        streams = [server.stream("/v1/chat/completions", chat(stream=True, **LONG),
                                 ["Connection: close"]) for _ in range(20)]
        for s in streams:
            s.recv(15)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert server.get("/health")[0] == 503
        status, headers, _ = server.post("/v1/chat/completions", chat(max_tokens=1))
        assert status == 503 and headers["connection"].lower() == "close"
        for s in streams:
            assert b"data: [DONE]" in read_all(s)
        assert server.process.wait(30) == 0


def test_streams_end_with_an_error_event_when_the_grace_is_over():
    with Server("--drain_settle_s", 0, "--drain_grace_s", 0, "--n_ctx", 512) as server:
        s = server.stream("/v1/chat/completions", chat(stream=True, n=8, **LONG), ["Connection: close"])
        s.recv(15)
        server.process.send_signal(signal.SIGTERM)
        data = read_all(s)
        assert b"[DONE]" in data or b'"error"' in data
        assert server.process.wait(30) == 0


def test_junk_and_aborts_leave_no_memory_behind(short):
    rng = random.Random(3)
    rounds = 300 if short else 10000

    def junk(server):
        kind = rng.randrange(4)
        size = rng.randrange(200)
        if kind == 0:
            return rng.randbytes(size)
        body = rng.randbytes(size) if kind == 1 else json.dumps(
            {rng.choice(["messages", "prompt", "n", "stop", "model"]):
             rng.choice([None, 3, -1, [], {}, "x" * size, [[[]]], 1e300, True])}).encode()
        path = rng.choice(["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize",
                           "/apply-template", "/nothing"])
        return (f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode() + body

    with Server("--max_sequences", 4, "--cache_mib", 4) as server:
        def batch(n):
            for _ in range(n):
                with server.connect() as s:
                    try:
                        s.sendall(junk(server))
                        s.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass

        def aborts(n):
            for _ in range(n):
                s = server.stream("/v1/chat/completions", chat(stream=True, **LONG))
                if rng.random() < 0.5:
                    s.recv(20)
                reset(s)

        batch(rounds // 4)
        aborts(20 if short else 300)
        server.wait_metric(RUNNING, 0, 10)
        before = server.rss_kib()
        batch(rounds)
        aborts(30 if short else 1000)
        server.wait_metric(RUNNING, 0, 10)
        server.wait_metric("duetto:connections", 1, 20)
        assert server.get("/health")[0] == 200
        if not short:  # sanitizers keep freed memory
            assert server.rss_kib() < before * 1.05 + 2048
        assert server.stop() == 0
