"""ControlNets and T2I-Adapters beside a tiny image model of random weights: that they steer, that a request has
the same bytes alone and beside others, and what is refused.  Which picture is right, the golden tests say."""
import base64
import concurrent.futures
import io
import json

import PIL.Image
import pytest

from harness import PAINTER, ROOT, TINY, eventually, form, png

GENERATE, EDIT, VARY = "/v1/images/generations", "/v1/images/edits", "/v1/images/variations"
FIXTURES = ROOT / "tests/fixtures"
CONTROLS = {name: FIXTURES / f"control_{name}" for name in ("a", "b", "pool", "full", "light")}
HELD = "duetto:images_held_bytes"
SMALL = {"prompt": "a fox", "size": "32x32", "steps": 3, "seed": 5, "scheduler": "ddim"}


def stripes(width=32, height=32, step=4):
    """A picture with edges in it, as base64."""
    im = PIL.Image.new("RGB", (width, height), (250, 240, 20))
    for x in range(0, width, 2 * step):
        im.paste((10, 30, 120), (x, 0, x + step, height))
    out = io.BytesIO()
    im.save(out, "PNG")
    return out.getvalue()


def data_url(file):
    return "data:image/png;base64," + base64.b64encode(file).decode()


IMAGE = data_url(stripes())


@pytest.fixture(scope="module")
def steered(start):
    return start("--threads", 1, "--cache_mib", 1024, "--images_at_once", 16, "--max_image_rows", 32,
                 models={"painter": PAINTER, "xl": FIXTURES / "sd_sdxl", "tiny": TINY,
                         "sdxl": FIXTURES / "control_sdxl",
                         "refiner": FIXTURES / "sd_refiner", **CONTROLS})


def pixels_of(status, answer):
    assert status == 200, answer
    im = PIL.Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    return im.tobytes()


def pixels(server, control, path=GENERATE, **fields):
    return pixels_of(*server.post(path, {**SMALL, **fields, "control": control}))


def error(server, control):
    status, answer = server.post(GENERATE, {**SMALL, "control": control})
    return status, answer["error"]["param"], answer["error"]["message"]


def test_controls_are_listed_with_their_kind(steered):
    models = {m["id"]: m["meta"] for m in steered.get("/v1/models")[1]["data"]}
    assert models["a"]["kind"] == "control" and models["a"]["arch"] == "controlnet"
    assert models["full"]["arch"] == "t2i-adapter"
    assert models["painter"]["kind"] == "image"


def test_each_setting_changes_the_picture(steered):
    one = {"model": "a", "image": IMAGE}
    seen = [pixels(steered, None)]
    for more in ({}, {"scale": 0.4}, {"end": 0.5}, {"start": 0.5}, {"guess_mode": True},
                 {"preprocessor": "canny"}, {"preprocessor": "canny", "high_threshold": 4000,
                                             "low_threshold": 4000},
                 {"preprocessor": "blur", "sigma": 3}, {"preprocessor": "tile", "factor": 8},
                 {"model": "b"}, {"model": "full"}, {"model": "light"}):
        seen.append(pixels(steered, [one | more]))
    seen.append(pixels(steered, [one, one | {"model": "b"}]))
    assert len(set(seen)) == len(seen)
    assert pixels(steered, []) == seen[0] and pixels(steered, [one | {"scale": 0}]) == seen[0]
    assert pixels(steered, [one | {"preprocessor": "none"}]) == seen[1]


@pytest.mark.parametrize("fields", [
    {"model": "painter", "size": "80x64", "tiled": True},
    {"model": "painter", "size": "80x64", "tiled": True, "step_cache": "deepcache:2"},
    {"model": "painter", "size": "32x32", "tiled": True, "hires": {"size": "80x64", "steps": 3}},
    {"model": "xl", "size": "64x32", "refiner": {"model": "refiner", "switch_at": 0.5}},
    {"model": "xl", "size": "48x32", "tiled": True, "n": 2, "hires": {"size": "64x48", "upscaler": "image"},
     "refiner": {"model": "refiner"}},
])
def test_windows_and_second_passes_are_steered(steered, fields):
    names = ("sdxl",) if fields["model"] == "xl" else ("a", "full")
    control = [{"model": name, "image": IMAGE} for name in names]
    body = SMALL | fields | {"steps": 4}
    first, second, plain = (steered.post(GENERATE, body | {"control": c}) for c in (control, control, []))
    assert first[0] == 200, first[1]
    assert first[1]["data"] == second[1]["data"] != plain[1]["data"]
    steered.wait_metric("duetto:images_held_bytes", 0)


