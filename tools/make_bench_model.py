#!/usr/bin/env python3
"""Makes a LLaMA of random weights for measuring speed: any weight type in a shape of SHAPES.

    build/venv/bin/python tools/make_bench_model.py --shape 1b --type q4_k model.gguf

q4_k is the mix that people call Q4_K_M: attn_v, ffn_down and output are q6_k.
"""
import argparse
import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import make_tiny_models as tiny  # noqa: E402

Q = gguf.GGMLQuantizationType
SHAPES = {  # n_embd, n_layers, n_heads, n_kv_heads, n_ff, n_vocab
    "tiny": (1024, 8, 16, 4, 2816, 4096),
    "1b": (2048, 22, 32, 4, 5632, 32000),
    "3b": (3072, 28, 24, 8, 8192, 32000),
}
TYPES = {"q4_0": Q.Q4_0, "q4_1": Q.Q4_1, "q5_0": Q.Q5_0, "q5_1": Q.Q5_1, "q8_0": Q.Q8_0, "q4_k": Q.Q4_K,
         "q5_k": Q.Q5_K, "q6_k": Q.Q6_K, "f16": Q.F16}
SCALES_AT = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0]}


def matrix(rng, n_out, n_in, kind):
    """Random codes; the scales of all blocks are one value that keeps the variance of what goes through."""
    std = n_in ** -0.5
    if kind == Q.F16:
        return rng.standard_normal((n_out, n_in), dtype=np.float32).astype(np.float16) * np.float16(std)
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    scales = SCALES_AT.get(kind) or tiny.RANDOM_BLOCKS[kind][1]
    raw = np.frombuffer(rng.bytes(n_out * n_in // per_block * size), np.uint8).copy()
    raw = raw.reshape(n_out, n_in // per_block, size)
    sample = raw[:16].copy()
    one = np.float16(1).tobytes()
    for at in scales:
        sample[..., at:at + 2] = np.frombuffer(one, np.uint8)
    values = gguf.quants.dequantize(sample.reshape(16, -1), kind)
    d = np.float16(std / values.std())
    for n, at in enumerate(scales):
        # the second scale is that of the minimum: it moves the mean of the block to zero
        m = d if n == 0 else np.float16(-d * 7.5) if kind == Q.Q4_1 else d
        raw[..., at:at + 2] = np.frombuffer(m.tobytes(), np.uint8)
    return raw.reshape(n_out, -1)


def add_tokenizer(w, n_vocab):
    """The tiny tokenizer, and tokens nobody writes up to n_vocab."""
    tiny.add_tokenizer(w, 320)
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
        values = w.kv_data[0].pop(key).value
        more = range(n_vocab - 320)
        values = list(values) + ([f"<unused_{i}>" for i in more] if key.endswith("tokens")
                                 else [int(gguf.TokenType.UNUSED) for _ in more])
        w.add_array(key, [int(v) if not isinstance(v, str) else v for v in values])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--type", choices=TYPES, default="q4_0")
    parser.add_argument("file")
    a = parser.parse_args()
    n_embd, n_layers, n_heads, n_kv_heads, n_ff, n_vocab = SHAPES[a.shape]
    kind, rng = TYPES[a.type], np.random.default_rng(1)
    upper = Q.Q6_K if kind == Q.Q4_K else kind
    kv_dim = n_embd // n_heads * n_kv_heads
    w = gguf.GGUFWriter(a.file, "llama")
    w.add_name(f"random {a.shape} {a.type}")
    w.add_context_length(16384)
    w.add_embedding_length(n_embd)
    w.add_block_count(n_layers)
    w.add_feed_forward_length(n_ff)
    w.add_head_count(n_heads)
    w.add_head_count_kv(n_kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_vocab_size(n_vocab)
    add_tokenizer(w, n_vocab)

    def add(name, n_out, n_in, t=kind):
        w.add_tensor(name + ".weight", matrix(rng, n_out, n_in, t), raw_dtype=t)

    def norm(name):
        w.add_tensor(name + ".weight", np.ones(n_embd, np.float32))

    add("token_embd", n_vocab, n_embd)
    for i in range(n_layers):
        b = f"blk.{i}."
        norm(b + "attn_norm")
        norm(b + "ffn_norm")
        add(b + "attn_q", n_embd, n_embd)
        add(b + "attn_k", kv_dim, n_embd)
        add(b + "attn_v", kv_dim, n_embd, upper)
        add(b + "attn_output", n_embd, n_embd)
        add(b + "ffn_gate", n_ff, n_embd)
        add(b + "ffn_up", n_ff, n_embd)
        add(b + "ffn_down", n_embd, n_ff, upper)
    norm("output_norm")
    add("output", n_vocab, n_embd, upper)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
