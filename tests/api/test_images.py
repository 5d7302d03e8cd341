"""Pictures by the openai client: generate, edit, create_variation, streams, background jobs; and bodies that
no client would send.  The model is a tiny one of random weights, so what it paints means nothing; that
it is the right picture, the golden tests say."""
import base64
import io
import json
import random
import struct
import zlib

import openai
import PIL.Image
import pytest

from harness import CANCELLED, PAINTER, TINY, eventually, form, picture, png

RUNNING = "duetto:images_running"
GENERATE, EDIT, VARY = "/v1/images/generations", "/v1/images/edits", "/v1/images/variations"
LONG = {"size": "32x32", "steps": 900, "n": 10}  # to be cancelled
SMALL = {"size": "32x32", "extra_body": {"steps": 2, "seed": 5}}


@pytest.fixture(scope="module")
def painter(start):
    # One thread: two would wait for each other after every small op when others use the machine.
    return start("--threads", 1, "--cache_mib", 1024, models={"tiny": TINY, "painter": PAINTER},
                 keys=["alice", "bob"])


@pytest.fixture
def alice(painter):
    return painter.client()


def call(painter, method, path, body=None, headers=None, key="alice"):
    status, h, text = painter.request(method, path, body,
                                      {"Authorization": f"Bearer {key}", **(headers or {})})
    return status, json.loads(text), h


def test_generate_gives_a_picture_with_its_parameters(alice):
    r = alice.images.generate(prompt="a red fox", model="painter", n=2, size="48x32",
                              extra_body={"seed": 7, "steps": 2, "negative_prompt": "snow"})
    assert r.size == "48x32" and r.output_format == "png" and r.background == "opaque"
    assert r.usage.output_tokens == 2 * 3 * 2
    assert r.usage.input_tokens >= 3  # a red fox
    assert r.usage.total_tokens == r.usage.input_tokens + r.usage.output_tokens
    assert [d.seed for d in r.data] == [7, 8] and r.seed == 7
    for d in r.data:
        im = picture(d)
        assert im.size == (48, 32) and im.mode == "RGB"
        assert im.info["parameters"].startswith("a red fox\nNegative prompt: snow\nSteps: 2, ")
        assert f"Seed: {d.seed}, Size: 48x32, Model: painter" in im.info["parameters"]
    assert r.data[0].b64_json != r.data[1].b64_json


def test_models_say_what_they_make(painter):
    models = {m["id"]: m for m in call(painter, "GET", "/v1/models")[1]["data"]}
    assert models["tiny"]["meta"]["modalities"] == {"input": ["text"], "output": ["text"]}
    assert models["painter"]["meta"]["modalities"] == {"input": ["text", "image"],
                                                       "output": ["image"]}
    assert call(painter, "GET", "/v1/models/painter")[0] == 200
    assert call(painter, "GET", "/props")[0] == 200


def test_the_same_seed_gives_the_same_bytes(alice):
    first = alice.images.generate(prompt="a fox", **SMALL)
    again = alice.images.generate(prompt="a fox", n=2, **SMALL)
    assert first.data[0].b64_json == again.data[0].b64_json
    other = alice.images.generate(prompt="a fox", size="32x32", extra_body={"steps": 2, "seed": 6})
    assert other.data[0].b64_json == again.data[1].b64_json


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_every_format_can_be_had(alice, kind):
    r = alice.images.generate(prompt="x", output_format=kind, **SMALL)
    assert r.output_format == kind
    assert picture(r.data[0]).format == kind.upper()
    r = alice.images.generate(prompt="x", output_format=kind, response_format="url", **SMALL)
    prefix, _, data = r.data[0].url.partition(",")
    assert prefix == f"data:image/{kind};base64"
    assert PIL.Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 32)


@pytest.mark.parametrize("size", ("46x34", "34x2"))
def test_maps_of_odd_sides(alice, size):  # a cell of this model's latent is 2 pixels wide
    r = alice.images.generate(prompt="a fox", size=size, extra_body={"steps": 2, "seed": 6})
    assert r.size == size and "%dx%d" % picture(r.data[0]).size == size


