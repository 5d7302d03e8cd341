"""The safety checker of an image model through the API: block, blur and flag, by option and by key; streams,
previews and jobs; and models without one.  The checker is a tiny random one, so a test writes thresholds
that flag everything, nothing, or one picture of several."""
import json
import shutil
import struct
import subprocess

import openai
import PIL.Image
import pytest

from harness import DUETTO, PAINTER, PATIENCE_S, ROOT, eventually, form, picture, png

SAFETY = ROOT / "tests/fixtures/sd_safety"
GENERATE = "/v1/images/generations"
SMALL = {"size": "32x32", "steps": 2, "seed": 5, "prompt": "a fox"}
KEYS = ["alice", "bob safety=flag", "carol safety=blur"]


def model_with(folder, concepts, special=(0.99,) * 3):
    """A copy of the fixture with other thresholds: 17 of concepts, 3 of special care (f16)."""
    shutil.copytree(SAFETY, folder, symlinks=False)
    path = folder / "safety_checker/model.safetensors"
    data = bytearray(path.read_bytes())
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    for name, values in (("concept", concepts), ("special_care", special)):
        begin, end = header[f"{name}_embeds_weights"]["data_offsets"]
        data[8 + n + begin:8 + n + end] = struct.pack(f"<{len(values)}e", *values)
    path.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def server(start, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("models")
    never = model_with(tmp / "never", [0.99] * 17)
    probe = start("--threads", 1, "--cache_mib", 512, "--safety", "flag", models={"never": never})
    body = {**SMALL, "n": 3}
    scores = [d["safety"]["scores"]["concepts"] for d in probe.post(GENERATE, body)[1]["data"]]
    # A concept that two of the three pictures show most differently, and a threshold in between.
    k = max(range(17), key=lambda k: max(s[k] for s in scores) - sorted(s[k] for s in scores)[1])
    ranked = sorted(s[k] for s in scores)
    one = [0.99] * 17
    one[k] = 0.99 + (ranked[1] + ranked[2]) / 2
    s = start("--threads", 1, "--cache_mib", 512, keys=KEYS, models={
        "never": never, "plain": PAINTER, "one": model_with(tmp / "one", one),
        "always": model_with(tmp / "always", [-0.99] * 17)})
    s.odd_one = max(range(3), key=lambda i: scores[i][k])
    return s


def call(server, path, body=None, key="alice", method="POST"):
    status, _, text = server.request(method, path, body, {"Authorization": f"Bearer {key}"})
    return status, json.loads(text)


def generate(server, model, key="alice", **fields):
    return call(server, GENERATE, {**SMALL, "model": model, **fields}, key)


def pixels(datum):
    im = picture(datum)
    return im.convert("RGB")


def is_black(im):
    return im.getextrema() == ((0, 0),) * 3


def detail(im):
    """How much neighbours differ: what a blur takes away."""
    shifted = PIL.Image.new("RGB", im.size)
    shifted.paste(im, (1, 0))
    a, b = im.tobytes(), shifted.tobytes()
    return sum(abs(x - y) for x, y in zip(a, b)) / len(a)


class Datum:
    """A member of data, as the openai client has it."""

    def __init__(self, d):
        self.b64_json, self.url = d.get("b64_json"), d.get("url")


def test_a_blocked_request_is_refused_as_openai_refuses(server):
    client = server.client()
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="a fox", model="always", size="32x32",
                               extra_body={"steps": 2, "seed": 5})
    assert refused.value.code == "content_policy_violation"
    assert refused.value.type == "invalid_request_error"
    status, answer = generate(server, "always", n=3)
    assert status == 400 and answer["error"]["code"] == "content_policy_violation"


def test_what_is_not_flagged_is_the_picture_of_a_model_without_checker(server):
    status, safe = generate(server, "never")
    assert status == 200
    said = safe["data"][0]["safety"]
    assert said["checked"] is True and said["flagged"] is False and said["action"] == "none"
    assert len(said["scores"]["concepts"]) == 17 and len(said["scores"]["special_care"]) == 3
    assert all(s < 0 for s in said["scores"]["concepts"])
    _, plain = generate(server, "plain")
    assert plain["data"][0]["safety"] == {"checked": False}
    assert pixels(Datum(safe["data"][0])).tobytes() == pixels(Datum(plain["data"][0])).tobytes()


