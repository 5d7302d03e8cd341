#!/usr/bin/env python3
"""Makes a tiny random BERT, and what transformers makes of some texts with it and with all-MiniLM-L6-v2.

    /path/to/refenv/bin/python tools/make_bert_golden.py MINILM_DIRECTORY

tests/fixtures/bert_tiny/: a directory as sentence-transformers writes it (fp16), and golden.json: the texts and
their vectors, mean over the tokens and of length 1 (tests/api/test_embeddings.py reads it).
"""
import json
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch  # noqa: E402
from transformers import AutoModel, BertConfig, BertModel, BertTokenizerFast  # noqa: E402

OUT = pathlib.Path("tests/fixtures/bert_tiny")
WORDS = "a the red fox jumps over snow volpe rossa una hello it is # ##s ##ed ##ing . , ! ? e i u n r s t".split()
TEXTS = ["a red fox jumps over the snow.", "una volpe rossa", "Hello!", "the fox " * 30, "È una VOLPE, it jumped?",
         "unknown words 123", "is it a fox?"]


def vectors(tokenizer, model, texts):
    out = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        v = states.mean(0)
        out.append([round(x, 8) for x in (v / v.norm()).tolist()])
    return out


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (OUT / "vocab.txt").write_text("\n".join(vocab) + "\n")
    torch.manual_seed(7)
    config = BertConfig(vocab_size=len(vocab), hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                        intermediate_size=40, max_position_embeddings=70, initializer_range=0.3)
    model = BertModel(config).eval().half()
    model.save_pretrained(OUT)
    (OUT / "1_Pooling").mkdir(exist_ok=True)
    (OUT / "1_Pooling/config.json").write_text(json.dumps(
        {"word_embedding_dimension": 24, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}))
    (OUT / "modules.json").write_text(json.dumps(
        [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{t}"}
         for i, (p, t) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])]))
    (OUT / "tokenizer_config.json").write_text(json.dumps(
        {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}))
    tokenizer = BertTokenizerFast(vocab=str(OUT / "vocab.txt"), do_lower_case=True)
    minilm = sys.argv[1]
    (OUT / "golden.json").write_text(json.dumps({
        "texts": TEXTS,
        "tiny": vectors(tokenizer, model.float(), TEXTS),
        "minilm": vectors(BertTokenizerFast.from_pretrained(minilm), AutoModel.from_pretrained(minilm).eval(), TEXTS),
    }))


if __name__ == "__main__":
    main()