def test_an_edit_of_a_picture(alice):
    r = alice.images.edit(image=("a.png", png()), prompt="blue", **SMALL)
    assert picture(r.data[0]).size == (32, 32)
    r = alice.images.edit(image=[("a.png", png(64, 32))], prompt="blue", extra_body={"steps": 2})
    assert picture(r.data[0]).size[0] >= picture(r.data[0]).size[1]


def test_masks_of_both_kinds_say_the_same(alice):
    plain = dict(image=("a.png", png()), prompt="blue", size="32x32")
    alpha = alice.images.edit(mask=("m.png", png(hole=True)), extra_body={"steps": 2, "seed": 1},
                              **plain)
    white = png(color=(0, 0, 0))
    im = PIL.Image.open(io.BytesIO(white))
    im.paste((255, 255, 255), (32, 0, 64, 64))
    out = io.BytesIO()
    im.save(out, "PNG")
    again = alice.images.edit(mask=("m.png", out.getvalue()), **plain,
                              extra_body={"steps": 2, "seed": 1, "mask_mode": "white"})
    assert alpha.data[0].b64_json == again.data[0].b64_json
    kept = alice.images.edit(mask=("m.png", png(hole=True)), **plain,
                             extra_body={"steps": 2, "seed": 1, "keep_unmasked": True})
    assert picture(kept.data[0]).crop((0, 0, 16, 32)).getcolors() == [(16 * 32, (200, 40, 40))]
    assert len(picture(kept.data[0]).crop((16, 0, 32, 32)).getcolors(1024)) > 1
    own = alice.images.edit(image=("a.png", png(hole=True)), prompt="blue", size="32x32",
                            extra_body={"steps": 2, "seed": 1})
    assert picture(own.data[0]).size == (32, 32)


def test_a_variation(alice):
    r = alice.images.create_variation(image=("a.png", png()), n=2, size="32x32",
                                      extra_body={"steps": 2})
    assert len(r.data) == 2 and picture(r.data[1]).size == (32, 32)


def test_a_picture_may_be_jpeg_or_webp_or_json(painter, alice):
    for kind in ("JPEG", "WEBP"):
        out = io.BytesIO()
        PIL.Image.open(io.BytesIO(png())).save(out, kind)
        r = alice.images.edit(image=("a.png", out.getvalue()), prompt="x", **SMALL)
        assert picture(r.data[0]).size == (32, 32)
    body = {"prompt": "x", "steps": 2, "size": "32x32",
            "image": "data:image/png;base64," + base64.b64encode(png()).decode()}
    assert call(painter, "POST", EDIT, body)[0] == 200


@pytest.mark.parametrize("what", ["generate", "edit"])
def test_a_stream_of_previews(alice, what):
    fields = dict(prompt="a fox", stream=True, partial_images=2, size="32x32",
                  extra_body={"steps": 4, "seed": 5})
    if what == "edit":
        events = list(alice.images.edit(image=("a.png", png()), **fields))
        name = "image_edit"
    else:
        events = list(alice.images.generate(**fields))
        name = "image_generation"
    assert [e.type for e in events] == [f"{name}.partial_image"] * 2 + [f"{name}.completed"]
    assert [e.partial_image_index for e in events[:-1]] == [0, 1]
    for e in events:
        assert picture(e).size[0] > 0 and e.output_format == "png" and e.created_at > 1e9
    assert events[-1].size == "32x32"
    assert events[-1].usage.total_tokens >= events[-1].usage.output_tokens > 0
    if what == "generate":
        whole = alice.images.generate(prompt="a fox", size="32x32",
                                      extra_body={"steps": 4, "seed": 5})
        assert whole.data[0].b64_json == events[-1].b64_json


# ---- Jobs ----

def begin_job(painter, key="alice", **fields):
    status, job, _ = call(painter, "POST", GENERATE, {
        "prompt": "a fox", "size": "32x32", "steps": 3, "background": True, **fields}, key=key)
    assert status == 202 and job["id"].startswith("job_"), job
    return job


