#!/usr/bin/env python3
"""Makes tiny random BLIP models, one of each kind, and what transformers computes with them.

    /path/to/refenv/bin/python tools/make_blip_golden.py

tests/fixtures/blip_{caption,vqa,match}/: a directory as save_pretrained writes it (fp16), picture.png, and
golden.safetensors: the processor's pixels, the vision transformer's states, logits, and the tokens of greedy
and beam search (tests/golden/test_blip.c reads them).  transformers computes in f32 with the fp16 weights.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import (  # noqa: E402
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    BlipImageProcessor,
)

FIXTURES = Path("tests/fixtures")
SIZE = 32
WORDS = (
    "a the picture of red blue green dog cat tree car sits runs on under with two three photo un una immagine "
    "di gatto cane ##s ##ing ##ed ##o . , ? ! ' what is how many where it yes no"
).split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "[DEC]", "[ENC]"]
BEAMS = ((2, 1.0), (3, 1.0), (5, 1.0), (4, 0.5), (3, 2.0), (3, -1.0))  # num_beams, length_penalty
NEW = 12
END = 3.0  # added to the end token's logit


def config():
    both = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return BlipConfig(
        vision_config=dict(both, image_size=SIZE, patch_size=8),
        text_config=dict(
            both,
            vocab_size=len(VOCAB),
            max_position_embeddings=48,
            bos_token_id=len(VOCAB) - 2,
            sep_token_id=3,
            eos_token_id=3,
            pad_token_id=0,
        ),
        image_text_hidden_size=16,
        projection_dim=32,
    )


def random_weights(model, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if "norm" in name.lower():
            p.data = noise * 0.1 + (1 if name.endswith("weight") else 0)
        elif p.ndim == 1:
            p.data = noise * 0.1
        else:
            p.data = noise * (0.6 if "embedding" in name else 2.5 / p.shape[-1] ** 0.5 / (4 if p.ndim == 4 else 1))
        if name.endswith("predictions.bias"):  # words, and an end now and then
            p.data[[0, 1, 2, 4, len(VOCAB) - 2, len(VOCAB) - 1]] -= 12
            p.data[3] += END
        p.data = p.data.half().float()
    model.tie_weights()
    return model.eval()


def picture(folder):
    y, x = np.mgrid[0:40, 0:56].astype(np.float32)
    rgb = np.stack([127 + 120 * np.sin(x / 7 + y / 9), 4 * x + y / 2, 255 - 5 * y], -1)
    rgb += np.random.default_rng(7).normal(0, 12, rgb.shape)
    im = Image.fromarray(rgb.clip(0, 255).astype(np.uint8))
    im.save(folder / "picture.png", optimize=True)
    return im


def ints(ids):
    return torch.tensor(ids, dtype=torch.int32)


def searches(generate):
    """Greedy, and beam search as BEAMS says, without the tokens that it began with."""
    out = {"greedy": generate(num_beams=1)}
    for k, penalty in BEAMS:
        out[f"beams_{k}_{penalty:g}"] = generate(num_beams=k, length_penalty=penalty)
    return out


def save(folder, model, tensors):
    model.config.architectures = [type(model).__name__]
    model.half()
    model.config.save_pretrained(folder)
    tied = ("position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    state = {k: v.contiguous() for k, v in model.state_dict().items() if not k.endswith(tied)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "golden.safetensors")


def begin(kind, cls, seed):
    folder = FIXTURES / f"blip_{kind}"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(t + "\n" for t in VOCAB))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}) + "\n")
    processor = BlipImageProcessor(size={"height": SIZE, "width": SIZE}, resample=3)
    saved = dict(
        do_normalize=True,
        do_rescale=True,
        do_resize=True,
        resample=3,
        rescale_factor=1 / 255,
        size={"height": SIZE, "width": SIZE},
        image_mean=list(processor.image_mean),
        image_std=list(processor.image_std),
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(saved, indent=1) + "\n")
    model = random_weights(cls(config()), seed)
    im = picture(folder)
    small = im.resize((SIZE, SIZE), Image.BICUBIC)
    pixels = torch.from_numpy(np.array(small)).float() / 255
    pixels = ((pixels - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std))[None]
    theirs = torch.as_tensor(np.array(processor(im, return_tensors="np")["pixel_values"])).permute(0, 2, 3, 1)
    print(kind, "processor against PIL, in 1/255:", float((theirs - pixels).abs().max() * 255 * 0.27))
    seen = model.vision_model(pixel_values=pixels.permute(0, 3, 1, 2)).last_hidden_state
    tensors = {"pixel_values": pixels[0], "seen": seen[0]}
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    return folder, model, pixels.permute(0, 3, 1, 2), seen, tensors, tokenizer


def caption():
    folder, model, pixels, seen, out, tokenizer = begin("caption", BlipForConditionalGeneration, 5)
    bos = len(VOCAB) - 2
    prompts = {"": [], "prompt_": tokenizer("a picture of", add_special_tokens=False).input_ids}
    for name, ids in prompts.items():
        ids = [bos] + ids

        def generate(ids=ids, **how):
            # input_ids end with a [SEP] that generate() cuts off
            t = torch.tensor([ids + [3]])
            return ints(model.generate(pixels, t, max_new_tokens=NEW, do_sample=False, **how)[0][len(ids) :].tolist())

        out[name + "ids"] = ints(ids)
        found = searches(generate)
        out |= {name + k: v for k, v in found.items()}
        whole = torch.tensor([ids + found["greedy"].tolist()])
        out[name + "logits"] = model.text_decoder(input_ids=whole, encoder_hidden_states=seen).logits[0]
        for k, v in found.items():
            print(name + k, " ".join(VOCAB[i] for i in v))
    save(folder, model, out)


def vqa():
    folder, model, pixels, seen, out, tokenizer = begin("vqa", BlipForQuestionAnswering, 3)
    ids = tokenizer("what is under the tree?").input_ids
    t = torch.tensor([ids])
    out["ids"] = ints(ids)

    def generate(**how):
        return ints(model.generate(t, pixels, max_new_tokens=NEW, do_sample=False, **how)[0][1:].tolist())

    found = searches(generate)
    out |= found
    states = model.text_encoder(input_ids=t, encoder_hidden_states=seen, return_dict=True).last_hidden_state
    out["states"] = states[0]
    whole = torch.tensor([[len(VOCAB) - 2] + found["greedy"].tolist()])
    out["logits"] = model.text_decoder(input_ids=whole, encoder_hidden_states=states).logits[0]
    for k, v in found.items():
        print(k, " ".join(VOCAB[i] for i in v))
    save(folder, model, out)


def match():
    folder, model, pixels, _, out, tokenizer = begin("match", BlipForImageTextRetrieval, 4)
    ids = tokenizer("two dogs on a red car").input_ids
    t = torch.tensor([ids])
    out["ids"] = ints(ids)
    logits = model(t, pixels, use_itm_head=True).itm_score
    cosine = model(t, pixels, use_itm_head=False).itm_score
    out["scores"] = torch.cat([logits.softmax(-1)[0, 1:], cosine.reshape(1)])
    print("match, cosine", out["scores"].tolist())
    save(folder, model, out)


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        caption()
        vqa()
        match()
