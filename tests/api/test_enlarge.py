"""The x4 upscaler by the server: /v1/images/upscale with a prompt, as a stage behind another model, limits and rubbish.
That the pictures are the right ones, the golden tests say."""
import base64
import json

import pytest

from harness import PAINTER, ROOT, eventually, form, picture, png

HELD = "duetto:images_held_bytes"
GENERATE, UPSCALE = "/v1/images/generations", "/v1/images/upscale"
BASE = {"model": "x4", "prompt": "a red fox", "steps": 2, "seed": 5,
        "image": base64.b64encode(png(12, 8)).decode()}


@pytest.fixture(scope="module")
def studio(start):
    fixtures = ROOT / "tests/fixtures"
    return start("--threads", 1, "--cache_mib", 256, models={
        "x4": fixtures / "sd_upscaler", "painter": PAINTER, "safe": fixtures / "sd_safety",
        "four": fixtures / "upscale_first.safetensors"})


def ask(server, path, **fields):
    status, _, text = server.request("POST", path, fields)
    return status, json.loads(text)


def sizes(answer):
    return [picture(type("d", (), d)).size for d in answer["data"]]


@pytest.mark.parametrize("fields, size", [
    ({}, (48, 32)), ({"scale": 2}, (24, 16)), ({"scale": 8, "n": 2}, (96, 64)),
    ({"noise_level": 0, "guidance_scale": 1, "scheduler": "euler_a"}, (48, 32)),
    ({"prompt": None, "negative_prompt": "old", "noise_level": 10}, (48, 32)),
    ({"image": base64.b64encode(png(13, 7)).decode()}, (52, 28)),  # not what the UNet halves
    ({"image": base64.b64encode(png(40, 24)).decode(), "tiled": True}, (160, 96)),
])
def test_pictures_have_their_size_and_their_seeds(studio, fields, size):
    first, second = (ask(studio, UPSCALE, **(BASE | fields)) for _ in range(2))
    assert first[0] == 200, first[1]
    n = fields.get("n", 1)
    assert sizes(first[1]) == [size] * n
    assert [d["seed"] for d in first[1]["data"]] == list(range(5, 5 + n))
    assert [d["b64_json"] for d in first[1]["data"]] == [d["b64_json"] for d in second[1]["data"]]
    other = ask(studio, UPSCALE, **(BASE | fields | {"noise_level": 7}))
    assert other[1]["data"][0]["b64_json"] != first[1]["data"][0]["b64_json"]
    studio.wait_metric(HELD, 0)


def test_a_picture_says_how_it_was_made(studio):
    text = picture(type("d", (), ask(studio, UPSCALE, **BASE)[1]["data"][0])).info["parameters"]
    assert text.startswith("a red fox\nSteps: 2, ") and "Seed: 5" in text
    assert "Noise level: 10" in text  # 20, or what the model has


@pytest.mark.parametrize("passes, size", [
    ({"upscale": {"model": "x4", "steps": 2}}, (192, 128)),
    ({"upscale": {"model": "x4", "steps": 2, "noise_level": 3, "guidance_scale": 2, "scale": 2}}, (96, 64)),
    ({"hires": {"upscaler": "x4", "scale": 2, "steps": 2}}, (96, 64)),
])
def test_stages(studio, passes, size):
    body = {"model": "painter", "prompt": "a red fox", "size": "48x32", "steps": 2, "seed": 5, "n": 2}
    first, second = (ask(studio, GENERATE, **body, **passes) for _ in range(2))
    assert first[0] == 200, first[1]
    assert sizes(first[1]) == [size] * 2
    assert first[1]["data"] == second[1]["data"]
    studio.wait_metric(HELD, 0)


