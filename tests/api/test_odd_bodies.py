"""Valid JSON that no client would send: in a good body of every route, each member and element becomes each odd value.
The answer is one of a picture, a text or an error that says something, never a crash, a hang or a 500."""
import base64
import copy
import json

import pytest

from harness import BERT, BLIP, PAINTER, ROOT, TINY, chat, png

pytestmark = pytest.mark.asan
PICTURE = "data:image/png;base64," + base64.b64encode(png(16, 16)).decode()
TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
DRAW = {"model": "painter", "prompt": "(a:1.2)", "size": "16x16", "steps": 1}
GOOD = {
    "/v1/chat/completions": chat(model="tiny", max_tokens=2, stop=["a"], logit_bias={"5": 3},
                                 tools=[{"type": "function", "function": TOOL}], tool_choice="auto"),
    "/v1/completions": {"model": "tiny", "prompt": [[1, 2], [3]], "max_tokens": 2, "logprobs": 1},
    "/v1/responses": {"model": "tiny", "max_output_tokens": 2, "tools": [{"type": "function", **TOOL}], "metadata": {"a": "b"},
                      "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                                {"type": "function_call_output", "call_id": "c", "output": "1"}]},
    "/v1/messages": {"model": "tiny", "max_tokens": 2, "system": [{"type": "text", "text": "s"}],
                     "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                     "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]},
                                  {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
                                  {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]}]},
    "/v1/rerank": {"model": "bert", "query": "a", "documents": ["a", {"text": "b"}], "top_n": 1},
    "/v1/embeddings": {"model": "bert", "input": ["a", [1, 2]], "dimensions": 3},
    "/tokenize": {"content": "a"}, "/detokenize": {"tokens": [1, 2]},
    "/v1/captions": {"model": "blip", "image": PICTURE, "max_tokens": 2, "num_beams": 2},
    "/v1/images/generations": {**DRAW, "hires": {"scale": 2, "strength": 1}, "step_cache": {"type": "deepcache", "interval": 2},
                               "loras": [{"name": "kohya", "scale": 1}], "control": [{"model": "edges", "image": PICTURE}]},
    "/v1/images/edits": {**DRAW, "image": PICTURE, "mask": PICTURE, "mask_mode": "white"},
    "/v1/images/upscale": {"image": PICTURE, "scale": 2},
    "/v1/adapters": {"name": "kohya"},
    "/sdapi/v1/txt2img": {"prompt": "x", "width": 16, "height": 16, "steps": 1, "override_settings": {"sd_vae": "Automatic"},
                          "alwayson_scripts": {"controlnet": {"args": [{"model": "edges", "image": PICTURE}]}}},
    "/sdapi/v1/img2img": {"prompt": "x", "width": 16, "height": 16, "steps": 1, "init_images": [PICTURE], "mask": PICTURE},
    "/sdapi/v1/extra-single-image": {"image": PICTURE, "upscaler_1": "four", "upscaling_resize": 2},
}
ODD = [None, True, -1, 2**53 + 1, 1e308, "", "\0", "\ud800", "x" * 3000, [], {}, [[]], [1], [{"args": [1]}],
       {"": {"type": None}}, {"$ref": "#"}]


def places(value, path=()):
    """The paths of all members and elements, however deep."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield path + (key,)
        yield from places(part, path + (key,))


@pytest.fixture(scope="module")
def everything(start):
    fixtures = ROOT / "tests/fixtures"
    return start("--threads", 1, "--cache_mib", 256, "--lora_dir", fixtures / "lora", models={
        "tiny": TINY, "bert": BERT, "painter": PAINTER, "blip": BLIP["caption"], "edges": fixtures / "control_a",
        "four": fixtures / "upscale_first.safetensors"})


@pytest.mark.parametrize("path", GOOD)
def test_odd_values_are_answered(everything, path):
    status, answer = everything.post(path, GOOD[path])
    assert status == 200, answer
    for place in places(GOOD[path]):
        for odd in ODD:
            body = copy.deepcopy(GOOD[path])
            inside = body
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = odd
            status, _, text = everything.request("POST", path, body)
            assert status in (200, 400, 404, 413), (place, odd, text)
            assert status == 200 or json.loads(text)["error"]["message"], (place, odd)
