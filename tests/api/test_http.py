"""Raw HTTP: malformed bodies at every route, sizes, methods, paths."""
import json
import random
import re

import pytest

pytestmark = pytest.mark.asan
POSTS = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/apply-template"]


def malformed_bodies():
    """200 bodies that are no request: broken JSON, wrong shapes, and damaged good requests."""
    fixed = [
        b"", b" ", b"\0", b"{", b"}", b"[", b"[]", b"null", b"true", b"5", b'"x"', b"{}{}", b"{,}",
        b'{"a"}', b'{"a":}', b'{"a":1,}', b"{'a':1}", b'{"a":NaN}', b'{"a":Infinity}',
        b'{"a":-}', b'{"a":01}', b'{"a":1e999}', b'{"a":"\xff"}', b'{"a":"\\ud800"}',
        b'{"a":"\\u0000"}', b'{"a":"\x01"}', b'{"a":"\\x"}', b'{"a":1,"a":2}', b"\xef\xbb\xbf{}",
        b"[" * 10000, b'{"a":' * 500 + b"1" + b"}" * 500, b'{"messages":' + b"9" * 70 + b"}",
        b'{"messages":[{}]}', b'{"messages":[[]]}', b'{"messages":[null]}', b'{"prompt":[null]}',
        b'{"prompt":[[null]]}', b'{"prompt":{"a":1}}', b'{"tokens":[[1]]}', b'{"tokens":{}}',
        b'{"content":[]}', b'{"messages":[{"role":"user","content":{}}]}',
    ]
    good = json.dumps({"messages": [{"role": "user", "content": "x"}], "prompt": "x",
                       "tokens": [1], "stream": False, "max_tokens": 1}).encode()
    rnd = random.Random(1)
    while len(fixed) < 200:
        body = bytearray(good)
        for _ in range(rnd.randint(1, 4)):
            kind, at = rnd.randrange(3), rnd.randrange(len(body))
            if kind == 0:
                body[at] = rnd.randrange(256)
            elif kind == 1:
                del body[at:at + rnd.randint(1, 8)]
            else:
                body[at:at] = rnd.choice([b'"', b"{", b"[", b"\\", b",", b"\xc3", b"-"])
        try:
            json.loads(bytes(body))
        except ValueError:
            fixed.append(bytes(body))
    return fixed


@pytest.mark.parametrize("path", POSTS)
def test_two_hundred_malformed_bodies_are_400_and_nothing_breaks(server, path):
    for body in malformed_bodies():
        status, headers, text = server.request("POST", path, body)
        assert status == 400, (body[:80], status, text)
        assert headers["Content-Type"].startswith("application/json")
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert server.request("GET", "/health")[0] == 200


@pytest.mark.parametrize("path", POSTS)
def test_a_body_that_is_too_large_is_413(server, path):
    status, _, text = server.request("POST", path, b'{"a":"' + b"x" * (2 << 20) + b'"}')
    assert status == 413 and json.loads(text)["error"]["code"] == "request_too_large"


def test_a_compressed_body_is_415(server):
    for coding, status in (("gzip", 415), ("br", 415), ("identity", 200), ("", 200)):
        got, _, text = server.request("POST", "/tokenize", b'{"content": "x"}', {"Content-Encoding": coding})
        assert got == status
        assert status == 200 or json.loads(text)["error"]["code"] == "unsupported_media_type"


def test_a_body_of_one_megabyte_is_read(server):
    text = "x" * (1000 << 10)
    status, r = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]})
    assert status == 400 and r["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", ["/nothing", "/v1/audio/speech", "/v1/chat", "/v1/images/things",
                                  "/v1/chat/completions/x", "/%2e%2e/etc/passwd", "/v1/v1/models"])
def test_an_unknown_path_is_404_in_json(server, path):
    for method in ("GET", "POST"):
        status, _, text = server.request(method, path, b"{}" if method == "POST" else None)
        assert status == 404
        assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("method, path, allow", [
    ("GET", "/v1/chat/completions", "POST"), ("PUT", "/v1/completions", "POST"),
    ("POST", "/v1/models", "GET"), ("DELETE", "/tokenize", "POST"), ("POST", "/health", "GET")])
