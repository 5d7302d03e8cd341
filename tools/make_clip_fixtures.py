#!/usr/bin/env python3
"""Makes tests/fixtures/clip_tokenizer/: a small CLIP vocabulary and what transformers does with texts.

    python3 tools/make_clip_fixtures.py [--random N] [--out DIR]

Needs tokenizers and transformers.  The vocabulary is laid out as CLIP's own: the 256 bytes, the same
at the end of a word, merges trained on the texts below, <|startoftext|> and <|endoftext|>.  All is
seeded.  --random adds random texts (the checked-in files have 150; some thousands find more).

    vocab.json merges.txt    as diffusers directories have them
    ids.tsv                  "hex of a text<TAB>ids padding with eos<TAB>ids padding with !", without
                             <|startoftext|> and <|endoftext|> around
"""
import argparse
import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import CLIPTokenizer

PROMPTS = [
    "a photograph of an astronaut riding a horse", "an oil painting of a small red cat, highly detailed",
    "portrait of a woman, soft light, 85mm, f/1.8, bokeh", "(masterpiece:1.2), best quality, 8k uhd",
    "a castle on a hill at sunset, matte painting, trending on artstation", "low quality, blurry, bad hands",
    "cyberpunk city street at night in the rain, neon lights, reflections", "a bowl of fruit on a table",
    "an isometric render of a tiny house, octane, volumetric light", "watercolor of mountains and a lake",
    "photo of a dog's face, it's smiling, they're happy, we've seen it, I'll go, you'd say, I'm here",
    "the quick brown fox jumps over the lazy dog", "sketch of a robot holding a flower in its hand",
]
TEXTS = PROMPTS + [
    "", " ", "\n\t ", "a", "A", "!", "!!", "wow!cool", "! !", "hello!", "x , y", ",,,", "...", "a.b,c;d",
    "HELLO World", "\u0130stanbul \u0131\u011f", "\u00c9TUDE \u00e9tude e\u0301tude E\u0301TUDE", "\u1e9e stra\u00dfe STRASSE",
    "\u03a3\u0391\u03a3 \u03c3\u03b1\u03c2 \u039f\u0394\u039f\u03a3", "\u0410\u0411\u0412 \u0430\u0431\u0432", "\u4f60\u597d\uff0c\u4e16\u754c", "\u3053\u3093\u306b\u3061\u306f \u30ab\u30bf\u30ab\u30ca",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e44\u0e17\u0e22", "\U0001f600\U0001f602 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u2764\ufe0f\U0001f525 1\ufe0f\u20e3", "\U0001f1ee\U0001f1f9", "x\U0001f680y", "\ufb01ne \uff21\uff22\uff23 \u2460\u2461 \u00b2\u00b3 \u00bd \u2167",
    "12345 3.14 1,000 2nd v2.0", "it's IT'S it`s it\u2019s 's 'S ''s '", "don't DON'T can't'll'd", "'re're'REx",
    "<|startoftext|>", "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|>!!", "!!<|endoftext|>!", "<|ENDOFTEXT|>x",
    "<|endoftext|", "<|startoftext|><|endoftext|>", "</w>", "cat</w> dog</w>", "a\u00a0b\u2003c\u3000d\u200be\ufefff",
    "\u180e\u2028\u2029\u0085x", "tab\tnew\nline\r\nend", "   lots   of   space   ", "a" * 300, "ab" * 200, "\u00e4" * 120,
    "!" * 100, "word " * 90, "supercalifragilisticexpialidocious" * 4, "https://example.com/a?b=c&d=%20#e",
    "foo_bar-baz+qux=1", "{}[]()<>|\\/~`@#$%^&*", "C++ C# .NET", "a\x00b\x01c\x7f", "\ufffd\ufffd", "\u0345\u0345 \u0308a",
    "Z\u0351\u036b\u0343\u0363\u034a\u0361a\u0329l\u0323g\u0322o", "\u01c5 \u01c4 \u1fbc \u1f88", "\u2126 \u212a \u212b \u00b5 \u03bc", "\ua64a \ua64b \u1c90 \u10a0 \u13a0 \u10d0",
]
ALPHABET = ("abcdeABCDE 0123 .,!?'\"-()<|>" "\u00e9\u00c9\u0130\u00df\u03a3\u0416\u4e2d\u3042\uac00\u0301\u200d\u00a0\U0001f600\u0e01\u05d0")
PIECES = ["<|endoftext|>", "'s", "'LL", " the ", "cat", "  ", "!", "painting", "\U0001f525"]


def byte_alphabet():
    """The 256 characters of bytes in the order of CLIP's vocabulary: printable ones first."""
    first = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in first]
    return [chr(b) for b in first] + [chr(256 + i) for i in range(len(rest))]


def train():
    """A vocabulary and its merges, by the reference's own trainer."""
    tok = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tok.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tok.pre_tokenizer = pre.Sequence([
        pre.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed",
                  invert=True), pre.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(vocab_size=1200, min_frequency=2, end_of_word_suffix="</w>",
                                  show_progress=False)
    tok.train_from_iterator(TEXTS * 2 + PROMPTS * 3, trainer)
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" "))
              for m in json.loads(tok.to_str())["model"]["merges"]]
    alphabet = byte_alphabet()
    tokens = alphabet + [c + "</w>" for c in alphabet]
    kept = []
    for a, b in merges[:478]:
        kept.append((a, b))
        if a + b not in tokens:
            tokens.append(a + b)
    return tokens + ["<|startoftext|>", "<|endoftext|>"], kept


def random_text(rng):
    return "".join(rng.choice(PIECES) if rng.random() < 0.15 else rng.choice(ALPHABET)
                   for _ in range(rng.randrange(1, 40)))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--random", type=int, default=150)
    p.add_argument("--out", type=Path, default=Path("tests/fixtures/clip_tokenizer"))
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokens, merges = train()
    vocab = {t: i for i, t in enumerate(tokens)}
    (args.out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (args.out / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    rng = random.Random(7)
    texts = TEXTS + [random_text(rng) for _ in range(args.random)]
    kinds = [CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad)
             for pad in ("<|endoftext|>", "!")]
    with open(args.out / "ids.tsv", "w") as f:
        for text in texts:
            ids = [t(text, add_special_tokens=False)["input_ids"] for t in kinds]
            f.write("\t".join([text.encode().hex()] + [" ".join(map(str, i)) for i in ids]) + "\n")
    print(f"{len(tokens)} tokens, {len(merges)} merges, {len(texts)} texts")


if __name__ == "__main__":
    main()
