"""Trains the UNet and the text encoder of emoji-sd on the autoencoder's latents, and exports them.

    python tools/train/train_sd.py --data world.npz --vae work/vae.pt --text work/text.pt --out work/sd.pt [--steps 7000]
    python tools/train/train_sd.py ... --export models/emoji-sd      # write what there is; no training

Plain v loss (min-SNR was tried and starves the high noise levels, where the words decide), the noise
levels leaning to the high ones; every picture of a batch is drawn at two noise levels, so that its caption
is encoded once.  The export is a Stable Diffusion 1.x directory of diffusers, averaged weights in fp16.
"""
import json
import os

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import world
from common import Run, arguments, mixed, write_half, write_json
from train_vae import frozen, load_decoder

BOS, EOS, LENGTH = "<|startoftext|>", "<|endoftext|>", 77


def train_tokenizer(texts, folder, size):
    """CLIP's byte-level BPE: lower-cased words by CLIP's pattern, a word's last piece ends in </w>."""
    os.makedirs(folder, exist_ok=True)
    tok = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=EOS))
    tok.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "),
                                           normalizers.Lowercase()])
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "removed", invert=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    n_merges = size - 2 * len(letters) - 2
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters,
                                                       end_of_word_suffix="</w>", show_progress=False))
    merges = [m if isinstance(m, (list, tuple)) else m.split(" ") for m in json.loads(tok.to_str())["model"]["merges"]]
    merges = merges[:n_merges]              # the trainer counts the letters too: a few too many
    vocab = list(dict.fromkeys(letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges] + [BOS, EOS]))
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    write_json(os.path.join(folder, "vocab.json"), {t: i for i, t in enumerate(vocab)})
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    write_json(os.path.join(folder, "special_tokens_map.json"), special)
    write_json(os.path.join(folder, "tokenizer_config.json"),
               {**special, "add_prefix_space": False, "do_lower_case": True, "errors": "replace",
                "model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer"})


def texts(caps):
    for c in caps:
        for lang in ("en", "it"):
            yield from (c[lang], c[lang], *c["k" + lang])
    yield from ["a picture of a", "emoji of", "un'immagine di", "emoji di un una", "and with", "e con"] * 20


def caption(c, rng):
    """One random caption of a picture: mostly its name, at times with a few words about it."""
    lang = "en" if rng.random() < .55 else "it"
    name, keys, r = c[lang], c["k" + lang], rng.random()
    if r < .72:
        return name
    if r < .86:
        return rng.choice({"en": ("a ", "emoji of ", "a picture of "), "it": ("un ", "emoji di ", "un'immagine di ")}[lang]) + name
    if not keys:
        return name
    return name + ", " + ", ".join(rng.choice(keys, min(len(keys), int(rng.integers(1, 3))), replace=False))


def build(vocab, width=160):
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2,
        num_attention_heads=width // 32, max_position_embeddings=LENGTH, hidden_act="quick_gelu",
        projection_dim=width, bos_token_id=vocab - 2, eos_token_id=vocab - 1, pad_token_id=vocab - 1))
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(48, 96, 160), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),   # attention at 8x8
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),           # and 4x4 only
        cross_attention_dim=width, attention_head_dim=4, norm_num_groups=16)
    return text, unet.to(memory_format=torch.channels_last)


def scheduler():
    return DDIMScheduler(num_train_timesteps=1000, beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear",
                         clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction")


def export(folder, tokenizer, text, unet, vae, sched):
    """A complete StableDiffusionPipeline directory in the layout of Stable Diffusion 1.x."""
    def config(sub, module):
        module.save_config(os.path.join(folder, sub))
    write_half(os.path.join(folder, "text_encoder"), "model.safetensors", text, prefix="text_model.")
    text.config.architectures, text.config.dtype = ["CLIPTextModel"], torch.float16
    text.config.save_pretrained(os.path.join(folder, "text_encoder"))
    write_half(os.path.join(folder, "unet"), "diffusion_pytorch_model.safetensors", unet)
    write_half(os.path.join(folder, "vae"), "diffusion_pytorch_model.safetensors", vae)
    config("unet", unet), config("vae", vae)
    sched.save_pretrained(os.path.join(folder, "scheduler"))
    write_json(os.path.join(folder, "generation_config.json"), {"num_inference_steps": 20, "guidance_scale": 3.0})
    os.makedirs(os.path.join(folder, "tokenizer"), exist_ok=True)
    for name, content in tokenizer.items():
        with open(os.path.join(folder, "tokenizer", name), "w", encoding="utf-8") as f:
            f.write(content)
    none = [None, None]
    write_json(os.path.join(folder, "model_index.json"), {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0", "feature_extractor": none,
        "image_encoder": none, "requires_safety_checker": False, "safety_checker": none,
        "scheduler": ["diffusers", type(sched).__name__], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]})