def finished(painter, job, key="alice"):
    def look():
        status, now, _ = call(painter, "GET", f"/v1/jobs/{job['id']}", key=key)
        assert status == 200
        return now if now["status"] in ("completed", "failed") else None
    return eventually(look)


def test_a_job_gives_what_the_request_would_have(painter, alice):
    job = begin_job(painter, seed=5, n=2)
    done = finished(painter, job)
    assert done["status"] == "completed", done
    assert done["progress"]["step"] == done["progress"]["n_steps"] == 6
    assert done["progress"]["images"] == 2 and done["progress"]["eta_s"] == 0
    assert done["expires_at"] > done["finished_at"] >= done["created_at"]
    whole = alice.images.generate(prompt="a fox", n=2, size="32x32",
                                  extra_body={"steps": 3, "seed": 5})
    assert [d["b64_json"] for d in done["result"]["data"]] == [d.b64_json for d in whole.data]
    assert call(painter, "DELETE", f"/v1/jobs/{job['id']}")[0] == 200
    assert call(painter, "GET", f"/v1/jobs/{job['id']}")[0] == 404


def test_a_job_shows_steps_and_previews_and_can_be_cancelled(painter):
    job = begin_job(painter, **LONG, partial_images=8)
    path = f"/v1/jobs/{job['id']}"
    seen = eventually(lambda: (now := call(painter, "GET", path)[1])["preview"] and now)
    assert seen["status"] == "running"
    assert 0 < seen["progress"]["step"] < 9000 == seen["progress"]["n_steps"]
    assert seen["progress"]["eta_s"] > 0 and 0 < seen["progress"]["fraction"] < 1
    preview = base64.b64decode(seen["preview"]["b64_json"])
    assert PIL.Image.open(io.BytesIO(preview)).size[0] > 0
    later = eventually(lambda: (now := call(painter, "GET", path)[1])["progress"]["step"] >
                       seen["progress"]["step"] and now)
    assert later["progress"]["fraction"] > seen["progress"]["fraction"]
    status, gone, _ = call(painter, "DELETE", path)
    assert status == 200 and gone == {"id": job["id"], "object": "job.deleted", "deleted": True,
                                      "cancelled": True}
    assert call(painter, "GET", path)[0] == 404
    painter.wait_metric(RUNNING, 0)


def test_a_job_is_its_keys_own(painter):
    job = begin_job(painter, key="bob")
    path = f"/v1/jobs/{job['id']}"
    for method in ("GET", "DELETE"):
        status, answer, _ = call(painter, method, path, key="alice")
        assert status == 404 and answer["error"]["code"] == "job_not_found"
    mine = call(painter, "GET", "/v1/jobs", key="alice")[1]["data"]
    assert job["id"] not in [j["id"] for j in mine]
    theirs = call(painter, "GET", "/v1/jobs", key="bob")[1]
    assert job["id"] in [j["id"] for j in theirs["data"]] and "result" not in theirs["data"][0]
    finished(painter, job, key="bob")
    assert call(painter, "DELETE", path, key="bob")[0] == 200


def test_methods_of_a_path(painter):
    for method, path, allow in (("DELETE", "/v1/jobs", "GET, HEAD"),
                                ("POST", "/v1/jobs/x", "GET, HEAD, DELETE"),
                                ("DELETE", GENERATE, "POST"), ("PUT", "/v1/jobs/x",
                                                               "GET, HEAD, DELETE")):
        status, answer, headers = call(painter, method, path)
        assert status == 405 and headers["Allow"] == allow
    assert call(painter, "GET", "/v1/jobs/x")[0] == call(painter, "DELETE", "/v1/jobs/x")[0] == 404


# ---- Clients that leave ----

