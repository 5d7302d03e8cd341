"""/sdapi/v1, the dialect of stable-diffusion-webui: a session of its client package webuiapi, the shapes of answers, and
bodies that no client would send.  The model is a tiny one of random weights."""
import base64
import io
import json
import threading

import PIL.Image
import PIL.ImageChops
import pytest
import webuiapi

from harness import PAINTER, ROOT, TINY, eventually, picture, png

LORAS = ROOT / "tests/fixtures/lora"
SMALL = {"prompt": "a red fox", "width": 32, "height": 32, "steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def painter(start):
    return start("--threads", 1, "--cache_mib", 1024, "--preload", "all", "--lora_dir", LORAS,
                 models={"tiny": TINY, "painter": PAINTER, "other": PAINTER,
                         "edges": ROOT / "tests/fixtures/control_a",
                         "four": ROOT / "tests/fixtures/upscale_first.safetensors"}, keys=["alice", "bob"])


def call(server, path, body=None, key="alice", method=None):
    status, _, text = server.request(method or ("GET" if body is None else "POST"),
                                     path,
                                     None if body is None else json.dumps(body),
                                     {"Authorization": f"Bearer {key}"})
    return status, json.loads(text)


def client(server, key="alice"):
    """webuiapi has a user and a password; the password is the API key."""
    return webuiapi.WebUIApi(host="127.0.0.1", port=server.port, username="me", password=key,
                             sampler="Euler a", steps=2)


def image(size=(64, 48), color=(200, 40, 40)):
    return PIL.Image.new("RGB", size, color)


def of(text):
    im = PIL.Image.open(io.BytesIO(base64.b64decode(text)))
    im.load()
    return im


def b64(im):
    out = io.BytesIO()
    im.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


# ---- a session of webuiapi ----


def test_webuiapi_makes_pictures(painter):
    r = client(painter).txt2img(prompt="a red fox", negative_prompt="snow", seed=7, width=48,
                                height=32, cfg_scale=5, batch_size=2, sampler_name="DPM++ 2M",
                                scheduler="Karras")
    assert [im.size for im in r.images] == [(48, 32)] * 2
    assert r.info["all_seeds"] == [7, 8] and r.info["sampler_name"] == "DPM++ 2M Karras"
    assert r.info["prompt"] == "a red fox" and r.info["cfg_scale"] == 5 and r.info["steps"] == 2
    assert r.parameters["prompt"] == "a red fox" and r.parameters["batch_size"] == 2
    for im, text in zip(r.images, r.info["infotexts"]):
        assert im.info["parameters"] == text
    assert "Seed: 8" in r.info["infotexts"][1]


def test_webuiapi_reads_its_pictures_again(painter):
    api = client(painter)
    r = api.txt2img(prompt="a red fox,\nsitting", negative_prompt="snow", seed=7, width=48, height=32)
    back = api.png_info(r.image)
    assert back.info == r.info["infotexts"][0]
    read = back.parameters
    assert read["Prompt"] == "a red fox,\nsitting" and read["Negative prompt"] == "snow"
    assert (read["Seed"], read["Size-1"], read["Size-2"]) == ("7", "48", "32")
    assert read["Steps"] == "2" and read["Sampler"] == "Euler a" and read["Model"] == "painter"


def test_webuiapi_changes_a_picture(painter):
    api = client(painter)
    r = api.img2img(images=[image()], prompt="a cat", seed=1, width=48, height=32, steps=4,
                    denoising_strength=0.5)
    assert r.image.size == (48, 32) and r.info["denoising_strength"] == 0.5
    again = api.img2img(images=[image()], prompt="a cat", seed=1, width=48, height=32, steps=4,
                        denoising_strength=0.5)
    assert r.image.tobytes() == again.image.tobytes()


@pytest.mark.parametrize("steps,strength", [(4, 0), (4, 0.2), (1, 0.5), (50, 0.01)])
def test_the_least_change_is_one_step(painter, steps, strength):
    body = {**SMALL, "steps": steps, "denoising_strength": strength}
    status, r = call(painter, "/sdapi/v1/img2img", {**body, "init_images": [b64(image())]})
    assert status == 200, r
    assert abs(json.loads(r["info"])["denoising_strength"] - strength) < 1e-6
    status, r = call(painter, "/sdapi/v1/txt2img", {**body, "steps": 2, "enable_hr": True,
                                                    "hr_second_pass_steps": steps})
    assert status == 200, r


@pytest.mark.parametrize("sampler,made", [("Euler", 3), ("Euler a", 3), ("DDIM", 2)])
def test_steps_of_a_change_are_counted_as_there(painter, sampler, made):
    """Of 4 steps with 0.5: sampling over sigmas makes one more than sampling over timesteps."""
    body = {**SMALL, "steps": 4, "seed": 2}
    _, ours = call(painter, "/sdapi/v1/img2img", {**body, "init_images": [b64(image((32, 32)))], "cfg_scale": 3,
                                                  "sampler_name": sampler, "denoising_strength": 0.5})
    _, theirs = call(painter, "/v1/images/edits", {
        "model": "painter", "prompt": body["prompt"], "image": b64(image((32, 32))), "size": "32x32", "seed": 2,
        "guidance_scale": 3, "scheduler": sampler, "steps": 4, "strength": made / 4})
    assert of(ours["images"][0]).tobytes() == of(theirs["data"][0]["b64_json"]).tobytes()
    assert "Denoising strength: 0.5" in json.loads(ours["info"])["infotexts"][0]


@pytest.mark.parametrize("sampler,made", [("Euler", 3), ("DDIM", 2)])
def test_a_second_pass_makes_all_of_its_steps(painter, sampler, made):
    body = {**SMALL, "steps": 2, "seed": 2, "cfg_scale": 3}
    _, ours = call(painter, "/sdapi/v1/txt2img", {**body, "sampler_name": sampler, "denoising_strength": 0.5,
                                                  "enable_hr": True, "hr_second_pass_steps": 3})
    _, theirs = call(painter, "/v1/images/generations", {
        "model": "painter", "prompt": body["prompt"], "size": "32x32", "seed": 2, "guidance_scale": 3,
        "scheduler": sampler, "steps": 2, "hires": {"scale": 2, "steps": 6, "strength": made / 6 + 0.01}})
    assert of(ours["images"][0]).tobytes() == of(theirs["data"][0]["b64_json"]).tobytes()
    assert "Hires steps: 3, Hires strength: 0.5" in json.loads(ours["info"])["infotexts"][0]


HARMLESS = {"live_previews_enable": False, "grid_format": "jpg", "samples_save": True, "eta_noise_seed_delta": 0,
            "img2img_color_correction": False, "emphasis": "Original", "outdir_samples": "/x", "s_noise": 1.0}


def test_settings_that_change_no_picture(painter):
    status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, "override_settings": HARMLESS})
    assert status == 200, r
    assert call(painter, "/sdapi/v1/options", HARMLESS) == (200, None)


