"""Adapters of image models: LoRAs and embeddings, loaded, listed, used by requests and unloaded while the server
runs.  What they do to a picture the golden tests say; here it is that each request gets its own."""
import base64
import concurrent.futures
import io
import json
import shutil
import struct

import numpy
import PIL.Image
import pytest

from harness import PAINTER, PATIENCE_S, ROOT, TINY, Server, eventually, form, png

FILES = ROOT / "tests" / "fixtures" / "lora"
GENERATE = "/v1/images/generations"
SMALL = {"prompt": "a red fox", "size": "32x32", "steps": 3, "seed": 5}


def tensors(path, entries):
    """A safetensors file of F32 zeros; entries: name to shape."""
    header, at = {}, 0
    for name, shape in entries.items():
        n = 4
        for d in shape:
            n *= d
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    to = tmp_path_factory.mktemp("adapters")
    for name in ("kohya", "peft", "dotted", "processors", "redglow", "learned", "kohya_xl"):
        shutil.copy(FILES / f"{name}.safetensors", to)
    (to / "inner").mkdir()
    shutil.copy(FILES / "peft.safetensors", to / "inner" / "pytorch_lora_weights.safetensors")
    (to / "evil.pt").write_bytes(b"\x80\x02")
    (to / "cut.safetensors").write_bytes(b"\xff\xff\xff\x7f\0\0\0\0{")
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors(to / "wide.safetensors",
            {f"{layer}.lora_A.weight": [4, 640], f"{layer}.lora_B.weight": [640, 4]})
    tensors(to / "loha.safetensors", {f"{layer}.hada_w1_a": [4, 12]})
    tensors(to / "dora.safetensors", {f"{layer}.lora_A.weight": [4, 12],
                                      f"{layer}.lora_B.weight": [12, 4],
                                      f"{layer}.dora_scale": [12, 1]})
    return to


@pytest.fixture(scope="module")
def server(start, folder):
    return start("--threads", 1, "--cache_mib", 512, "--lora_dir", folder, "--max_image_rows", 16,
                 "--images_at_once", 16, models={"painter": PAINTER, "tiny": TINY})


@pytest.fixture
def fresh(folder):
    """One in which no other test has loaded anything, or let it go."""
    with Server("--threads", 1, "--lora_dir", folder, models={"painter": PAINTER, "tiny": TINY}) as s:
        yield s


def call(server, method, path, body=None):
    status, _, text = server.request(method, path, body)
    return status, json.loads(text)


def paint(server, **more):
    status, r = call(server, "POST", GENERATE, SMALL | more)
    assert status == 200, r
    return r["data"][0]["b64_json"]


def raw(b64):
    """The picture, without the parameters that a PNG carries."""
    return PIL.Image.open(io.BytesIO(base64.b64decode(b64))).convert("RGB")


def pixels(server, **more):
    return raw(paint(server, **more)).tobytes()


def lora(name, scale=1.0):
    return {"name": name, "scale": scale}


def test_list_load_describe_unload(fresh):
    listed = {a["id"]: a for a in call(fresh, "GET", "/v1/adapters")[1]["data"]}
    assert {"kohya", "peft", "inner", "redglow"} <= set(listed) and "evil" not in listed
    assert listed["kohya"]["loaded"] is False
    status, r = call(fresh, "POST", "/v1/adapters", {"name": "kohya"})
    assert status == 200 and r["loaded"] and r["pinned"] and r["kind"] == "lora"
    assert r["model"] == "painter" and r["rank"] == 3 and r["bytes"] > 0 and r["in_use"] == 0
    assert call(fresh, "GET", "/v1/adapters/kohya")[1] == r
    status, r = call(fresh, "DELETE", "/v1/adapters/kohya")
    assert status == 200 and r == {"id": "kohya", "object": "adapter.deleted", "deleted": True,
                                   "in_use": 0}
    assert call(fresh, "GET", "/v1/adapters/kohya")[1]["loaded"] is False
    assert call(fresh, "DELETE", "/v1/adapters/kohya")[0] == 404
    assert call(fresh, "GET", "/v1/adapters/none")[0] == 404