def test_a_client_that_leaves_ends_its_work(painter):
    body = {"prompt": "x", **LONG}
    for fields in ({}, {"stream": True, "partial_images": 8}):
        s = painter.send(GENERATE, body | fields, "Authorization: Bearer alice")
        eventually(lambda: painter.metric(RUNNING) > 0)
        cancelled = painter.metric(CANCELLED)
        s.close()
        painter.wait_metric(RUNNING, 0)
        assert painter.metric(CANCELLED) == cancelled + 1


def test_options_of_a_model_file(start):
    """The same file, read as it says and as one that predicts v."""
    s = start("--preload", "none", models={"plain": PAINTER, "v": f"{PAINTER},prediction_type=v_prediction"})
    a, b = (s.post(GENERATE, {"model": m, "prompt": "x", "size": "32x32", "steps": 2, "seed": 1})[1]
            for m in ("plain", "v"))
    pixels = [PIL.Image.open(io.BytesIO(base64.b64decode(r["data"][0]["b64_json"]))).tobytes() for r in (a, b)]
    assert pixels[0] != pixels[1]


# ---- Refusals ----

def test_errors_name_the_field(alice):
    def refused(f, **fields):
        with pytest.raises(openai.BadRequestError) as e:
            f(**fields)
        return e.value.param
    assert refused(alice.images.generate, prompt="x", size="65x64") == "size"
    assert refused(alice.images.generate, prompt="x", size="8192x8192") == "size"
    assert refused(alice.images.generate, prompt="x", n=11) == "n"
    assert refused(alice.images.generate, prompt="x", background="transparent") == "background"
    assert refused(alice.images.generate, prompt="x", output_compression=50) == "output_compression"
    assert refused(alice.images.generate, prompt="x",
                   extra_body={"scheduler": "magic"}) == "scheduler"
    assert refused(alice.images.generate, prompt="x", model="tiny") == "model"
    assert refused(alice.images.edit, prompt="x", image=("a.png", b"GIF89a")) == "image"
    assert refused(alice.images.edit, prompt="x", image=("a.png", png()[:80])) == "image"
    assert refused(alice.images.edit, prompt="x", image=[("a", png()), ("b", png())]) == "image[]"
    assert refused(alice.images.edit, prompt="x", image=("a", png()), mask=("m", png())) == "mask"
    assert refused(alice.images.edit, prompt="x", image=("a", png()),
                   mask=("m", png(32, 32, True))) == "mask"
    assert refused(alice.chat.completions.create, model="painter", messages=[]) == "model"
    with pytest.raises(openai.NotFoundError):
        alice.images.generate(prompt="x", model="nobody")


@pytest.mark.parametrize("fields, param, says", [
    ({"strength": 0.5}, "strength", "does not apply here"),
    ({"image": "AAAA"}, "image", "use images/edits"),
    ({"mask_mode": "white"}, "mask_mode", "does not apply here"),
    ({"timesteps": [1, 2]}, "timesteps", "whole numbers that fall"),
    ({"timesteps": []}, "timesteps", "whole numbers that fall"),
    ({"timesteps": [5.5]}, "timesteps", "whole numbers that fall"),
    ({"timesteps": "9,"}, "timesteps", "whole numbers that fall"),
    ({"timesteps": "9;8"}, "timesteps", "whole numbers that fall"),
    ({"timesteps": list(range(999, 800, -1))}, "timesteps", "1 to 128"),
    ({"timesteps": [1000, 3], "scheduler": "euler"}, "timesteps", "from 999 on"),
    ({"timesteps": [999, 3], "steps": 3}, "steps", "leave it out"),
    ({"timesteps": [999, 3], "scheduler": "pndm"}, "timesteps", "does not take timesteps"),
    ({"timesteps": [999, 3], "scheduler": "euler_karras"}, "timesteps", "leave the other out"),
    ({"sigmas": [1, 2]}, "sigmas", "numbers that fall"),
    ({"sigmas": [14.6]}, "sigmas", "2 to 129"),
    ({"sigmas": [14.6, "1"]}, "sigmas", "numbers that fall"),
    ({"sigmas": [14.6, -1]}, "sigmas", "to 0 or above"),
    ({"sigmas": [1e9, 1]}, "sigmas", "numbers that fall"),
    ({"sigmas": "14.6,1.2.3"}, "sigmas", "numbers that fall"),
    ({"sigmas": "14.6,nan"}, "sigmas", "numbers that fall"),
    ({"sigmas": [130 - i for i in range(130)]}, "sigmas", "2 to 129"),
    ({"sigmas": [9, 1, 0], "timesteps": [999, 3]}, "sigmas", "do not go together"),
    ({"sigmas": [9, 1, 0], "steps": 3}, "steps", "leave it out"),
    ({"sigmas": [9, 1, 0], "scheduler": "ddim"}, "sigmas", "only Euler does"),
    ({"sigmas": [9, 1, 0], "scheduler": "euler", "sigma_schedule": "karras"}, "sigmas",
     "leave the other out"),
    ({"timestep_spacing": "wide"}, "timestep_spacing", ""),
    ({"sigma_schedule": 3}, "sigma_schedule", ""),
])
def test_what_makes_no_sense_here_is_refused(painter, fields, param, says):
    status, body, _ = call(painter, "POST", GENERATE, {"prompt": "x", "size": "32x32", **fields})
    assert status == 400 and body["error"]["param"] == param
    assert says in body["error"]["message"]