def tokenizer_files(caps, work, size, run_path):
    """name -> content of the tokenizer: that of the checkpoint, else trained anew (ties break at random)."""
    if os.path.exists(run_path):
        return torch.load(run_path, weights_only=False)["extra"]["tokenizer"]
    train_tokenizer(texts(caps), work, size)
    files = {}
    for name in os.listdir(work):
        with open(os.path.join(work, name), encoding="utf-8") as f:
            files[name] = f.read()
    return files


def load_tokenizer(caps, out, size):
    """(the files, the tokenizer) of the checkpoint `out`, or trained for it."""
    work = out + ".tokenizer"
    files = tokenizer_files(caps, work, size, out)
    os.makedirs(work, exist_ok=True)
    for name, content in files.items():
        with open(os.path.join(work, name), "w", encoding="utf-8") as f:
            f.write(content)
    return files, CLIPTokenizer.from_pretrained(work)


def begin_with(a, text):
    """Puts the averaged text encoder of train_text.py into `text`, and its tokenizer beside a new run."""
    c = torch.load(a.text, weights_only=False)
    text.load_state_dict(c["modules"]["text"])
    with torch.no_grad():
        for q, e in zip(text.parameters(), c["ema"]):
            q.copy_(e)


def set_up(a, caps):
    """(the run with everything loaded, text encoder, UNet, tokenizer)."""
    first = a.text if a.text and not os.path.exists(a.out) else a.out
    files, tok = load_tokenizer(caps, first, a.vocab)
    text, unet = build(len(tok))
    if first != a.out:
        begin_with(a, text)
    matrices = [q for n, q in unet.named_parameters() if q.ndim > 1 and not n.startswith(("conv_in", "conv_out"))]
    run = Run(a.out, {"text": text, "unet": unet}, a, a.lr, ema=.999, muon=matrices if a.muon else ())
    run.extra["tokenizer"] = files
    return run, text, unet, tok


def ids_of(tok, words):
    return tok(words, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


def noisy(z, t, abar):
    """(the noisy latents, the v that leads back) at the levels t."""
    s = abar[t].view(-1, 1, 1, 1)
    noise = torch.randn_like(z)
    return s.sqrt() * z + (1 - s).sqrt() * noise, s.sqrt() * noise - (1 - s).sqrt() * z


def epoch(caps, n_world, rng):
    """The order of one pass: every emoji once, a third of the recoloured ones."""
    order = np.arange(len(caps))
    order = order[(order < n_world) | (rng.random(len(order)) < 1 / 3)]
    return list(rng.permutation(order))


def main():
    a = arguments(__doc__, vae="vae.pt", out="sd.pt", steps=12000, lr=1e-3, batch=16, drop=.1, vocab=2560,
                  export="", decoder="", text="", muon=1)
    torch.manual_seed(a.seed)
    images, caps, n_world, _ = world.load(a.data)
    vae, z = frozen(a.vae, images)
    run, text, unet, tok = set_up(a, caps)
    if a.export:
        run.use_average()
        if a.decoder:
            load_decoder(vae, a.decoder)
        export(a.export, run.extra["tokenizer"], text, unet, vae, scheduler())
        return
    count = [sum(q.numel() for q in m.parameters()) for m in (text, unet, vae)]
    print("parameters: text encoder %d, UNet %d, VAE %d, all %d; vocabulary %d" % (*count, sum(count), len(tok)), flush=True)
    abar, order = scheduler().alphas_cumprod, run.extra.setdefault("order", [])
    while run.running(a.steps):
        if len(order) < a.batch:
            order += epoch(caps, n_world, run.rng)
            run.extra["looks"] = run.extra.get("looks", 0) + 2
        pick, order[:] = order[:a.batch], order[a.batch:]
        words = ["" if run.rng.random() < a.drop else caption(caps[i], run.rng) for i in pick]
        n = 2 * a.batch                                     # levels spread over the whole range in each batch
        t = (((torch.randperm(n) + torch.rand(n)) / n) ** .7 * 1000).long()
        x, v = noisy(z[pick].repeat(2, 1, 1, 1), t, abar)
        with mixed():
            context = text(input_ids=ids_of(tok, words))[0].repeat(2, 1, 1)
            out = unet(x.contiguous(memory_format=torch.channels_last), t, context).sample
        run.update((out.float() - v).square().mean(), a.steps)
    print(f"step {run.step}, {run.extra['looks']} looks at each picture, {run.seconds / 3600:.2f} CPU hours")


if __name__ == "__main__":
    main()
