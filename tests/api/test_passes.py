"""Second passes by the server: hires, upscale, /v1/images/upscale, and bodies that no client would send.  That the
pictures are the right ones, the golden tests say."""
import base64
import io
import json

import openai
import PIL.Image
import pytest

from harness import PAINTER, ROOT, eventually, form, picture, png

HELD = "duetto:images_held_bytes"
GENERATE, UPSCALE = "/v1/images/generations", "/v1/images/upscale"
BASE = {"model": "painter", "prompt": "a red fox", "size": "48x32", "steps": 2, "seed": 5}


@pytest.fixture(scope="module")
def studio(start):
    fixtures = ROOT / "tests/fixtures"
    return start("--threads", 1, "--cache_mib", 256, models={
        "painter": PAINTER, "xl": fixtures / "sd_sdxl", "refiner": fixtures / "sd_refiner",
        "x4": fixtures / "sd_upscaler",
        "four": fixtures / "upscale_first.safetensors",
        "compact": fixtures / "upscale_compact.safetensors"})


def ask(server, path, **fields):
    status, _, text = server.request("POST", path, fields)
    return status, json.loads(text)


def sizes(answer):
    return [picture(type("d", (), d)).size for d in answer["data"]]


@pytest.mark.parametrize("passes, size", [
    ({"hires": {}}, (96, 64)),
    ({"hires": {"scale": 1.5, "upscaler": "latent_nearest", "steps": 3, "strength": 0.5}}, (72, 48)),
    ({"hires": {"size": "64x48", "upscaler": "latent_bicubic"}}, (64, 48)),
    ({"hires": {"upscaler": "image"}}, (96, 64)),
    ({"hires": {"scale": 3, "upscaler": "four"}}, (144, 96)),
    ({"upscale": {}}, (192, 128)),
    ({"upscale": {"model": "compact", "scale": 2.5}, "n": 2}, (120, 80)),
    ({"hires": {"upscaler": "compact"}, "upscale": {"model": "compact"}, "n": 2}, (384, 256)),
])
def test_passes_give_pictures_of_their_size(studio, passes, size):
    first, second = (ask(studio, GENERATE, **BASE, **passes) for _ in range(2))
    assert first[0] == 200, first[1]
    assert sizes(first[1]) == [size] * passes.get("n", 1)
    assert first[1]["size"] == f"{size[0]}x{size[1]}"
    assert [d["seed"] for d in first[1]["data"]] == list(range(5, 5 + passes.get("n", 1)))
    assert [d["b64_json"] for d in first[1]["data"]] == [d["b64_json"] for d in second[1]["data"]]
    studio.wait_metric(HELD, 0)


@pytest.mark.parametrize("fields", [
    {"refiner": {"model": "refiner"}},
    {"refiner": {"model": "refiner", "switch_at": 0.5, "aesthetic_score": 9}, "n": 2,
     "hires": {"scale": 2, "steps": 3}},
    {"denoising_end": 0.5}, {"tiled": True, "size": "96x64"},
    {"tiled": True, "hires": {"scale": 2}, "refiner": {"model": "refiner"}},
])
def test_refiners_and_windows(studio, fields):
    body = BASE | {"model": "xl", "size": "64x32", "steps": 4}
    first, second = (ask(studio, GENERATE, **(body | fields)) for _ in range(2))
    assert first[0] == 200, first[1]
    assert first[1]["data"] == second[1]["data"]
    plain = ask(studio, GENERATE, **(body | {k: fields[k] for k in ("size", "n") if k in fields}))
    assert plain[1]["data"] != first[1]["data"]
    studio.wait_metric(HELD, 0)


def test_parameters_say_what_was_done(studio):
    answer = ask(studio, GENERATE, **BASE, hires={"scale": 2, "strength": 0.5}, upscale={})[1]
    text = picture(type("d", (), answer["data"][0])).info["parameters"]
    assert "Hires resize: 96x64, Hires upscaler: Latent, Hires strength: 0.5" in text
    assert "Postprocess upscaler: four" in text


