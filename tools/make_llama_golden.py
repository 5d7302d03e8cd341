#!/usr/bin/env python3
"""Writes what LLaMA GGUF files should answer, computed by transformers in f32 on the CPU.

    /path/to/refenv/bin/python tools/make_llama_golden.py tiny                    (all variants)
    /path/to/refenv/bin/python tools/make_llama_golden.py real models/cache/SmolLM2-*.gguf
    /path/to/refenv/bin/python tools/make_llama_golden.py greedy tests/fixtures/tiny-llama.gguf

tests/fixtures/llama_<variant>.bin: u32 n_tokens, u32 n_vocab, u32 n_wanted, then i32 ids[n_tokens],
i32 wanted[n_wanted] (positions), f32 logits[n_wanted, n_vocab].
tests/fixtures/llama_real.bin: u32 n_tokens, u32 k, u32 tokens of one sequence, i32 ids[n_tokens], then
u16 top_ids[n_tokens, k] and f16 top_logprobs[n_tokens, k], by falling probability.

The weights are the file's, unpacked to f32, and the rows of Q and K taken back from the order that
GGUF's llama files have for interleaved rope.
"""

import os
import struct
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import gguf  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

FIXTURES = Path("tests/fixtures")
N_TOKENS = 96  # of the tiny goldens
TOP = 64
REAL_SEQUENCE = 512  # tokens one sequence of the real golden has

sys.path.insert(0, str(Path(__file__).parent))
from make_tiny_models import LLAMA3  # noqa: E402


class File:
    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.tensors = {t.name: t for t in self.reader.tensors}

    def get(self, key, default=None):
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    def weight(self, name):
        t = self.tensors[name]
        values = gguf.quants.dequantize(t.data, t.tensor_type)
        return torch.from_numpy(np.array(values, dtype=np.float32))