@pytest.mark.parametrize("key,value", [("eta_noise_seed_delta", 31337), ("img2img_color_correction", True),
                                       ("emphasis", "No norm"), ("s_noise", [1]), ("live", 1)])
def test_settings_that_would_change_pictures(painter, key, value):
    status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, "override_settings": {key: value}})
    assert status == 400 and key in r["detail"], r
    status, r = call(painter, "/sdapi/v1/options", {key: value})
    assert status == 400 and key in r["detail"], r


@pytest.mark.parametrize("full_res", [True, False])
@pytest.mark.parametrize("fill", [0, 1, 2, 3])
def test_webuiapi_paints_within_a_mask(painter, full_res, fill):
    """What the mask does not cover stays as it was, to the byte."""
    im, mask = image((96, 64)), PIL.Image.new("L", (96, 64))
    mask.paste(255, (40, 24, 56, 40))
    size = {"width": 48, "height": 32} if full_res else {"width": 96, "height": 64}
    r = client(painter).img2img(images=[im], mask_image=mask, prompt="a cat", seed=1, steps=2,
                                denoising_strength=0.9, inpaint_full_res=full_res, mask_blur=2,
                                inpainting_fill=fill, inpaint_full_res_padding=4, **size)
    assert r.image.size == (96, 64)
    box = PIL.ImageChops.difference(r.image.convert("RGB"), im).getbbox()
    assert box is not None and box[0] >= 30 and box[1] >= 14 and box[2] <= 66 and box[3] <= 50


