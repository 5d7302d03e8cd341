"""Refusals: what the openai client raises, and what the body says."""
import time

import openai
import pytest

from harness import CHAT, FOREVER, PAINTER, RUNNING, TINY, WAITING, chat, endless

pytestmark = pytest.mark.asan
HELLO = [{"role": "user", "content": "Hello"}]


def bad(server, path, body):
    status, answer = server.post(path, body)
    assert status == 400, answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    return answer["error"]


@pytest.mark.parametrize("fields, param", [
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 1e300}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 10000}, "n"),
    ({"n": 1.5}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"max_tokens": 2**53 + 1}, "max_tokens"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": ["a", None]}, "stop[1]"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"320": 1}}, "logit_bias"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"seed": "x"}, "seed"),
    ({"logprobs": 5}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"tools": {}}, "tools"),
    ({"tools": [{}]}, "tools[0].function.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"chat_template": "{{ x }}"}, "chat_template"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"model": 5}, "model"),
    ({"continue_final_message": True}, "continue_final_message"),
])
def test_a_bad_chat_field_is_named(server, fields, param):
    assert bad(server, "/v1/chat/completions", {"messages": HELLO, **fields})["param"] == param


@pytest.mark.parametrize("messages, param", [
    (None, "messages"), ([], "messages"), ("hi", "messages"), ({}, "messages"),
    (["hi"], "messages[0]"),
    ([{"content": "x"}], "messages[0].role"),
    ([{"role": "king", "content": "x"}], "messages[0].role"),
    ([{"role": 5, "content": "x"}], "messages[0].role"),
    (HELLO + [{"role": "user"}], "messages[1].content"),
    (HELLO + [{"role": "user", "content": 5}], "messages[1].content"),
    ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ([{"role": "user", "content": [{"type": "text", "text": "a"},
                                   {"type": "image_url", "image_url": {"url": "x"}}]}],
     "messages[0].content[1].type"),
    ([{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls"),
    ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function"),
])
def test_a_bad_message_is_named(server, messages, param):
    assert bad(server, "/v1/chat/completions", {"messages": messages})["param"] == param


def test_images_are_refused_in_words(server):
    e = bad(server, "/v1/chat/completions", {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]})
    assert "does not take images" in e["message"]


@pytest.mark.parametrize("fields, param", [
    ({}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": {}}, "prompt"),
    ({"prompt": [[]]}, "prompt[0]"), ({"prompt": ["a", 5]}, "prompt[1]"),
    ({"prompt": [1, "a"]}, "prompt[1]"), ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [0.5]}, "prompt[0]"), ({"prompt": [320]}, "prompt[0]"),
    ({"prompt": [[1], [2, 2**40]]}, "prompt[1][1]"), ({"prompt": ["a"] * 17}, "prompt"),
    ({"prompt": ["a"] * 8, "n": 4}, "n"),
    ({"prompt": "a", "suffix": "b"}, "suffix"), ({"prompt": "a", "best_of": 2}, "best_of"),
    ({"prompt": "a", "logprobs": 21}, "logprobs"), ({"prompt": "a", "logprobs": True}, "logprobs"),
    ({"prompt": "a", "echo": 1}, "echo"),
])
def test_a_bad_completion_field_is_named(server, fields, param):
    assert bad(server, "/v1/completions", fields)["param"] == param


def test_too_many_choices_or_pictures_say_this_servers_limit(start):
    s = start("--threads", 1, "--max_choices", 3, "--max_images", 2, models={"tiny": TINY, "painter": PAINTER})
    for path, most in (("/v1/chat/completions", 3), ("/v1/completions", 3), ("/v1/images/generations", 2)):
        for n in (0, most + 1, 17, 10**6):
            e = bad(s, path, {"messages": HELLO, "prompt": "x", "n": n})
            assert (e["param"], e["message"]) == ("n", f"'n' must be an integer from 1 to {most}, not {n}")
    status, r = s.post("/sdapi/v1/txt2img", {"prompt": "x", "batch_size": 2, "n_iter": 2})
    assert status == 400 and r["detail"] == "batch_size times n_iter must be at most 2, not 4"


def test_a_bad_request_raises_bad_request_error(client):
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=9)
    assert e.value.param == "temperature" and e.value.status_code == 400
    with pytest.raises(openai.BadRequestError):
        list(client.chat.completions.create(model="tiny", messages=[], stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_raises_not_found(client, stream):
    with pytest.raises(openai.NotFoundError) as e:
        client.chat.completions.create(model="gpt-9", messages=HELLO, stream=stream)
    assert e.value.code == "model_not_found" and e.value.param == "model"
    assert "'gpt-9' not found; this server has: tiny" in str(e.value)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_a_prompt_over_the_context_says_both_numbers(server, client):
    for text, number in (("x y " * 400, "512"), ("x y " * 4000, "512")):
        with pytest.raises(openai.BadRequestError) as e:
            client.chat.completions.create(model="tiny",
                                           messages=[{"role": "user", "content": text}])
        assert e.value.code == "context_length_exceeded" and number in str(e.value)
        with pytest.raises(openai.BadRequestError) as e:
            client.completions.create(model="tiny", prompt=text)
        assert e.value.code == "context_length_exceeded"
    e = bad(server, "/v1/completions", {"prompt": [5] * 513})
    assert e["code"] == "context_length_exceeded"
    assert "512" in e["message"] and "513" in e["message"]


def test_a_prompt_that_fills_the_context_can_be_scored_but_not_continued(server):
    full = {"prompt": [5] * 512, "echo": True, "logprobs": 0, "max_tokens": 0}
    status, r = server.post("/v1/completions", full)
    assert status == 200 and r["usage"]["total_tokens"] == 512
    assert bad(server, "/v1/completions", full | {"max_tokens": 1})["code"] == \
        "context_length_exceeded"


def test_a_wrong_key_raises_authentication_error(start):
    s = start(keys=["right-key", "second-key"])
    assert s.client().models.list().data[0].id == "tiny"
    assert s.client(api_key="second-key").models.list().data
    with pytest.raises(openai.AuthenticationError) as e:
        s.client(api_key="wrong").models.list()
    assert e.value.code == "invalid_api_key"
    assert s.request("GET", "/v1/models")[0] == 401
    assert s.request("GET", "/health")[0] == 200


def test_a_full_queue_raises_rate_limit_error():
    with endless("--max_sequences", 1, "--max_queued_jobs", 1) as s:
        with s.send(CHAT, chat(**FOREVER)):
            s.wait_metric(RUNNING, 1)
            with s.send(CHAT, chat(**FOREVER)):
                s.wait_metric(WAITING, 1)
                with pytest.raises(openai.RateLimitError) as e:
                    s.client().chat.completions.create(model="", messages=HELLO)
    assert e.value.status_code == 429 and e.value.code == "rate_limit_exceeded"
    assert int(e.value.response.headers["retry-after"]) >= 1


def test_strict_mode_refuses_unknown_fields(start):
    s = start("--strict", "true")
    status, r = s.post("/v1/chat/completions", {"messages": HELLO, "wat": 1})
    assert status == 400 and r["error"]["param"] == "wat"
    assert s.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1, "user": "x"})[0] == 200