def unpermute(w, heads):
    """Rows (2i, 2i+1) of each head back to (i, i + n/2).   w [heads * head_dim, ...]"""
    n = w.shape[0] // heads
    return w.reshape(heads, n // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def rope_parameters(f):
    rope = {"rope_type": "default", "rope_theta": f.get("llama.rope.freq_base", 10000.0)}
    kind = f.get("llama.rope.scaling.type")
    if kind in ("linear", "yarn"):
        rope |= {"rope_type": kind, "factor": f.get("llama.rope.scaling.factor")}
    if kind == "yarn":
        original = f.get("llama.rope.scaling.original_context_length")
        rope["original_max_position_embeddings"] = original
    if "rope_freqs.weight" in f.tensors:
        rope |= {k: LLAMA3[k] for k in ("factor", "low_freq_factor", "high_freq_factor")}
        rope |= {"rope_type": "llama3", "original_max_position_embeddings": LLAMA3["original"]}
    return rope


def config(f):
    heads = f.get("llama.attention.head_count")
    n_embd = f.get("llama.embedding_length")
    window = f.get("llama.attention.sliding_window", 0)
    common = {
        "vocab_size": len(f.get("tokenizer.ggml.tokens")),
        "hidden_size": n_embd,
        "intermediate_size": f.get("llama.feed_forward_length"),
        "num_hidden_layers": f.get("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": f.get("llama.attention.head_count_kv", heads),
        "head_dim": f.get("llama.attention.key_length", n_embd // heads),
        "max_position_embeddings": f.get("llama.context_length"),
        "rms_norm_eps": f.get("llama.attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in f.tensors,
        "rope_parameters": rope_parameters(f),
        "attn_implementation": "eager",
    }
    if window:
        return MistralForCausalLM, MistralConfig(**common, sliding_window=window)
    bias = "blk.0.attn_q.bias" in f.tensors
    return LlamaForCausalLM, LlamaConfig(**common, attention_bias=bias)


LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def load(path):
    f = File(path)
    family, c = config(f)
    state = {
        "model.embed_tokens.weight": f.weight("token_embd.weight"),
        "model.norm.weight": f.weight("output_norm.weight"),
    }
    tied = "output.weight" not in f.tensors
    state["lm_head.weight"] = f.weight("token_embd.weight" if tied else "output.weight")
    for name in f.tensors:
        if not name.startswith("blk."):
            continue
        _, layer, part, kind = name.split(".")
        w = f.weight(name)
        if part in ("attn_q", "attn_k"):
            w = unpermute(w, c.num_attention_heads if part == "attn_q" else c.num_key_value_heads)
        state[f"model.layers.{layer}.{LAYER[part]}.{kind}"] = w
    with torch.device("meta"):
        model = family(c)
    model = model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(c)
    model.load_state_dict(state, strict=True)
    return f, model.float().eval()


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0].float()


def tiny():
    for path in sorted(FIXTURES.glob("llama_*.gguf")):
        _, model = load(path)
        n_vocab = model.config.vocab_size
        ids = np.random.default_rng(7).integers(3, n_vocab, N_TOKENS).tolist()
        wanted = [0, 1, 2, 5, 15, 16, 17, 31, 32, 33, 47, 63, 64, 79, 94, 95]
        out = logits_of(model, ids)[wanted].numpy()
        with open(path.with_suffix(".bin"), "wb") as o:
            o.write(struct.pack("<3I", N_TOKENS, n_vocab, len(wanted)))
            o.write(np.array(ids, "<i4").tobytes() + np.array(wanted, "<i4").tobytes())
            o.write(out.astype("<f4").tobytes())
        print(f"{path.stem:24} logits std {out.std():.3f} distinct tops {len(set(out.argmax(1)))}")


def tokenizer(f):
    """The file's byte-level BPE by the tokenizers library, with SmolLM2's pre-tokeniser."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = f.get("tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ", 1)) for m in f.get("tokenizer.ggml.merges")]
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    t.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    t.decoder = decoders.ByteLevel()
    return t


def real(path):
    f, model = load(path)
    text = (FIXTURES / "llama_real.txt").read_text()
    ids = tokenizer(f).encode(text).ids
    ids = ids[: len(ids) // REAL_SEQUENCE * REAL_SEQUENCE]
    tops, probs = [], []
    loss = 0.0
    for at in range(0, len(ids), REAL_SEQUENCE):
        part = ids[at : at + REAL_SEQUENCE]
        logp = logits_of(model, part).log_softmax(-1)
        loss -= logp[:-1].gather(1, torch.tensor(part[1:])[:, None]).sum().item()
        top = logp.topk(TOP)
        tops.append(top.indices.numpy().astype("<u2"))
        probs.append(top.values.numpy().astype("<f2"))
    with open(FIXTURES / "llama_real.bin", "wb") as o:
        o.write(struct.pack("<3I", len(ids), TOP, REAL_SEQUENCE))
        o.write(np.array(ids, "<i4").tobytes())
        o.write(np.concatenate(tops).tobytes() + np.concatenate(probs).tobytes())
    n = len(ids) - len(ids) // REAL_SEQUENCE
    print(f"{len(ids)} tokens, perplexity {np.exp(loss / n):.3f}")


def greedy(path):
    f, model = load(path)
    letters = {v: k for k, v in enumerate(f.get("tokenizer.ggml.tokens"))}
    for prompt in ("Hello", "thequick", "1234"):
        ids = [letters[c] for c in prompt]
        for _ in range(60):
            ids.append(int(logits_of(model, ids)[-1].argmax()))
        text = "".join(f.get("tokenizer.ggml.tokens")[i] for i in ids)
        print(len(set(ids)), text)


if __name__ == "__main__":
    torch.set_num_threads(2)
    if sys.argv[1] == "tiny":
        tiny()
    elif sys.argv[1] == "real":
        real(sys.argv[2])
    else:
        greedy(sys.argv[2])