def test_each_fill_begins_differently(painter):
    im, mask = image((32, 32)), PIL.Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 16))
    made = {client(painter).img2img(images=[im], mask_image=mask, prompt="x", seed=1, steps=4, width=32, height=32,
                                    denoising_strength=0.5, inpaint_full_res=False, mask_blur=0,
                                    inpainting_fill=fill).image.convert("RGB").tobytes() for fill in (1, 2, 3)}
    assert len(made) == 3


def test_webuiapi_chooses_a_model(painter):
    api = client(painter)
    assert sorted(api.util_get_model_names()) == ["other", "painter"]
    api.util_set_model("other")
    assert api.util_get_current_model() == "other"
    assert api.txt2img(prompt="x", width=32, height=32).info["sd_model_name"] == "other"
    assert client(painter, "bob").util_get_current_model() == "painter"  # each key for itself
    r = api.txt2img(prompt="x", width=32, height=32,
                    override_settings={"sd_model_checkpoint": "painter"})
    assert r.info["sd_model_name"] == "painter"
    api.util_set_model("painter")


def test_webuiapi_asks_for_everything(painter):
    api = client(painter)
    assert "Euler a" in api.util_get_sampler_names()
    assert "karras" in api.util_get_scheduler_names()
    for what in (api.get_upscalers, api.get_loras, api.get_sd_vae, api.get_hypernetworks,
                 api.get_face_restorers, api.get_realesrgan_models, api.get_prompt_styles,
                 api.get_cmd_flags, api.get_memory, api.get_scripts, api.get_latent_upscale_modes):
        assert isinstance(what(), (list, dict)), what
    api.refresh_checkpoints()
    for path in ("/sdapi/v1/samplers", "/sdapi/v1/schedulers", "/sdapi/v1/sd-models", "/sdapi/v1/upscalers",
                 "/sdapi/v1/loras", "/sdapi/v1/embeddings", "/sdapi/v1/sd-vae", "/sdapi/v1/hypernetworks",
                 "/sdapi/v1/face-restorers", "/sdapi/v1/realesrgan-models", "/sdapi/v1/prompt-styles",
                 "/sdapi/v1/cmd-flags", "/sdapi/v1/memory", "/sdapi/v1/scripts",
                 "/sdapi/v1/latent-upscale-modes"):
        assert call(painter, path)[0] == 200
    assert call(painter, "/sdapi/v1/refresh-checkpoints", {})[0] == 200
    api.util_wait_for_ready()


def test_webuiapi_enlarges_a_picture(painter):
    api = client(painter)
    assert api.extra_single_image(image(), upscaler_1="Lanczos",
                                  upscaling_resize=2).image.size == (128, 96)
    assert api.extra_single_image(image(), upscaler_1="Lanczos", resize_mode=1,
                                  upscaling_resize_w=100, upscaling_resize_h=100).image.size == (100, 100)
    assert api.extra_single_image(image()).image.tobytes() == image().tobytes()


def test_webuiapi_enlarges_by_a_network(painter):
    api = client(painter)
    assert "four" in [u["name"] for u in api.get_upscalers()]
    assert api.extra_single_image(image((16, 12)), upscaler_1="four", upscaling_resize=4).image.size == (64, 48)
    assert api.extra_single_image(image((16, 12)), upscaler_1="four", upscaling_resize=3).image.size == (48, 36)
    assert api.extra_single_image(image((16, 12)), upscaler_1="four", resize_mode=1, upscaling_resize_w=40,
                                  upscaling_resize_h=40).image.size == (40, 40)