def test_the_first_block_is_cached_in_steered_windows(steered):
    one = [{"model": "a", "image": IMAGE}]
    seen = [pixels(steered, one, model="painter", size="80x64", tiled=True, step_cache=cache)
            for cache in ("first_block:5", "first_block:0.000001", "off")]
    assert seen[0] != seen[1] == seen[2]


def test_edits_and_variations_are_steered_by_their_own_picture(steered):
    body = {"image": IMAGE, "strength": 0.7}
    own = pixels(steered, [{"model": "a", "preprocessor": "canny"}], VARY, **body)
    given = pixels(steered, [{"model": "a", "preprocessor": "canny", "image": IMAGE}], VARY, **body)
    assert own == given != pixels(steered, None, VARY, **body)
    mask = data_url(png(32, 32, hole=True))
    inpaint = [{"model": "a", "preprocessor": "inpaint"}]
    masked = pixels(steered, inpaint, EDIT, **body, mask=mask)
    assert masked != pixels(steered, [{"model": "a"}], EDIT, **body, mask=mask)


def test_a_form_brings_pictures_for_its_controls(steered):
    control = json.dumps([{"model": "a"}, {"model": "b", "preprocessor": "canny"}])
    fields = {**{k: str(v) for k, v in SMALL.items()}, "control": control}
    body, headers = form(fields, [("control_image", stripes()), ("control_image", stripes(step=8))])
    status, _, text = steered.request("POST", GENERATE, body, headers)
    want = pixels(steered, [{"model": "a", "image": IMAGE},
                            {"model": "b", "image": data_url(stripes(step=8)),
                             "preprocessor": "canny"}])
    assert pixels_of(status, json.loads(text)) == want


def test_eight_mixes_at_once_are_what_they_are_alone(steered):
    a, b = {"model": "a", "image": IMAGE}, {"model": "b", "image": IMAGE, "scale": 0.5}
    mixes = [None, [a], [b], [a, b], [b | {"end": 0.6}, a | {"start": 0.3}],
             [a | {"guess_mode": True}], [{"model": "full", "image": IMAGE}],
             [{"model": "light", "image": IMAGE, "scale": 0.7}, a]]
    alone = [pixels(steered, m, steps=6, seed=i) for i, m in enumerate(mixes)]
    with concurrent.futures.ThreadPoolExecutor(len(mixes)) as pool:
        together = list(pool.map(lambda im: pixels(steered, im[1], steps=6, seed=im[0]),
                                 enumerate(mixes)))
    assert together == alone and len(set(alone)) == len(alone)


@pytest.mark.parametrize("size", ["32x32", "34x26"])
def test_all_subsets_of_loras_and_a_control_are_what_they_are_alone(start, size):
    """tests/bench/adapters.py's subsets, in one batch."""
    server = start("--threads", 2, "--cache_mib", 1024, "--images_at_once", 16, "--max_image_rows", 16,
                   "--lora_dir", FIXTURES / "lora", models={"painter": PAINTER, **CONTROLS})

    def make(i):
        loras = [name for bit, name in enumerate(("kohya", "peft")) if i >> bit & 1]
        control = [{"model": "a", "image": IMAGE, "scale": 0.5 + i / 16}] if i & 4 else []
        return pixels_of(*server.post(GENERATE, {**SMALL, "size": size, "steps": 6, "seed": i, "guidance_scale": 3,
                                                 "loras": loras, "control": control}))

    alone = [make(i) for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(make, range(8))) == alone
    assert len(set(alone)) == 8


