"""Trains emoji-blip, a small captioner in BLIP's layout (BlipForConditionalGeneration), on the world.

    python tools/train/train_blip.py --data world.npz --out work/blip.pt [--steps 6000]
    python tools/train/train_blip.py ... --export models/emoji-blip     # write what there is; no training

With --drawn (made by draw_world.py) a third of the looks are at emoji as emoji-sd draws them, softer than the font's.

Every look is a new rendering: scale, shift, background, noise and brightness at random.  A picture's caption
is its English name; after the prompt "a picture of" too, and after "un'immagine di" its Italian one (the
prompts themselves are not learnt).  The export holds averaged weights in fp16, vocab.txt and preprocessor.
"""
import os

import torch
import torch.nn.functional as F
from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration
import numpy as np

import world
from common import Run, arguments, mixed, write_half, write_json

MEAN, STD = (.48145466, .4578275, .40821073), (.26862954, .26130258, .27577711)
SIZE, LENGTH = 128, 20
PROMPTS = {"": "en", "a picture of": "en", "un'immagine di": "it"}


def vocabulary(caps, size):
    """WordPiece, lower case, accents kept: [PAD] [UNK] [CLS] [SEP] [MASK], pieces, [DEC] [ENC] as in BLIP."""
    tok = BertWordPieceTokenizer(lowercase=True, strip_accents=False)
    texts = [c[lang] for c in caps for lang in ("en", "it")] + [p for p in PROMPTS if p] * 50
    tok.train_from_iterator(texts, vocab_size=size - 2, min_frequency=1, show_progress=False)
    vocab = tok.get_vocab()
    return sorted(vocab, key=vocab.get) + ["[DEC]", "[ENC]"]


def tokenizer(vocab, path):
    with open(path, "w", encoding="utf-8") as f:
        f.write("".join(t + "\n" for t in vocab))
    return BertTokenizerFast(vocab=path, do_lower_case=True, strip_accents=False)


def build(n_vocab, width=192):
    common = dict(hidden_size=width, intermediate_size=4 * width, initializer_range=.02)
    return BlipForConditionalGeneration(BlipConfig(
        vision_config=dict(common, num_hidden_layers=4, num_attention_heads=6, image_size=SIZE, patch_size=16,
                           projection_dim=width),
        text_config=dict(common, vocab_size=n_vocab, encoder_hidden_size=width, projection_dim=width,
                         num_hidden_layers=2, num_attention_heads=6, max_position_embeddings=64,
                         bos_token_id=n_vocab - 2, eos_token_id=3, sep_token_id=3, pad_token_id=0,
                         hidden_dropout_prob=.1, attention_probs_dropout_prob=0.),
        projection_dim=width, image_text_hidden_size=width))


def rendered(images, alpha, rng):
    """The pictures [n,128,128,3] with their alpha [n,128,128] at random scale and place on random backgrounds: float [n,3,128,128], normalised."""
    n = len(images)
    r = torch.from_numpy(rng.random((n, 12), dtype=np.float32))
    ink = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 1          # less white: 0 is white
    cover = torch.from_numpy(alpha).unsqueeze(1).float() / 255
    scale = .55 + .6 * r[:, 0]                                                          # of the picture's size
    theta = torch.zeros(n, 2, 3)
    turn = (r[:, 1] - .5) * .25 * (r[:, 11] < .5)
    theta[:, 0, 0], theta[:, 0, 1] = turn.cos() / scale, turn.sin() / scale
    theta[:, 1, 0], theta[:, 1, 1] = -turn.sin() / scale, turn.cos() / scale
    theta[:, :, 2] = (2 * r[:, 2:4] - 1) * (1.1 - scale).abs().unsqueeze(1) / scale.unsqueeze(1)
    grid = F.affine_grid(theta, (n, 4, SIZE, SIZE), align_corners=False)
    out = F.grid_sample(torch.cat([ink, cover], 1), grid, align_corners=False)
    ground = r[:, 4:7].reshape(n, 3, 1, 1)
    ramp = torch.linspace(-1, 1, SIZE).reshape(1, 1, 1, SIZE) * (r[:, 7] - .5).reshape(n, 1, 1, 1) * .6
    ground = (ground + ramp).clamp(0, 1)
    ground = torch.where((r[:, 8] < .45).reshape(n, 1, 1, 1), torch.ones(()), ground)   # often plain white
    x = 1 + out[:, :3] + (1 - out[:, 3:]) * (ground - 1)
    x = (x - .5) * (.8 + .4 * r[:, 9]).reshape(n, 1, 1, 1) + .5
    x = (x + torch.randn_like(x) * (.06 * r[:, 10] ** 2).reshape(n, 1, 1, 1)).clamp(0, 1)
    return (x - torch.tensor(MEAN).reshape(1, 3, 1, 1)) / torch.tensor(STD).reshape(1, 3, 1, 1)