@pytest.mark.parametrize("upscaler", ["Latent", "Latent (nearest)", "Latent (bicubic)", "Lanczos", "four"])
def test_webuiapi_makes_a_second_pass(painter, upscaler):
    r = client(painter).txt2img(prompt="a fox", seed=1, width=48, height=32, enable_hr=True, hr_scale=2,
                                hr_upscaler=upscaler, denoising_strength=0.6, hr_second_pass_steps=3)
    assert r.image.size == (96, 64)
    assert "Hires" in r.info["infotexts"][0]


def test_webuiapi_uses_loras_of_the_prompt(painter):
    api, size = client(painter), {"width": 32, "height": 32, "seed": 3}
    assert "kohya" in [lora["name"] for lora in api.get_loras()]
    plain = api.txt2img(prompt="a fox", **size)
    none = api.txt2img(prompt="a fox <lora:kohya:0>", **size)
    full = api.txt2img(prompt="a fox <lora:kohya:1>", **size)
    both = api.txt2img(prompt="a <lora:kohya:te=0.5:unet=1>fox <lora:peft:0.3:0.2>", **size)
    assert plain.image.tobytes() == none.image.tobytes()
    assert len({im.image.tobytes() for im in (plain, full, both)}) == 3
    assert full.info["prompt"] == "a fox"
    assert full.info["infotexts"][0].startswith("a fox <lora:kohya:1>\n")
    _, _, text = painter.request(
        "POST", "/v1/images/generations",
        json.dumps({"prompt": "a fox", "model": "painter", "size": "32x32", "steps": 2, "seed": 3,
                    "scheduler": "euler_a", "guidance_scale": 7, "loras": [{"name": "kohya"}]}),
        {"Authorization": "Bearer alice"})
    assert of(json.loads(text)["data"][0]["b64_json"]).tobytes() == full.image.tobytes()


@pytest.mark.parametrize("tag", ["<lora:none such:1>", "<lora:>", "<lora:kohya:much>", "<lora:a:1:2:3>",
                                 "<lora:../kohya:1>", "<hypernet:x:1>", "<lora:" + "x" * 500 + ":1>"])
def test_loras_that_cannot_be(painter, tag):
    status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, "prompt": f"a fox {tag}"})
    assert status in (400, 404), r
    assert r["error"]["param"].startswith(("prompt", "loras")), r


def test_other_brackets_stay_in_the_prompt(painter):
    for prompt in ("a < b > c", "<", "<lora", "<lora:kohya", "1 <2\n> 3"):
        status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, "prompt": prompt})
        assert status == 200 and json.loads(r["info"])["prompt"] == prompt


def test_webuiapi_uses_a_controlnet(painter):
    api, size = client(painter), {"width": 32, "height": 32, "seed": 3, "cfg_scale": 7}
    assert api.has_controlnet
    im = image((32, 32))
    im.paste((0, 0, 90), (8, 8, 20, 32))
    plain = api.txt2img(prompt="a fox", **size)
    unit = webuiapi.ControlNetUnit(image=im, module="canny", model="edges [0123abcd]", weight=0.8,
                                   guidance_end=0.9, threshold_a=100, threshold_b=200)
    steered = api.txt2img(prompt="a fox", controlnet_units=[unit], **size)
    assert steered.image.tobytes() != plain.image.tobytes()
    off = webuiapi.ControlNetUnit(image=im, module="canny", model="edges", enabled=False)
    assert api.txt2img(prompt="a fox", controlnet_units=[off], **size).image.tobytes() == plain.image.tobytes()
    _, _, text = painter.request(
        "POST", "/v1/images/generations",
        json.dumps({"prompt": "a fox", "model": "painter", "size": "32x32", "steps": 2, "seed": 3,
                    "scheduler": "euler_a", "guidance_scale": 7,
                    "control": [{"model": "edges", "image": b64(im), "preprocessor": "canny", "scale": 0.8,
                                 "end": 0.9, "low_threshold": 100, "high_threshold": 200}]}),
        {"Authorization": "Bearer alice"})
    assert of(json.loads(text)["data"][0]["b64_json"]).tobytes() == steered.image.tobytes()


