#!/usr/bin/env python3
"""Makes tests/fixtures/wordpiece/: a small BERT vocabulary and what transformers does with texts.

    python3 tools/make_wordpiece_fixtures.py [--random N] [--out DIR]

Needs tokenizers and transformers.  The texts are those of make_clip_fixtures.py and some more; all is
seeded.  Characters that are younger than Unicode 8 are left out: the reference does not know them.

    vocab.txt    as BERT's directories have it
    ids.tsv      "hex of a text<TAB>ids<TAB>ids of the cased tokenizer<TAB>hex of the first ids decoded",
                 without [CLS] and [SEP] around
"""
import argparse
import random
import unicodedata
from pathlib import Path

from make_clip_fixtures import PROMPTS, TEXTS, random_text
from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizer

MORE = [
    "a [MASK] of [SEP] and [CLS][PAD]", "[UNK] [unk] [sep]", "don't won't I'm we've they're it's n't",
    "naïve café Ünïcödé", "a red apple, please. what? no! yes", "##ing play ##ed", "x" * 101,
    "x" * 100, "unaffable embeddings", "10,000.5%", "中文字符 mixed 日本", "tab\there\u000bvt\u0085nel\u2028ls",
    "$100 + 5 = 105 ~ ^ ` |", "e\u0301\u0323 \u0130I\u0307", "\u00ad\u200b\ufeffzero", "do not", "' s ' t",
]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--random", type=int, default=100)
    p.add_argument("--out", type=Path, default=Path("tests/fixtures/wordpiece"))
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tok = BertWordPieceTokenizer(lowercase=True)
    tok.train_from_iterator(TEXTS + MORE + PROMPTS * 3, vocab_size=900, min_frequency=1,
                            limit_alphabet=400, show_progress=False)
    vocab = tok.get_vocab()
    names = sorted(vocab, key=vocab.get)
    (args.out / "vocab.txt").write_text("".join(t + "\n" for t in names))
    rng = random.Random(8)
    texts = TEXTS + MORE + [random_text(rng) for _ in range(args.random)]
    texts = [t for t in texts if not any(unicodedata.category(c) == "Cn" for c in t)]
    lower, cased = BertTokenizer(vocab=vocab), BertTokenizer(vocab=vocab, do_lower_case=False)
    with open(args.out / "ids.tsv", "w") as f:
        for text in texts:
            a, b = (t(text, add_special_tokens=False)["input_ids"] for t in (lower, cased))
            back = lower.backend_tokenizer.decode(a, skip_special_tokens=True)
            f.write("\t".join([text.encode().hex(), " ".join(map(str, a)), " ".join(map(str, b)),
                               back.encode().hex()]) + "\n")
    print(f"{len(names)} tokens, {len(texts)} texts")


if __name__ == "__main__":
    main()