def test_upscale_takes_forms_and_json(studio):
    body, headers = form({"model": "compact", "output_format": "webp"}, [("image", png(10, 7))])
    status, _, text = studio.request("POST", UPSCALE, body, headers)
    assert status == 200
    data = json.loads(text)["data"][0]
    im = PIL.Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))
    assert im.size == (40, 28) and im.format == "WEBP" and "seed" not in data
    image = base64.b64encode(png(10, 7, True)).decode()  # transparency is dropped
    assert sizes(ask(studio, UPSCALE, image=image)[1]) == [(40, 28)]
    assert sizes(ask(studio, UPSCALE, image=image, scale=1)[1]) == [(10, 7)]
    body, headers = form({"prompt": "x", "size": "32x32", "hires": '{"scale": 2}', "steps": "2"},
                         [("image", png(32, 32))])
    status, _, text = studio.request("POST", "/v1/images/edits", body, headers)
    assert status == 200 and sizes(json.loads(text)) == [(64, 64)]


def test_outpainting_keeps_the_picture(studio):
    r = studio.client().images.edit(
        image=("a.png", png(32, 32)), prompt="x", model="painter", size="64x48",
        extra_body={"outpaint": "left", "steps": 2, "keep_unmasked": True})
    im, old = picture(r.data[0]), PIL.Image.open(io.BytesIO(png(32, 32))).convert("RGB")
    assert im.size == (64, 48)
    assert im.crop((0, 16, 24, 32)).tobytes() == old.crop((0, 8, 24, 24)).tobytes()
    for more, param in (({"size": "16x16"}, "size"), ({"outpaint": "up"}, "outpaint")):
        fields = {"prompt": "x", "model": "painter", "outpaint": "center", **more}
        body, headers = form(fields, [("image", png(32, 32))])
        status, _, text = studio.request("POST", "/v1/images/edits", body, headers)
        assert status == 400 and json.loads(text)["error"]["param"] == param
    body, headers = form({"prompt": "x", "model": "painter", "outpaint": "top", "size": "64x64"},
                         [("image", png(32, 32)), ("mask", png(32, 32, True))])
    status, _, text = studio.request("POST", "/v1/images/edits", body, headers)
    assert status == 400 and json.loads(text)["error"]["param"] == "mask"


def test_streams_and_jobs_count_all_steps(studio):
    body = BASE | {"hires": {"steps": 4, "strength": 1}, "upscale": {}, "background": True,
                   "partial_images": 1}
    job = ask(studio, GENERATE, **body)[1]
    path = f"/v1/jobs/{job['id']}"
    done = eventually(lambda: (j := studio.get(path)[1])["status"] == "completed" and j)
    assert done["progress"]["n_steps"] == done["progress"]["step"] == 2 + 4 + 1
    s = studio.request("POST", UPSCALE, {"image": base64.b64encode(png(8, 8)).decode(),
                                         "stream": True})
    assert s[0] == 200 and b"image_edit.completed" in s[2] and b'"size":"32x32"' in s[2]


def test_a_client_that_leaves_gives_all_memory_back(studio):
    s = studio.send(GENERATE, BASE | {"steps": 900, "n": 4, "hires": {"upscaler": "four"},
                                      "upscale": {}})
    eventually(lambda: studio.metric(HELD) > 0)
    s.close()
    studio.wait_metric(HELD, 0)


# Steps: 40 of the base model, 40 of the refiner, 28 of hires, 40 of the x4 upscaler.
@pytest.mark.parametrize("steps_done", [0, 1, 39, 41, 79, 81, 107, 109, 130])
def test_a_job_cancelled_in_any_stage_gives_all_memory_back(studio, steps_done):
    studio.wait_metric(HELD, 0)
    body = BASE | {"model": "xl", "size": "64x32", "steps": 80, "tiled": True, "background": True,
                   "refiner": {"model": "refiner", "switch_at": 0.5},
                   "hires": {"scale": 1, "steps": 40, "upscaler": "image"},
                   "upscale": {"model": "x4", "steps": 40}}

    def caught():
        """Cancelled after that many steps, unless it was faster than we looked."""
        path = f"/v1/jobs/{ask(studio, GENERATE, **body)[1]['id']}"

        def reached():
            job = studio.get(path)[1]
            assert job["status"] != "failed" and job["progress"]["n_steps"] in (0, 148), job
            return job["progress"]["step"] >= steps_done
        eventually(reached)
        gone = json.loads(studio.request("DELETE", path)[2])
        studio.wait_metric(HELD, 0)
        return gone["cancelled"]
    eventually(caught)