@pytest.mark.parametrize("unit", [
    5, {}, {"model": "None"}, {"model": "nobody", "image": b64(image())}, {"model": "edges"},
    {"model": "edges", "image": b64(image()), "module": "openpose"},
    {"model": "edges", "image": b64(image()), "control_mode": "My prompt is more important"},
    {"model": "edges", "image": b64(image()), "weight": "heavy"}, {"model": "edges", "image": "rubbish"},
    {"model": "painter", "image": b64(image())}])
def test_units_that_cannot_be(painter, unit):
    status, r = call(painter, "/sdapi/v1/txt2img",
                     {**SMALL, "alwayson_scripts": {"ControlNet": {"args": [unit]}}})
    assert status in (400, 404), r
    assert r["error"]["param"].startswith("alwayson_scripts.controlnet"), r


def test_progress_and_interrupt(painter):
    api, got = client(painter), []
    t = threading.Thread(target=lambda: got.append(api.txt2img(
        prompt="a fox", width=96, height=96, steps=900, n_iter=4, seed=1)))
    t.start()
    seen = eventually(lambda: (p := call(painter, "/sdapi/v1/progress")[1])["state"]["sampling_step"] and p)
    assert 0 < seen["progress"] < 1 and seen["state"]["sampling_steps"] == 900
    assert call(painter, "/sdapi/v1/progress", key="bob")[1]["progress"] == 0  # of others' work no word
    assert call(painter, "/sdapi/v1/interrupt", {}, "bob")[0] == 200
    assert call(painter, "/sdapi/v1/progress")[1]["state"]["job_count"] == 1
    client(painter).interrupt()  # without a body
    t.join()
    assert len(got[0].images) < 4 and got[0].info["infotexts"] == [] or len(got[0].images) > 0
    assert call(painter, "/sdapi/v1/progress")[1]["progress"] == 0


def test_skip_ends_the_oldest(painter):
    api, got = client(painter), {}

    def make(seed):
        got[seed] = api.txt2img(prompt="a fox", width=96, height=96, steps=900, seed=seed)

    threads = []
    for seed in (1, 2):
        threads.append(threading.Thread(target=make, args=(seed,)))
        threads[-1].start()
        eventually(lambda: call(painter, "/sdapi/v1/progress")[1]["state"]["job_count"] == seed)
    assert call(painter, "/sdapi/v1/skip", {}, "bob")[0] == 200  # nothing of others
    assert call(painter, "/sdapi/v1/progress")[1]["state"]["job_count"] == 2
    assert call(painter, "/sdapi/v1/skip", {})[0] == 200
    threads[0].join()
    assert got[1].images == [] and 2 not in got
    client(painter).interrupt()
    threads[1].join()


def test_resize_and_fill_continues_the_borders(painter):
    """What the model sees of a square in a wide picture, told by a mask that covers nothing of it."""
    im = PIL.Image.new("RGB", (32, 32), (10, 20, 30))
    im.paste((200, 0, 0), (0, 0, 1, 32))
    im.paste((0, 0, 200), (31, 0, 32, 32))
    mask = PIL.Image.new("L", (32, 32))
    mask.putpixel((16, 16), 255)
    r = client(painter).img2img(images=[im], mask_image=mask, prompt="x", seed=1, width=64, height=32, steps=2,
                                inpaint_full_res=False, mask_blur=0, resize_mode=2).image.convert("RGB")
    assert r.size == (64, 32)
    assert [r.getpixel((x, 5)) for x in (0, 8, 16)] == [(200, 0, 0)] * 3
    assert [r.getpixel((x, 31)) for x in (47, 56, 63)] == [(0, 0, 200)] * 3
    assert r.getpixel((25, 5)) == (10, 20, 30)
    plain = client(painter).img2img(images=[im], prompt="x", seed=1, width=64, height=32, steps=2, resize_mode=2)
    assert plain.image.size == (64, 32)