def looked_at(images, drawn, pick, rng):
    """[n,128,128,3]: the pictures to be rendered, some of them as emoji-sd has drawn them (drawn [k,N,128,128,3] or None)."""
    if drawn is None:
        return images[pick]
    soft = rng.random(len(pick)) < 1 / 3
    which = rng.integers(len(drawn), size=len(pick))
    return np.where(soft[:, None, None, None], drawn[which, pick], images[pick])


def targets(tok, caps, pick, rng, bos):
    """(ids [n,LENGTH], labels: -100 at the prompt and the padding)."""
    ids, labels = torch.zeros(len(pick), LENGTH, dtype=torch.long), torch.full((len(pick), LENGTH), -100)
    for row, i in enumerate(pick):
        prompt = rng.choice(list(PROMPTS), p=(.5, .15, .35))
        head = [bos] + tok(prompt, add_special_tokens=False).input_ids
        body = tok(caps[i][PROMPTS[prompt]], add_special_tokens=False).input_ids + [tok.sep_token_id]
        whole = (head + body)[:LENGTH]
        ids[row, :len(whole)] = torch.tensor(whole)
        labels[row, len(head):len(whole)] = torch.tensor(whole[len(head):])
    return ids, labels


def export(folder, model, vocab):
    """A BlipForConditionalGeneration directory of transformers."""
    model.config.architectures, model.config.dtype = ["BlipForConditionalGeneration"], torch.float16
    model.config.save_pretrained(folder)
    tied = ("position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    write_half(folder, "model.safetensors", model, tied)
    tokenizer(vocab, os.path.join(folder, "vocab.txt"))
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]",
               "mask_token": "[MASK]", "bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]}
    write_json(os.path.join(folder, "special_tokens_map.json"), special)
    write_json(os.path.join(folder, "tokenizer_config.json"),
               {**special, "do_lower_case": True, "strip_accents": False, "model_max_length": 64,
                "tokenizer_class": "BertTokenizer"})
    write_json(os.path.join(folder, "preprocessor_config.json"),
               {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor", "do_convert_rgb": True,
                "do_resize": True, "size": {"height": SIZE, "width": SIZE}, "resample": 3, "do_rescale": True,
                "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD})


def set_up(a, caps):
    """(the run with everything loaded, the model, the vocabulary, the tokenizer)."""
    if os.path.exists(a.out):
        vocab = torch.load(a.out, weights_only=False)["extra"]["vocab"]
    else:
        vocab = vocabulary(caps, a.vocab)
    model = build(len(vocab))
    run = Run(a.out, {"blip": model}, a, a.lr, ema=.998, weight_decay=.05)
    run.extra["vocab"] = vocab
    return run, model, vocab, tokenizer(vocab, a.out + ".vocab")


def main():
    a = arguments(__doc__, out="blip.pt", steps=6000, lr=1e-3, batch=32, vocab=1600, export="", drawn="")
    torch.manual_seed(a.seed)
    z = np.load(a.data)
    images, caps, n_world, _ = world.load(a.data)
    alpha, drawn = z["alpha"], np.load(a.drawn)["drawn"] if a.drawn else None
    run, model, vocab, tok = set_up(a, caps)
    if a.export:
        run.use_average()
        export(a.export, model, vocab)
        return
    print(f"{sum(q.numel() for q in model.parameters())} parameters, {len(vocab)} pieces", flush=True)
    bos, order = len(vocab) - 2, run.extra.setdefault("order", [])
    model.train()
    while run.running(a.steps):
        if len(order) < a.batch:
            every = np.arange(len(caps))
            order += list(run.rng.permutation(every[(every < n_world) | (run.rng.random(len(every)) < .5)]))
            run.extra["looks"] = run.extra.get("looks", 0) + 1
        pick, order[:] = order[:a.batch], order[a.batch:]
        ids, labels = targets(tok, caps, pick, run.rng, bos)
        x = rendered(looked_at(images, drawn, pick, run.rng), alpha[pick], run.rng)
        with mixed():
            seen = model.vision_model(pixel_values=x).last_hidden_state
            logits = model.text_decoder(input_ids=ids, encoder_hidden_states=seen).logits
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100,
                               label_smoothing=.05)
        run.update(loss, a.steps)
    print(f"step {run.step}, {run.extra['looks']} looks at each picture, {run.seconds / 3600:.2f} CPU hours")


if __name__ == "__main__":
    main()