@pytest.mark.parametrize("fields, param", [
    ({"hires": 5}, "hires"), ({"hires": []}, "hires"), ({"hires": True}, "hires"),
    ({"hires": {"sclae": 2}}, "hires"), ({"hires": {"scale": 0.5}}, "hires.scale"),
    ({"hires": {"scale": 1e9}}, "hires.scale"), ({"hires": {"scale": "2"}}, "hires.scale"),
    ({"hires": {"size": "0x0"}}, "hires"), ({"hires": {"size": "64"}}, "hires.size"),
    ({"hires": {"size": "64x64", "scale": 2}}, "hires.size"),
    ({"hires": {"size": "99999x99999"}}, "hires"), ({"hires": {"size": "63x64"}}, "hires"),
    ({"hires": {"steps": 0}}, "hires.steps"), ({"hires": {"strength": 0}}, "hires.strength"),
    ({"hires": {"strength": 2}}, "hires.strength"), ({"hires": {"upscaler": 3}}, "hires.upscaler"),
    ({"hires": {"upscaler": "painter"}}, "hires.upscaler"),
    ({"upscale": 4}, "upscale"), ({"upscale": {"x": 1}}, "upscale"),
    ({"upscale": {"scale": 0}}, "upscale.scale"), ({"upscale": {"model": "painter"}}, "upscale.model"),
    ({"upscale": {"model": []}}, "upscale.model"),
    ({"size": "1024x1024", "upscale": {"scale": 8}}, "upscale"),
    ({"refiner": 1}, "refiner"), ({"refiner": {}}, "refiner.model"),
    ({"refiner": {"model": "four"}}, "refiner.model"), ({"refiner": {"model": "refiner", "x": 1}}, "refiner"),
    ({"refiner": {"model": "refiner", "switch_at": 1}}, "refiner.switch_at"),
    ({"refiner": {"model": "refiner", "aesthetic_score": "a"}}, "refiner.aesthetic_score"),
    ({"refiner": {"model": "refiner"}, "denoising_end": 0.5}, "refiner"),
    ({"refiner": {"model": "refiner"}}, "refiner"),  # latents of another scale
    ({"denoising_end": 2}, "denoising_end"), ({"denoising_end": "x"}, "denoising_end"),
    ({"tiled": 3}, "tiled"), ({"aesthetic_score": -1}, "aesthetic_score"),
])
def test_rubbish_names_the_field(studio, fields, param):
    status, answer = ask(studio, GENERATE, **(BASE | fields))
    assert status == 400 and answer["error"]["param"] == param, answer


def test_unknown_networks_are_not_found(studio):
    for path, fields, param in ((GENERATE, {"upscale": {"model": "nobody"}}, "upscale.model"),
                                (GENERATE, {"hires": {"upscaler": "nobody"}}, "hires.upscaler")):
        status, answer = ask(studio, path, **(BASE | fields))
        assert status == 404 and answer["error"]["param"] == param


def test_upscale_refuses_what_is_no_picture(studio):
    image = base64.b64encode(png(8, 8)).decode()
    for fields, param in (({}, "image"), ({"image": "%%%"}, "image"), ({"image": 5}, "image"),
                          ({"image": image, "scale": 9}, "scale"),
                          ({"image": image, "scale": None, "model": "painter"}, "model")):
        status, answer = ask(studio, UPSCALE, **fields)
        assert status == 400 and answer["error"]["param"] == param, (fields, answer)
    with pytest.raises(openai.BadRequestError):
        studio.client().images.generate(prompt="x", model="four")


def test_a_server_without_a_network_says_so(server):
    image = base64.b64encode(png(8, 8)).decode()
    status, answer = ask(server, UPSCALE, image=image)
    assert status == 404 and answer["error"]["code"] == "model_not_found"