def test_strength_zero_says_its_range(painter):
    body, headers = form({"prompt": "x", "strength": 0}, [("image", png())])
    status, answer, _ = call(painter, "POST", EDIT, body, headers)
    assert status == 400 and "above 0 and at most 1" in answer["error"]["message"]


def test_a_field_that_comes_twice_is_named(painter):
    body, headers = form({"prompt": "x"}, [("image", png())])
    twice = body.replace(b"--duettotest--", b"--duettotest\r\nContent-Disposition: form-data; "
                         b'name="prompt"\r\n\r\ny\r\n--duettotest--')
    status, answer, _ = call(painter, "POST", EDIT, twice, headers)
    assert status == 400 and answer["error"]["param"] == "prompt"
    assert "more than once" in answer["error"]["message"]


def test_a_huge_picture_meets_this_servers_limit(painter):
    head = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    bomb += struct.pack(">I", 64) + b"IDAT" + bytes(68)
    body, headers = form({"prompt": "x"}, [("image", bomb)])
    status, answer, _ = call(painter, "POST", EDIT, body, headers)
    assert status == 400 and "60000 x 60000" in answer["error"]["message"]


def test_timesteps_may_be_chosen(painter):
    """Turbo's and Lightning's four are what trailing gives; a form has them as text."""
    def made(**fields):
        status, body, _ = call(painter, "POST", GENERATE, {
            "prompt": "x", "size": "32x32", "seed": 3, "scheduler": "euler", **fields})
        assert status == 200, body
        return body["data"][0]["b64_json"]

    pixels = [PIL.Image.open(io.BytesIO(base64.b64decode(made(**f)))).tobytes() for f in (
        {"timesteps": [999, 749, 499, 249], "timestep_spacing": "trailing"},
        {"timesteps": "999, 749,499,249", "scheduler": "euler_trailing"},
        {"steps": 4, "timestep_spacing": "trailing"}, {"steps": 4, "scheduler": "euler_trailing"},
        {"steps": 4}, {"steps": 4, "sigma_schedule": "karras"}, {"steps": 4, "scheduler": "euler_karras"})]
    assert pixels[0] == pixels[1] == pixels[2] == pixels[3] != pixels[4]
    assert pixels[4] != pixels[5] == pixels[6]