def test_routes_of_vllm(server):
    body = {"lora_name": "peft", "lora_path": "/anywhere/peft.safetensors"}
    assert call(server, "POST", "/v1/load_lora_adapter", body)[0] == 200
    assert call(server, "POST", "/v1/unload_lora_adapter", {"lora_name": "peft"})[0] == 200
    body["lora_path"] = "/etc/passwd"
    assert call(server, "POST", "/v1/load_lora_adapter", body)[0] == 400


def test_a_request_loads_what_it_names(server):
    plain = pixels(server)
    assert pixels(server, loras=[lora("kohya", 0.5)]) != plain
    assert call(server, "GET", "/v1/adapters/kohya")[1]["pinned"] is False
    assert pixels(server, loras=[lora("kohya", 0)]) == plain
    assert pixels(server, loras=[]) == plain
    assert pixels(server, loras=["inner"]) == pixels(server, loras=[lora("peft")])


@pytest.mark.parametrize("name, status, word", [
    ("nothing", 404, "nothing"), ("../peft", 400, "name"), (".peft", 400, "name"),
    ("evil", 400, "pickle"), ("cut", 400, "cut"), ("wide", 400, "another model"),
    ("kohya_xl", 400, "another"), ("loha", 400, "LoHa"), ("dora", 400, "DoRA")])
def test_refused_with_a_reason(server, name, status, word):
    for path, body in (("/v1/adapters", {"name": name}),
                       (GENERATE, SMALL | {"loras": [lora(name)]})):
        got, r = call(server, "POST", path, body)
        assert got == status, r
        assert word in r["error"]["message"]
    assert r["error"]["param"] == "loras"


@pytest.mark.parametrize("value", ["x", {}, [3], [{"scale": 1}], [{"name": "peft", "scale": "1"}],
                                   [{"name": "peft", "scale": 1000}], [lora("peft")] * 9])
def test_bad_lists(server, value):
    status, r = call(server, "POST", GENERATE, SMALL | {"loras": value})
    assert status == 400 and r["error"]["param"].startswith("loras"), r


def test_embeddings_are_words_of_prompts(fresh):
    text = "a photo of redglow fox"
    after = pixels(fresh, prompt=text)  # it lay there at the start
    assert call(fresh, "DELETE", "/v1/adapters/redglow")[0] == 200
    before = pixels(fresh, prompt=text)
    assert after != before
    assert call(fresh, "POST", "/v1/adapters", {"name": "redglow"})[1]["kind"] == "embedding"
    assert pixels(fresh, prompt=text) == after
    assert pixels(fresh, prompt="a photo of REDGLOW fox") == after
    assert pixels(fresh, prompt="a photo of redglows fox") != after
    status, r = call(fresh, "POST", GENERATE, SMALL | {"loras": [lora("redglow")]})
    assert status == 400 and "embedding" in r["error"]["message"]
    assert call(fresh, "DELETE", "/v1/adapters/redglow")[0] == 200
    assert pixels(fresh, prompt=text) == before


def test_embeddings_that_lie_there_are_beside_max_loras(start, folder):
    one = start("--threads", 1, "--lora_dir", folder, "--max_loras", 1, models={"painter": PAINTER})
    text = "a photo of redglow fox"
    first = {name: pixels(one, prompt=text, loras=[lora(name)]) for name in ("kohya", "peft")}
    assert first == {name: pixels(one, prompt=text, loras=[lora(name)]) for name in ("kohya", "peft")}
    assert pixels(one, prompt="a photo of redglows fox", loras=[lora("peft")]) != first["peft"]
    known = {a["id"]: a for a in call(one, "GET", "/v1/adapters")[1]["data"] if a["loaded"]}
    assert known["redglow"]["kind"] == "embedding" and known["redglow"]["pinned"] is False and "kohya_xl" not in known


def test_eight_mixes_in_one_batch_are_what_they_are_alone(server):
    mixes = [[], [lora("kohya", 0.7)], [lora("peft")], [lora("dotted", -0.5)],
             [lora("processors", 1.5)], [lora("kohya", 0.3), lora("peft", 0.4)],
             [lora("dotted", 0.6), lora("processors", 0.2), lora("kohya", 0.1)],
             [lora("peft", 0.4), lora("kohya", 0.3)]]
    bodies = [{"loras": m, "steps": 12, "seed": 40 + i} for i, m in enumerate(mixes)]
    alone = [paint(server, **b) for b in bodies]
    assert len(set(alone)) == len(alone)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            assert list(pool.map(lambda b: paint(server, **b), bodies)) == alone


