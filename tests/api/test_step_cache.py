"""Step caches by the server: the same pictures alone and beside others, nothing left held, and fields that are
wrong.  That the pictures are the right ones, the golden tests say."""
import concurrent.futures
import json

import pytest

from harness import PAINTER, ROOT, eventually, picture

HELD = "duetto:images_held_bytes"
GENERATE = "/v1/images/generations"
BASE = {"model": "painter", "prompt": "a red fox", "size": "48x32", "steps": 6, "seed": 5}
DEEP, FIRST = {"type": "deepcache", "interval": 3}, {"type": "first_block", "threshold": 0.3}


@pytest.fixture(scope="module")
def studio(start):
    return start("--threads", 1, "--cache_mib", 256, models={
        "painter": PAINTER, "xl": ROOT / "tests/fixtures/sd_sdxl"})


def ask(server, **fields):
    status, _, text = server.request("POST", GENERATE, BASE | fields)
    return status, json.loads(text)


def pixels(answer):
    assert answer[0] == 200, answer
    return [picture(type("d", (), d)).tobytes() for d in answer[1]["data"]]


def test_caches_change_the_picture_and_may_be_said_in_three_ways(studio):
    plain = pixels(ask(studio))
    assert pixels(ask(studio, step_cache=False)) == plain
    assert pixels(ask(studio, step_cache="off")) == plain
    assert pixels(ask(studio, step_cache=None)) == plain
    deep, first = (pixels(ask(studio, step_cache=c)) for c in (DEEP, FIRST))
    assert len({*plain, *deep, *first}) == 3
    assert pixels(ask(studio, step_cache="deepcache")) == deep
    assert pixels(ask(studio, step_cache="deepcache:3:0")) == deep
    assert pixels(ask(studio, step_cache="first_block:0.3")) == first


def test_a_batch_with_and_without_caches_has_the_pictures_of_each_alone(studio):
    requests = [{"step_cache": cache, "seed": seed, "n": n} for seed, (cache, n) in enumerate([
        (False, 1), (DEEP, 2), ("deepcache:2:1", 1), (FIRST, 2), ("first_block:5", 1),
        ("first_block:0.001", 1), (DEEP, 1)])]
    requests.append({"step_cache": DEEP, "seed": 9, "size": "80x64", "tiled": True})
    requests.append({"step_cache": FIRST, "seed": 3, "hires": {"scale": 2, "steps": 4}})
    requests.append({"step_cache": FIRST, "seed": 3, "guidance_scale": 1})
    alone = [pixels(ask(studio, **r)) for r in requests]
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        assert list(pool.map(lambda r: pixels(ask(studio, **r)), requests)) == alone
    studio.wait_metric(HELD, 0)


@pytest.mark.parametrize("cache", [DEEP, FIRST, "first_block:10"])
def test_a_client_that_leaves_frees_what_its_steps_left(studio, cache):
    s = studio.send(GENERATE, BASE | {"steps": 900, "n": 4, "step_cache": cache})
    other = studio.send(GENERATE, BASE | {"steps": 900, "n": 2})
    eventually(lambda: studio.metric(HELD) > 0)
    s.close()
    other.close()
    studio.wait_metric(HELD, 0)


def test_the_server_may_have_a_default(start):
    with_default = start("--threads", 1, "--step_cache", "deepcache:3", models={"painter": PAINTER})
    deep = pixels(ask(with_default))
    assert deep == pixels(ask(with_default, step_cache=DEEP))
    assert deep != pixels(ask(with_default, step_cache=False))


@pytest.mark.parametrize("default", ["deepcache:2:99", "first_block"])
def test_a_default_is_left_off_where_it_does_not_fit(start, default):
    server = start("--threads", 1, "--step_cache", default, models={
        "painter": PAINTER, "x4": ROOT / "tests/fixtures/sd_upscaler",
        "first": ROOT / "tests/fixtures/sd_sdxl", "refiner": ROOT / "tests/fixtures/sd_refiner"})
    fields = {"model": "first", "refiner": {"model": "refiner", "switch_at": 0.5}}
    assert len(pixels(ask(server, **fields))) == 1
    assert len(pixels(ask(server, upscale={"model": "x4", "steps": 2}))) == 1
    answer = ask(server)
    if default != "first_block":
        assert pixels(answer) == pixels(ask(server, step_cache=False))
        status, refused = ask(server, step_cache=default)
        assert status == 400 and refused["error"]["param"] == "step_cache"


@pytest.mark.parametrize("cache, param", [
    (5, "step_cache"), (True, "step_cache"), ([], "step_cache"), ("", None), ("deepcach", "step_cache"),
    ({}, "step_cache.type"), ({"type": 3}, "step_cache.type"), ({"type": "teacache"}, "step_cache.type"),
    ({"type": "deepcache", "x": 1}, "step_cache"), ({"type": "deepcache", "threshold": 1}, "step_cache"),
    ({"type": "first_block", "interval": 2}, "step_cache"),
    ({"type": "deepcache", "interval": 1}, "step_cache.interval"),
    ({"type": "deepcache", "interval": 2.5}, "step_cache.interval"),
    ({"type": "deepcache", "branch": -1}, "step_cache.branch"),
    ({"type": "deepcache", "branch": 201}, "step_cache.branch"),
    ({"type": "deepcache", "branch": 99}, "step_cache"),  # the model has fewer
    ({"type": "first_block", "threshold": 0}, "step_cache"),
    ({"type": "first_block", "threshold": "0.1"}, "step_cache.threshold"),
    ({"type": "first_block", "threshold": 11}, "step_cache.threshold"),
    ("deepcache:", "step_cache"), ("deepcache:3:", "step_cache"), ("deepcache:3:0:1", "step_cache"),
    ("deepcache:1", "step_cache"), ("deepcache:-3", "step_cache"), ("deepcache:3:999", "step_cache"),
    ("deepcache:0000000000000000003", "step_cache"), ("off:1", "step_cache"), (":3", None),
    ("first_block:nan", "step_cache"), ("first_block:inf", "step_cache"), ("first_block:0", "step_cache"),
    ("first_block:1e9", "step_cache"), ("first_block:0.1x", "step_cache"), ("first_block:-1", "step_cache"),
])
def test_rubbish_names_the_field(studio, cache, param):
    status, answer = ask(studio, step_cache=cache, steps=1)
    if cache == "":
        assert status == 200
    else:
        assert status == 400 and answer["error"]["param"] == (param or "step_cache"), answer