def test_a_refiner_takes_over(painter):
    one = call(painter, "/sdapi/v1/txt2img", {**SMALL, "steps": 4})[1]
    for off in ({"refiner_checkpoint": "None"}, {"refiner_checkpoint": ""},
                {"refiner_checkpoint": "other", "refiner_switch_at": 1}):
        assert call(painter, "/sdapi/v1/txt2img", {**SMALL, "steps": 4, **off})[1]["images"] == one["images"]
    status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, "steps": 4, "refiner_checkpoint": "other",
                                                    "refiner_switch_at": 0.5})
    assert status == 200 and "Refiner: other, Refiner switch at: 0.5" in json.loads(r["info"])["infotexts"][0]
    status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, "refiner_checkpoint": "nobody"})
    assert status == 404 and r["error"]["param"] == "refiner_checkpoint", r


# ---- what is the same and what is not ----


def test_the_picture_is_that_of_openais_route(painter):
    _, ours = call(painter, "/sdapi/v1/txt2img", {**SMALL, "sampler_name": "Euler a", "cfg_scale": 7.5})
    status, _, text = painter.request(
        "POST", "/v1/images/generations",
        json.dumps({"prompt": "a red fox", "model": "painter", "size": "32x32", "steps": 2, "seed": 7,
                    "scheduler": "euler_a", "guidance_scale": 7.5}),
        {"Authorization": "Bearer alice"})
    assert status == 200
    theirs = json.loads(text)["data"][0]["b64_json"]
    assert of(ours["images"][0]).tobytes() == of(theirs).tobytes()


def test_old_names_of_samplers(painter):
    labels = {("DPM++ 2M Karras", None): "DPM++ 2M Karras", ("DPM++ 2M", None): "DPM++ 2M Karras",
              ("k_dpmpp_2m", "uniform"): "DPM++ 2M", ("Euler", "Automatic"): "Euler",
              ("euler", "SGM Uniform"): "Euler Trailing", ("DDIM", ""): "DDIM",
              ("Restart", ""): "Restart Karras", ("DPM fast", None): "DPM fast",
              ("DPM++ 2S a", "Align Your Steps"): "DPM++ 2S a Align Your Steps",
              ("DPM++ 3M SDE", "KL Optimal"): "DPM++ 3M SDE KL Optimal",
              ("DPM++ 2M SDE Heun", "beta"): "DPM++ 2M SDE Heun Beta"}
    for (name, schedule), label in labels.items():
        status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, "sampler_name": name, "scheduler": schedule})
        assert status == 200, r
        assert json.loads(r["info"])["sampler_name"] == label
    status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, "sampler_name": "DPM adaptive"})
    assert status == 400 and "chooses its steps" in json.dumps(r)


HIRES = {"hr_prompt": "another", "hr_sampler_name": "DDIM", "hr_checkpoint_name": "other", "hr_upscaler": "Magic",
         "hr_resize_x": 96, "hr_scale": 7.9}


@pytest.mark.parametrize("field", HIRES)
def test_what_a_second_pass_cannot_do(painter, field):
    status, r = call(painter, "/sdapi/v1/txt2img",
                     {**SMALL, "width": 4096, "enable_hr": True, field: HIRES[field]})
    assert status in (400, 404), r
    assert r["error"]["param"] in (field, "enable_hr", "width"), r


BAD = {
    "sampler_name": "Magic", "scheduler": "none such", "steps": 0, "cfg_scale": "much", "width": 33,
    "batch_size": 100, "seed": 1.5, "subseed_strength": 0.5, "restore_faces": True, "tiling": True,
    "styles": ["x"], "hr_scale": 100, "script_name": "x/y plot", "s_churn": 1, "override_settings": {"other": 1},
    "alwayson_scripts": {"ADetailer": {"args": [True]}}, "prompt": 5, "denoising_strength": 2,
}