def test_a_wrong_method_is_405_with_allow(server, method, path, allow):
    status, headers, text = server.request(method, path)
    assert status == 405 and allow in headers["Allow"]
    assert json.loads(text)["error"]["code"] == "method_not_allowed"


def test_paths_work_with_a_slash_and_without_v1(server):
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    for path in ("/v1/chat/completions/", "/chat/completions"):
        assert server.post(path, body)[0] == 200
    assert server.get("/models/tiny")[0] == 200
    assert server.get("/v1/models/tiny/")[0] == 200


def test_a_target_in_absolute_form_is_that_path(server):
    for target, expected in (("http://any.example/health", 200), ("HTTP://any.example:80/health?x=1", 200),
                             ("https://any.example/v1/models", 200), ("http://any.example", 404),
                             ("http://any.example?x=1", 404), ("http:///nothing", 404)):
        assert server.request("GET", target)[0] == expected, target


def test_models_describe_themselves(server, client):
    model = client.models.list().data[0]
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "duetto")
    _, m = server.get("/v1/models/tiny")
    assert m["max_model_len"] == 512 and m["parent"] is None
    assert m["meta"]["n_vocab"] == 320 and m["meta"]["n_ctx_train"] == 512
    assert m["meta"]["n_params"] > 1000 and m["meta"]["size"] > 1000
    assert m["meta"]["modalities"] == {"input": ["text"], "output": ["text"]}


def test_props_say_version_device_limits_and_template(server):
    status, p = server.get("/props")
    assert status == 200 and p["device"].startswith("cpu") and p["total_slots"] == 16
    assert "im_start" in p["chat_template"] and p["limits"]["max_stop"] == 16
    assert p["models"][0]["id"] == "tiny"
    assert not re.search(r"0x[0-9a-f]{6}|/tests/|/home|/work", json.dumps(p))


def test_openapi_lists_every_route_and_field(server):
    status, doc = server.get("/openapi.json")
    assert status == 200 and doc["openapi"] == "3.1.0"
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}",
                 "/tokenize", "/detokenize", "/apply-template", "/props", "/health", "/metrics"):
        assert path in doc["paths"], path
    chat = doc["components"]["schemas"]["ChatRequest"]["properties"]
    assert chat["temperature"]["minimum"] == 0 and chat["temperature"]["maximum"] == 2
    assert chat["n"]["type"] == ["integer", "null"] and chat["n"]["maximum"] == 16
    assert "404" in doc["paths"]["/v1/models/{model}"]["get"]["responses"]
    assert "prompt" in doc["components"]["schemas"]["CompletionRequest"]["properties"]
    for ref in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(doc)):
        assert ref in doc["components"]["schemas"]


def test_openapi_names_the_body_of_every_post(server):
    _, doc = server.get("/openapi.json")
    refs = {path: ops["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            for path, ops in doc["paths"].items() if "post" in ops}
    assert [path for path, ref in refs.items() if ref.endswith("/DetokenizeRequest")] == ["/detokenize"]
    for path in ("/v1/adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        assert refs[path].endswith("/AdapterRequest")


def test_health_live_and_version_answer(server):
    for path in ("/health", "/ready", "/live", "/ping", "/version"):
        assert server.request("GET", path)[0] == 200
    assert "version" in server.get("/version")[1]


def test_head_has_no_body(server):
    status, _, text = server.request("HEAD", "/v1/models")
    assert status == 200 and text == b""


def test_every_answer_has_a_request_id(server):
    ids = {server.request("GET", "/v1/models")[1].get("x-request-id") for _ in range(3)}
    assert len(ids) == 3 and None not in ids
    mine = server.request("GET", "/v1/models", headers={"x-request-id": "mine-1"})[1]
    assert mine["x-request-id"] == "mine-1"


def test_metrics_have_vllm_names(server):
    text = server.request("GET", "/metrics")[2].decode()
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting",
                 "vllm:kv_cache_usage_perc", "vllm:generation_tokens_total"):
        assert f"# TYPE {name} " in text