def test_keys_decide_what_becomes_of_a_flagged_picture(server):
    _, plain = generate(server, "plain")
    original = pixels(Datum(plain["data"][0]))
    status, flagged = generate(server, "always", key="bob")
    assert status == 200
    said = flagged["data"][0]["safety"]
    assert said["flagged"] is True and said["action"] == "flag"
    assert max(said["scores"]["concepts"]) > 0
    assert pixels(Datum(flagged["data"][0])).tobytes() == original.tobytes()
    status, blurred = generate(server, "always", key="carol")
    assert status == 200 and blurred["data"][0]["safety"]["action"] == "blur"
    im = pixels(Datum(blurred["data"][0]))
    assert im.size == original.size and not is_black(im)
    assert detail(im) < detail(original) / 2


def test_one_blocked_picture_of_several_is_black(server):
    status, answer = generate(server, "one", n=3)
    assert status == 200
    for i, d in enumerate(answer["data"]):
        blocked = i == server.odd_one
        assert d["safety"]["flagged"] is blocked
        assert d["safety"]["action"] == ("block" if blocked else "none")
        assert is_black(pixels(Datum(d))) is blocked


def frames(server, key="alice", **fields):
    status, _, text = server.request(
        "POST", GENERATE, json.dumps({**SMALL, "stream": True, **fields}),
        {"Authorization": f"Bearer {key}"})
    events = [json.loads(line[6:]) for line in text.decode().splitlines()
              if line.startswith("data: {")]
    return status, events


def test_streams_show_no_blocked_picture(server):
    _, events = frames(server, model="always", steps=6, partial_images=2)
    assert [e.get("type") for e in events[:-1]] == ["image_generation.partial_image"] * 2
    assert events[-1]["error"]["code"] == "content_policy_violation"
    _, clear = frames(server, "bob", model="always", steps=6, partial_images=2)
    for hidden, shown in zip(events[:2], clear[:2]):
        a, b = pixels(Datum(hidden)), pixels(Datum(shown))
        assert a.tobytes() != b.tobytes() and detail(a) < detail(b)
    assert clear[-1]["safety"]["action"] == "flag"
    _, events = frames(server, model="one", n=3)
    done = {e["image_index"]: e for e in events}
    assert len(done) == 3
    for i, e in done.items():
        assert is_black(pixels(Datum(e))) is (i == server.odd_one)
        assert e["safety"]["flagged"] is (i == server.odd_one)


def test_a_job_keeps_no_blocked_picture(server):
    status, job = generate(server, "always", background=True)
    assert status == 202

    def done():
        _, j = call(server, f"/v1/jobs/{job['id']}", method="GET")
        return j if j["status"] not in ("queued", "running") else None

    j = eventually(done)
    assert j["status"] == "failed" and j["error"]["code"] == "content_policy_violation"
    assert "result" not in j


def test_edits_are_looked_at_too(server):
    fields = {"prompt": "x", "model": "always", "size": "32x32", "steps": "2",
              "keep_unmasked": "true"}
    body, headers = form(fields, [("image", png(32, 32)), ("mask", png(32, 32, hole=True))])
    status, _, text = server.request("POST", "/v1/images/edits", body,
                                     {**headers, "Authorization": "Bearer alice"})
    assert status == 400, text
    assert json.loads(text)["error"]["code"] == "content_policy_violation"


def test_every_look_leaves_a_line_in_the_log(server):
    generate(server, "always", key="bob", seed=424242)
    line = eventually(lambda: next((x for x in server.lines if "safety" in x and
                                    "seed=424242" in x), None))
    for part in ("model=always", "action=flag", "key=1", "request="):
        assert part in line, line


def test_models_say_whether_they_have_a_checker(server):
    models = {m["id"]: m["meta"] for m in call(server, "/v1/models", method="GET")[1]["data"]}
    assert models["always"]["safety_checker"] is True
    assert models["plain"]["safety_checker"] is False
    generate(server, "always", key="bob")
    eventually(lambda: server.metric("duetto:images_flagged_total") > 0)


def test_moderation_cannot_switch_the_checker_off(server):
    for value in ("auto", "low"):
        assert generate(server, "always", moderation=value)[0] == 400


def test_options_can_require_a_checker_or_leave_it_out(start, tmp_path):
    always = model_with(tmp_path / "always", [-0.99] * 17)
    off = start("--threads", 1, "--cache_mib", 512, "--safety", "off", models={"m": always})
    status, answer = off.post(GENERATE, SMALL)
    assert status == 200 and answer["data"][0]["safety"] == {"checked": False}
    refused = subprocess.run([DUETTO, "serve", "--port", "0", "--safety_required", "true", "-m", PAINTER],
                             capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert refused.returncode != 0 and "safety_required" in refused.stdout + refused.stderr