@pytest.mark.parametrize("scripts", [[{"args": [1]}], [[1]], [1], "x", 3, True])
def test_scripts_are_an_object(painter, scripts):
    status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, "alwayson_scripts": scripts})
    assert status == 400 and r["error"]["param"] == "alwayson_scripts", r


@pytest.mark.parametrize("field", BAD)
def test_what_is_not_supported_is_refused_by_name(painter, field):
    status, r = call(painter, "/sdapi/v1/txt2img", {**SMALL, field: BAD[field]})
    assert status == 400, r
    assert r["error"]["param"].split(".")[0] in (field, "width"), r
    assert r["detail"] == r["error"]["message"]


@pytest.mark.parametrize("body", [
    {}, {"init_images": []}, {"init_images": ["x"]}, {"init_images": "x"}, {"init_images": [None]},
    {"init_images": [b64(image()), b64(image())]}, {"init_images": [b64(image())], "mask": "rubbish"},
    {"init_images": [b64(image())], "mask": 1}, {"init_images": [b64(image())], "resize_mode": 3},
    {"init_images": [b64(image())], "inpainting_fill": 4, "mask": b64(image())},
    {"init_images": [b64(image())], "width": 32, "height": None},
    {"init_images": [b64(image())], "width": 30000, "height": 30000},
    {"init_images": [b64(image())], "initial_noise_multiplier": 0.5},
    {"init_images": [b64(image())], "mask": b64(image()), "mask_blur_x": 3, "mask_blur_y": 4},
])
def test_rubbish_for_img2img(painter, body):
    status, r = call(painter, "/sdapi/v1/img2img", body)
    assert status in (400, 413) and r["detail"], r


@pytest.mark.parametrize("path,body", [
    ("/sdapi/v1/png-info", {}), ("/sdapi/v1/png-info", {"image": "!"}), ("/sdapi/v1/extra-single-image", {}),
    ("/sdapi/v1/extra-single-image", {"image": b64(image()), "upscaler_1": "Magic"}),
    ("/sdapi/v1/extra-single-image", {"image": b64(image((4000, 4000))), "upscaler_1": "Lanczos",
                            "upscaling_resize": 8}),
    ("/sdapi/v1/extra-single-image", {"image": b64(image()), "gfpgan_visibility": 1}),
    ("/sdapi/v1/options", {"sd_model_checkpoint": "none"}), ("/sdapi/v1/options", {"other": 1}),
    ("/sdapi/v1/options", {"CLIP_stop_at_last_layers": 99}), ("/sdapi/v1/options", {"samples_format": "webp"}),
    ("/sdapi/v1/txt2img", []),
])
def test_rubbish_for_other_routes(painter, path, body):
    status, r = call(painter, path, body)
    assert status in (400, 404, 413) and r["detail"], r


def test_options_can_be_sent_back(painter):
    _, options = call(painter, "/sdapi/v1/options")
    assert options["sd_model_checkpoint"] == "painter"
    assert call(painter, "/sdapi/v1/options", options) == (200, None)


def test_a_picture_without_parameters(painter):
    r = call(painter, "/sdapi/v1/png-info", {"image": base64.b64encode(png(8, 8)).decode()})[1]
    assert r == {"info": "", "items": {}, "parameters": {}}


def test_an_empty_mask_and_no_images_in_the_answer(painter):
    status, r = call(painter, "/sdapi/v1/img2img", {
        "init_images": [b64(image())], "mask": b64(PIL.Image.new("L", (64, 48))), "steps": 2,
        "width": 32, "height": 32, "send_images": False, "inpaint_full_res": 1})
    assert status == 200 and r["images"] == []


def test_keys_are_wanted(painter):
    for headers in ({}, {"Authorization": "Basic bWU6d3Jvbmc="}, {"Authorization": "Basic !!"}):
        assert painter.request("GET", "/sdapi/v1/options", None, headers)[0] == 401