def test_an_error_of_a_file_does_not_say_where_it_lies(server, folder):
    for path, body in ((GENERATE, SMALL | {"loras": [lora("cut")]}), ("/v1/adapters", {"name": "cut"})):
        status, r = call(server, "POST", path, body)
        assert status == 400 and "cut.safetensors" in r["error"]["message"]
        assert str(folder) not in r["error"]["message"]


def test_a_file_that_changes_before_its_weights_come_is_the_requests_fault(fresh, folder):
    path = folder / "later.safetensors"
    shutil.copy(FILES / "kohya.safetensors", path)
    try:
        assert call(fresh, "POST", "/v1/adapters", {"name": "later"})[0] == 200  # no weights yet: nor has its model
        path.write_bytes(path.read_bytes()[:5000])
        status, r = call(fresh, "POST", GENERATE, SMALL | {"loras": ["later"]})
        assert status == 400 and r["error"]["message"].startswith("later: later.safetensors: ")
        shutil.copy(FILES / "peft.safetensors", path)
        status, r = call(fresh, "POST", GENERATE, SMALL | {"loras": ["later"]})
        assert status == 400 and "was changed: unload the adapter" in r["error"]["message"]
    finally:
        path.unlink()


def test_unloaded_while_it_is_used(server):
    body = {"loras": [lora("kohya", 0.7)], "steps": 150, "seed": 9}
    want = paint(server, **body)
    call(server, "POST", "/v1/adapters", {"name": "kohya"})

    def unloaded_in_time():
        """Unless the picture was ready before we looked."""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(paint, server, **body)
            eventually(lambda: running.done() or call(server, "GET", "/v1/adapters/kohya")[1].get("in_use") == 1)
            status, r = call(server, "DELETE", "/v1/adapters/kohya")
            assert status == 200
            assert call(server, "GET", "/v1/adapters/kohya")[1]["loaded"] is False
            assert running.result(PATIENCE_S) == want
            return r["in_use"] == 1
    eventually(unloaded_in_time)


def test_memory_comes_back(server):
    def held():
        return server.metric("duetto:images_held_bytes")
    for a in call(server, "GET", "/v1/adapters")[1]["data"]:
        if a["loaded"]:
            call(server, "DELETE", f"/v1/adapters/{a['id']}")
    eventually(lambda: held() == 0)
    bytes_ = call(server, "POST", "/v1/adapters", {"name": "kohya"})[1]["bytes"]
    eventually(lambda: held() == bytes_)
    call(server, "DELETE", "/v1/adapters/kohya")
    eventually(lambda: held() == 0)


def test_forms_take_them_too(server):
    body, headers = form({"prompt": "a red fox", "size": "32x32", "seed": "5", "steps": "4",
                          "loras": json.dumps([lora("peft", 0.5)])}, [("image", png(32, 32))])
    status, _, text = server.request("POST", "/v1/images/edits", body, headers)
    assert status == 200, text
    status, _, text = server.request("POST", "/v1/images/edits", *form(
        {"prompt": "x", "loras": "[{"}, [("image", png(32, 32))]))
    assert status == 400 and json.loads(text)["error"]["param"] == "loras"


def test_without_a_directory(start):
    server = start("--threads", 1, models={"painter": PAINTER})
    assert call(server, "GET", "/v1/adapters")[0] == 400
    status, r = call(server, "POST", GENERATE, SMALL | {"loras": [lora("peft")]})
    assert status == 400 and "lora_dir" in r["error"]["message"]


def test_admins_load_and_unload(folder):
    def ask(s, method, path, key, body=None):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        status, _, text = s.request(method, path, body, headers)
        return status, (json.loads(text).get("error") or {}).get("code")

    def changes(s, key):
        return {ask(s, "POST", "/v1/adapters", key, {"name": "nothing"}),
                ask(s, "DELETE", "/v1/adapters/nothing", key),
                ask(s, "POST", "/v1/load_lora_adapter", key, {"lora_name": "nothing"}),
                ask(s, "POST", "/v1/unload_lora_adapter", key, {"lora_name": "nothing"})}

    models, flags = {"painter": PAINTER}, ("--threads", 1, "--lora_dir", folder)
    for keys in ((), ("user",)):
        with Server(*flags, models=models, keys=keys, env={"DUETTO_ADMIN_KEYS": "root"}) as s:
            assert changes(s, None) == changes(s, "guess") == {(401, "invalid_api_key")}
            assert {status for status, _ in changes(s, "root")} <= {400, 404}
            assert ask(s, "GET", "/v1/adapters", "root")[0] == 200
            assert ask(s, "GET", "/v1/adapters", None)[0] == (401 if keys else 200)
            if keys:
                assert changes(s, "user") == {(403, "forbidden")}
                assert ask(s, "GET", "/v1/adapters", "user")[0] == 200
    with Server(*flags, models=models, keys=("user",)) as s:
        assert {status for status, _ in changes(s, "user")} <= {400, 404}