def test_sigmas_may_be_chosen(painter):
    """Those of Euler's own four trailing steps give its picture; what ends above 0 is another."""
    def made(**fields):
        status, body, _ = call(painter, "POST", GENERATE, {
            "prompt": "x", "size": "32x32", "seed": 3, "scheduler": "euler", **fields})
        assert status == 200, body
        return PIL.Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))).tobytes()

    beta = [(0.00085**.5 + (0.012**.5 - 0.00085**.5) * i / 999)**2 for i in range(1000)]
    sigmas, left = {}, 1.0
    for i, b in enumerate(beta):
        left *= 1 - b
        sigmas[i] = ((1 - left) / left)**.5
    own = [sigmas[t] for t in (999, 749, 499, 249)]
    pixels = [made(sigmas=own + [0]), made(sigmas=", ".join(map(str, own + [0.0]))),
              made(steps=4, timestep_spacing="trailing"), made(sigmas=own + [0.5])]
    near = max(abs(a - b) for a, b in zip(pixels[0], pixels[2]))
    assert pixels[0] == pixels[1] and near <= 1 and pixels[3] != pixels[0]


def test_a_server_without_an_image_model_says_so(server):
    status, answer = server.post(GENERATE, {"prompt": "x"})
    assert status == 404 and answer["error"]["code"] == "model_not_found"
    body, headers = form({}, [("image", png())])
    assert server.request("POST", VARY, body, headers)[0] == 404
    assert server.request("POST", EDIT, body, headers)[0] == 404
    assert server.get("/v1/jobs") == (200, {"object": "list", "data": []})


def test_bodies_are_bounded(start):
    s = start("--max_body_kib", 64, "--max_image_kib", 64, "--max_uploads_mib", 1)
    body, headers = form({"prompt": "x"}, [("image", b"x" * 70000)])
    status, _, answer = s.request("POST", EDIT, body, headers)
    assert status == 413 and json.loads(answer)["error"]["param"] == "image"
    body, headers = form({"prompt": "x"}, [("image", b"x" * 300000)])
    assert s.request("POST", EDIT, body, headers)[0] == 413
    held = []
    for _ in range(60):  # small ones, so that what they leave is less than the one below wants
        c = s.connect()
        c.sendall(b"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nContent-Length: 20001\r\n"
                  b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + b"x" * 20000)
        held.append(c)
    body, headers = form({"prompt": "x"}, [("image", b"x" * 50000)])
    assert eventually(lambda: s.request("POST", EDIT, body, headers)[0] == 429)
    for c in held:
        c.close()
    eventually(lambda: s.request("POST", EDIT, body, headers)[0] != 429)


def hostile_forms():
    r = random.Random(4)
    good, headers = form({"prompt": "a fox", "n": "1", "size": "32x32", "steps": "1"},
                         [("image", png(8, 8)), ("mask", png(8, 8, True))])
    for i in range(120):
        bad = bytearray(good)
        for _ in range(r.choice((1, 3, 20))):
            at = r.randrange(len(bad))
            what = r.randrange(4)
            if what == 0:
                bad[at] = r.randrange(256)
            elif what == 1:
                del bad[at:at + r.randrange(1, 40)]
            elif what == 2:
                bad[at:at] = bytes(r.randrange(256) for _ in range(r.randrange(1, 9)))
            else:
                bad[at:at] = r.choice((b"\r\n--duettotest\r\n", b"--duettotest--", b"\r\n\r\n", b'"',
                                       b"\0", b'Content-Disposition: form-data; name="n"\r\n'))
            if not bad:
                break
        yield bytes(bad), headers
    for n in range(0, len(good), 17):
        yield good[:n], headers
    for kind in ("", "multipart/form-data", "multipart/form-data; boundary=", "text/plain",
                 "multipart/form-data; boundary=" + "x" * 500, "multipart/mixed; boundary=duettotest"):
        yield good, {"Content-Type": kind}
    yield b"--duettotest\r\n" * 5000, headers


@pytest.mark.asan
def test_hostile_forms_crash_nothing(server):
    """Without an image model they are read as far as the model's name; fuzz_multipart goes further."""
    for body, headers in hostile_forms():
        assert server.request("POST", EDIT, body, headers)[0] in (400, 404, 413)


def test_hostile_forms_crash_no_painter(painter):
    for body, headers in hostile_forms():
        status, answer, _ = call(painter, "POST", EDIT, body, headers)
        assert status in (200, 400, 404, 413), answer
