"""Who may call, and how: API keys, browsers of other origins, TLS; and the openai client's own types."""
import contextlib
import json
import socket
import subprocess

import pytest

from harness import CHAT, PATIENCE_S, chat, read_all

pytestmark = pytest.mark.asan
ORIGIN, OTHER = "https://app.example", "https://evil.example"


@pytest.fixture(scope="module")
def guarded(start):
    return start("--cors_origins", f"https://x.example, {ORIGIN}", keys=["right-key", "second"])


@pytest.mark.parametrize("headers, status", [
    ({}, 401), ({"Authorization": "Bearer right-key"}, 200), ({"Authorization": "Bearer second"}, 200),
    ({"authorization": "bearer right-key"}, 200), ({"x-api-key": "second"}, 200),
    ({"Authorization": "Bearer right-ke"}, 401), ({"Authorization": "Bearer right-key2"}, 401),
    ({"Authorization": "Bearer "}, 401), ({"Authorization": "Bearer"}, 401),
    ({"Authorization": "Basic right-key"}, 401), ({"Authorization": "right-key"}, 401),
    ({"Authorization": "Bearer right-key,second"}, 401), ({"x-api-key": ""}, 401),
    ({"Authorization": "Bearer right-keyright-key"}, 401),
])
def test_only_a_whole_key_opens_the_door(guarded, headers, status):
    for method, path, body in (("GET", "/v1/models", None), ("POST", CHAT, chat(max_tokens=1))):
        got, answer_headers, text = guarded.request(method, path, body, headers)
        assert got == status
        if status == 401:
            assert json.loads(text)["error"]["code"] == "invalid_api_key"
            assert answer_headers["WWW-Authenticate"] == "Bearer"


def test_public_routes_need_no_key(guarded):
    for path in ("/health", "/ready", "/live", "/ping", "/version", "/openapi.json", "/metrics"):
        assert guarded.request("GET", path)[0] == 200
    for path in ("/props", "/v1/models/tiny"):
        assert guarded.request("GET", path)[0] == 401


def test_browsers_are_let_in_by_origin(guarded):
    key = {"Authorization": "Bearer second"}
    _, headers, _ = guarded.request("GET", "/v1/models", headers={**key, "Origin": ORIGIN})
    assert headers["Access-Control-Allow-Origin"] == ORIGIN and headers["Vary"] == "Origin"
    for origin in (OTHER, "null", ORIGIN + ".evil", ORIGIN[:-1], "*", ""):
        _, headers, _ = guarded.request("GET", "/v1/models", headers={**key, "Origin": origin})
        assert headers["Access-Control-Allow-Origin"] is None


def test_a_preflight_needs_no_key(guarded):
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    status, headers, _ = guarded.request("OPTIONS", CHAT, headers={**ask, "Origin": ORIGIN})
    assert status == 204 and "POST" in headers["Access-Control-Allow-Methods"]
    assert "authorization" in headers["Access-Control-Allow-Headers"].lower()
    assert guarded.request("OPTIONS", CHAT, headers={**ask, "Origin": OTHER})[0] == 405


def test_an_error_can_be_read_by_an_allowed_origin(guarded):
    status, headers, _ = guarded.request("GET", "/v1/models", headers={"Origin": ORIGIN})
    assert status == 401 and headers["Access-Control-Allow-Origin"] == ORIGIN


def test_tls_streams_and_refuses_plain_text(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
                   check=True, capture_output=True)
    s = start("--tls_cert_file", folder / "cert.pem", "--tls_key_file", folder / "key.pem")
    whole = s.post(CHAT, chat(max_tokens=30, seed=1))[1]["choices"][0]["message"]["content"]
    _, _, text = s.request("POST", CHAT, chat(max_tokens=30, seed=1, stream=True))
    events = [json.loads(line[6:]) for line in text.decode().splitlines()
              if line.startswith("data: {")]
    deltas = [e["choices"][0]["delta"].get("content") or "" for e in events]
    assert "".join(deltas) == whole and text.endswith(b"data: [DONE]\n\n")
    ids = list(range(3, 203)) * 300  # an answer of many records
    assert len(s.post("/detokenize", {"tokens": ids})[1]["content"]) > 50000
    with socket.create_connection(("127.0.0.1", s.port), timeout=PATIENCE_S) as plain:
        answer = b""
        with contextlib.suppress(OSError):  # the server may have closed before any of these
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            plain.shutdown(socket.SHUT_WR)
            answer = read_all(plain)
        assert b"200 OK" not in answer
    assert s.request("GET", "/health")[0] == 200


def unknown_and_missing(o, path):
    """Fields that the client's types do not know, and those that they want and did not get."""
    for name in o.model_extra or {}:
        yield f"{path}.{name} is unknown"
    for name, field in type(o).model_fields.items():
        if field.is_required() and name not in o.model_fields_set:
            yield f"{path}.{name} is missing"
        value = getattr(o, name, None)
        for x in value if isinstance(value, list) else [value]:
            if hasattr(x, "model_fields_set"):
                yield from unknown_and_missing(x, f"{path}.{name}")


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_exactly_the_openai_types(client, stream):
    options = {"model": "tiny", "max_tokens": 4, "n": 2}
    if stream:
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    answers = [
        client.chat.completions.create(**chat(**options)),
        client.chat.completions.create(**chat(**options, logprobs=True, top_logprobs=2)),
        client.completions.create(prompt="ab", **options),
        client.completions.create(prompt="ab", echo=True, logprobs=2, **options)]
    for answer in answers:
        for o in answer if stream else [answer]:
            assert not list(unknown_and_missing(o, type(o).__name__))