def test_forms_streams_and_jobs(studio):
    body, headers = form({"model": "x4", "prompt": "a fox", "noise_level": "3", "steps": "2"},
                         [("image", png(10, 6))])
    status, _, text = studio.request("POST", UPSCALE, body, headers)
    assert status == 200 and sizes(json.loads(text)) == [(40, 24)]
    s = studio.request("POST", UPSCALE, BASE | {"stream": True})
    assert s[0] == 200 and b"image_edit.completed" in s[2]
    job = ask(studio, UPSCALE, **BASE, background=True)[1]
    done = eventually(lambda: (j := studio.get(f"/v1/jobs/{job['id']}")[1])["status"] == "completed" and j)
    assert done["progress"]["n_steps"] == 2


def test_a_client_that_leaves_gives_all_memory_back(studio):
    s = studio.send(UPSCALE, BASE | {"steps": 900, "n": 4})
    eventually(lambda: studio.metric(HELD) > 0)
    s.close()
    studio.wait_metric(HELD, 0)


@pytest.mark.parametrize("path, fields, param", [
    (UPSCALE, {"noise_level": 11}, "noise_level"), (UPSCALE, {"noise_level": -1}, "noise_level"),
    (UPSCALE, {"noise_level": "3"}, "noise_level"), (UPSCALE, {"noise_level": 1e12}, "noise_level"),
    (UPSCALE, {"prompt": 5}, "prompt"), (UPSCALE, {"steps": 0}, "steps"),
    (UPSCALE, {"strength": 0.5}, "strength"), (UPSCALE, {"size": "64x64"}, "size"),
    (UPSCALE, {"hires": {}}, "hires"), (UPSCALE, {"control": []}, "control"),
    (UPSCALE, {"image": None}, "image"), (UPSCALE, {"scale": 9}, "scale"),
    (UPSCALE, {"model": "painter"}, "model"),
    (UPSCALE, {"model": "four"}, "prompt"), (UPSCALE, {"model": "four", "prompt": None, "steps": None,
                                                      "seed": None, "noise_level": 1}, "noise_level"),
    (UPSCALE, {"image": base64.b64encode(png(1100, 4)).decode()}, "image"),
    (UPSCALE, {"stream": True, "partial_images": 1}, "partial_images"),  # of no known colours
    (GENERATE, {"image": None, "size": "48x32"}, "model"),
    (GENERATE, {"image": None, "model": "painter", "size": "48x32", "noise_level": 3}, "noise_level"),
    (GENERATE, {"image": None, "model": "painter", "size": "48x32", "refiner": {"model": "x4"}}, "refiner.model"),
    (GENERATE, {"image": None, "model": "painter", "size": "48x32",
                "upscale": {"model": "four", "noise_level": 3}}, "upscale"),
    (GENERATE, {"image": None, "model": "painter", "size": "48x32",
                "upscale": {"model": "x4", "noise_level": 300}}, "upscale"),
])
def test_rubbish_names_the_field(studio, path, fields, param):
    status, answer = ask(studio, path, **(BASE | fields))
    assert status == 400 and answer["error"]["param"] == param, answer


def test_lists_say_what_it_is(studio):
    models = {m["id"]: m["meta"] for m in studio.get("/v1/models")[1]["data"]}
    assert models["x4"]["kind"] == "upscaler"
    assert models["x4"]["modalities"] == {"input": ["text", "image"], "output": ["image"]}
    names = [u["name"] for u in studio.get("/sdapi/v1/upscalers")[1]]
    assert names[-2:] == ["x4", "four"]
    assert [m["title"] for m in studio.get("/sdapi/v1/sd-models")[1]] == ["painter", "safe"]


def test_what_a_checker_said_goes_through_the_upscaler(studio):
    body = {"model": "safe", "prompt": "a fox", "size": "48x32", "steps": 2, "n": 8, "seed": 1}
    plain, enlarged = (ask(studio, GENERATE, **body, **passes)[1]["data"]
                       for passes in ({}, {"upscale": {"model": "x4", "steps": 2}}))
    said = [[d["safety"] for d in data] for data in (plain, enlarged)]
    assert said[0] == said[1] and {s["flagged"] for s in said[0]} == {True, False}