def test_few_at_once(start, folder):
    server = start("--threads", 1, "--lora_dir", folder, "--max_loras", 1, models={"painter": PAINTER})
    a, b = pixels(server, loras=[lora("kohya")]), pixels(server, loras=[lora("peft")])
    assert a != b and pixels(server, loras=[lora("kohya")]) == a
    assert call(server, "POST", "/v1/adapters", {"name": "kohya"})[0] == 200
    status, r = call(server, "POST", GENERATE, SMALL | {"loras": [lora("peft")]})
    assert status == 429 and "1 adapters" in r["error"]["message"]


def test_tags_of_the_web_ui(server):
    names = [a["name"] for a in call(server, "GET", "/sdapi/v1/loras")[1]]
    assert {"kohya", "peft"} <= set(names)
    body = {"prompt": "a red <lora:peft:0.5>fox", "width": 32, "height": 32, "steps": 3, "seed": 5,
            "sampler_name": "Euler", "cfg_scale": 7}
    status, r = call(server, "POST", "/sdapi/v1/txt2img", body)
    assert status == 200, r
    ours = paint(server, prompt="a red fox", scheduler="euler", guidance_scale=7.0,
                 loras=[lora("peft", 0.5)])
    assert raw(r["images"][0]).tobytes() == raw(ours).tobytes()
    status, r = call(server, "POST", "/sdapi/v1/txt2img", body | {"prompt": "<lora:peft:x> fox"})
    assert status == 400


def read_tensors(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, t in json.loads(data[8:8 + n]).items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            out[name] = numpy.frombuffer(
                data[8 + n + a:8 + n + b],
                {"F16": "<f2", "F32": "<f4"}[t["dtype"]]).reshape(t["shape"]).astype("<f4")
    return out


def write_tensors(path, all_):
    header, at = {}, 0
    for name, t in all_.items():
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text +
                     b"".join(t.astype("<f4").tobytes() for t in all_.values()))


def merged(to, scale):
    """The painter with the LoRA peft within its weights, as a fine-tuned checkpoint has it (DreamBooth)."""
    shutil.copytree(PAINTER, to)
    lora_ = read_tensors(FILES / "peft.safetensors")
    for part in ("unet", "text_encoder"):
        path = next((to / part).glob("*.safetensors"))
        weights = read_tensors(path)
        for name, down in lora_.items():
            if not name.startswith(part + ".") or not name.endswith(".lora_A.weight"):
                continue
            layer = name[len(part) + 1:-len(".lora_A.weight")]
            key = layer + ".weight"
            key = key if key in weights else key.removeprefix("text_model.")
            up = lora_[name.replace("lora_A", "lora_B")]
            delta = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            weights[key] = weights[key] + scale * delta.reshape(weights[key].shape)
        write_tensors(path, weights)
    return to


def test_a_fine_tuned_checkpoint_is_a_model_and_the_same_as_its_lora(start, folder, tmp_path):
    tuned = merged(tmp_path / "tuned", 0.6)
    server = start("--threads", 1, "--lora_dir", folder,
                   models={"painter": PAINTER, "tuned": tuned})
    body = {"steps": 8, "seed": 3, "size": "48x32"}
    a = numpy.asarray(raw(paint(server, model="tuned", **body))).astype(float)
    b = numpy.asarray(raw(paint(server, model="painter", loras=[lora("peft", 0.6)], **body)))
    plain = numpy.asarray(raw(paint(server, model="painter", **body)))
    psnr = [10 * numpy.log10(65025 / max(((a - x) ** 2).mean(), 1e-9)) for x in (b, plain)]
    assert psnr[0] >= 45 > 30 > psnr[1], psnr