# What the methods of openai 3.57 take.
CLIENT = {
    "/v1/chat/completions": "messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens "
    "metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention "
    "reasoning_effort response_format safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools "
    "top_logprobs top_p user verbosity web_search_options",
    "/v1/completions": "model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream stream_options "
    "suffix temperature top_p user",
    "/v1/responses": "access_programs background background_options context_management conversation image include input instructions max_output_tokens "
    "max_tool_calls metadata model moderation parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_options "
    "prompt_cache_retention reasoning safety_identifier service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p "
    "truncation user",
    "/v1/embeddings": "input model dimensions encoding_format user",
    "/v1/images/generations": "prompt background complexity frame_count frame_duration_ms model moderation n output_compression output_format "
    "partial_images quality response_format safety_identifier size stream style svg user",
    "/v1/images/edits": "image prompt background complexity frame_count frame_duration_ms input_fidelity markup mask model n output_compression "
    "output_format partial_images quality response_format safety_identifier size stream svg user",
    "/v1/images/variations": "image model n response_format size user",
}


@pytest.mark.parametrize("path", CLIENT)
def test_every_parameter_of_the_client_is_known(server, path):
    _, doc = server.get("/openapi.json")
    ref = doc["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    known = doc["components"]["schemas"][ref.rsplit("/", 1)[1]]["properties"]
    assert not set(CLIENT[path].split()) - set(known)


def test_a_long_message_that_is_not_shown_is_missed_in_time(start):
    s = start("--client_templates", "true", "--max_body_kib", 1 << 13)
    messages = [{"role": "user", "content": "a" * 3_000_000},
                {"role": "assistant", "content": "a" * 1_000_000 + "b"}]
    begin = time.monotonic()
    status, r = s.post("/apply-template", {
        "messages": messages, "chat_template": "{{ messages[0].content }}",
        "continue_final_message": True, "add_generation_prompt": False})
    assert status == 400 and r["error"]["param"] == "continue_final_message"
    assert time.monotonic() - begin < 20


def test_client_templates_work_where_allowed(start):
    s = start("--client_templates", "true")
    body = {"messages": HELLO, "chat_template": "{{ messages[0].content }}!"}
    assert s.post("/apply-template", body) == (200, {"prompt": "Hello!"})
    status, r = s.post("/apply-template", body | {"chat_template": "{% if"})
    assert status == 400 and r["error"]["param"] == "chat_template"


@pytest.mark.parametrize("path, body", [
    ("/tokenize", {}), ("/tokenize", {"content": 5}), ("/tokenize", {"content": "a", "prompt": "b"}),
    ("/detokenize", {}), ("/detokenize", {"tokens": "x"}), ("/detokenize", {"tokens": [-1]}),
    ("/detokenize", {"tokens": [320]}), ("/detokenize", {"tokens": [0.5]}),
    ("/apply-template", {}), ("/apply-template", {"messages": []}),
])
def test_bad_helper_requests_are_400(server, path, body):
    bad(server, path, body)