def test_mixes_of_adapters_controls_and_caches_are_what_they_are_alone(start):
    server = start("--threads", 1, "--cache_mib", 1024, "--images_at_once", 16, "--max_image_rows",
                   32, "--lora_dir", FIXTURES / "lora", models={"painter": PAINTER, **CONTROLS})
    deep, first = "deepcache:2:1", "first_block:0.5"
    mixes = [{}, {"loras": ["kohya"], "control": [{"model": "a", "image": IMAGE}]},
             {"loras": ["peft"], "control": [{"model": "b", "image": IMAGE}], "step_cache": deep},
             {"loras": ["kohya", "dotted"], "step_cache": first},
             {"loras": [{"name": "dotted", "scale": 0.4}], "step_cache": first,
              "control": [{"model": "a", "image": IMAGE}, {"model": "b", "image": IMAGE}]},
             {"control": [{"model": "full", "image": IMAGE}], "step_cache": first},
             {"loras": ["processors"], "control": [{"model": "light", "image": IMAGE}]},
             {"loras": ["peft"], "control": [{"model": "a", "image": IMAGE, "end": 0.5}],
              "step_cache": deep, "guidance_scale": 1},
             {"control": [{"model": "full", "image": IMAGE}, {"model": "b", "image": IMAGE}],
              "size": "80x64", "tiled": True, "step_cache": first},
             {"control": [{"model": "a", "image": IMAGE}], "size": "80x64", "tiled": True,
              "step_cache": "deepcache:2:3"}]

    def make(i):
        return pixels_of(*server.post(GENERATE, {**SMALL, "steps": 5, "seed": i, **mixes[i]}))

    alone = [make(i) for i in range(len(mixes))]
    with concurrent.futures.ThreadPoolExecutor(len(mixes)) as pool:
        assert list(pool.map(make, range(len(mixes)))) == alone
    for name in ("kohya", "peft", "dotted", "processors"):  # they stay loaded
        assert server.request("DELETE", f"/v1/adapters/{name}")[0] == 200
    server.wait_metric(HELD, 0)


def test_what_is_wrong_with_a_control_is_said(steered):
    good = {"model": "a", "image": IMAGE}
    for control, words in (
            ({"model": "a"}, "must be a list"),
            ([7], "object"),
            ([{"image": IMAGE}], "model is missing"),
            ([{"model": "a"}], "image is missing"),
            ([good | {"image": "data:image/png;base64,AAAA"}], "control[0]: image"),
            ([good | {"image": "http://example.org/a.png"}], "fetches nothing"),
            ([good, good | {"start": 0.5, "end": 0.5}], "control[1]: start"),
            ([good | {"scale": 11}], "scale"),
            ([good | {"preprocessor": "depth"}], "preprocessor"),
            ([good | {"preprocessor": "inpaint"}], "mask is missing"),
            ([good | {"model": "painter"}], "painter"),
            ([good | {"model": "sdxl"}], "family"),
            ([{"model": "full", "image": IMAGE, "guess_mode": True}], "guess mode"),
            ([good] * 5, "at most 4")):
        status, param, message = error(steered, control)
        assert (status, param) == (400, "control") and words in message, (control, message)
    status, param, message = error(steered, [good | {"model": "nobody"}])
    assert (status, param) == (404, "control") and "nobody" in message
    status, answer = steered.post(GENERATE, SMALL | {"model": "a"})
    assert status == 400 and answer["error"]["param"] == "model"


def test_a_cancelled_picture_gives_its_memory_back(steered):
    steered.wait_idle()
    job = steered.post(GENERATE, {**SMALL, "steps": 900, "n": 4, "background": True, "control": [
        {"model": "a", "image": IMAGE}, {"model": "full", "image": IMAGE}]})[1]["id"]
    steered.wait_metric("duetto:images_running", 4)
    eventually(lambda: steered.metric("duetto:images_held_bytes") > 0)
    assert steered.request("DELETE", f"/v1/jobs/{job}")[0] == 200
    steered.wait_metric("duetto:images_running", 0)
    steered.wait_metric("duetto:images_held_bytes", 0)
    assert pixels(steered, None) == pixels(steered, [])


def test_controls_are_loaded_when_they_are_asked_for(start):
    """None is loaded at start: each request waits for the models that it names."""
    server = start("--threads", 1, "--cache_mib", 512, "--preload", "none",
                   models={"painter": PAINTER, **CONTROLS})
    def state():
        return {m["id"]: m["status"]["value"] for m in server.get("/v1/models")[1]["data"]}
    seen = [pixels(server, [{"model": m, "image": IMAGE}]) for m in ("a", "full", "a")]
    assert seen[0] == seen[2] != seen[1]
    assert state()["a"] == state()["full"] == "loaded" and state()["b"] == "unloaded"
