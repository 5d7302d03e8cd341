#!/usr/bin/env python3
"""Makes the tiny random LLaMA files of tests/fixtures (GGUF, fixed seeds, always the same bytes).

    python3 -m venv build/venv-tools && build/venv-tools/bin/pip install gguf numpy
    build/venv-tools/bin/python tools/make_tiny_models.py [DIR]        (DIR: tests/fixtures)

tiny-llama.gguf serves the API tests: a working byte-level BPE of 320 tokens, a chat template, and
random weights whose greedy text varies.  endless-llama.gguf is smaller still but has room for 262144
positions: a job that fills it takes minutes on any machine, so a test may count on finding it at work.
llama_<variant>.gguf each show one property of the family (see VARIANTS); tools/make_llama_golden.py
computes what they should answer.  The smallest model that opens goes to DIR/../fuzz/corpus/fuzz_gguf,
where the fuzzer starts from.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q

CONTEXT = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are tiny<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = (
    "the quick brown fox jumps over the lazy dog and then the other dog sees that there are more "
    "of them in the garden where the old man reads his letters to the children who listen to him "
    "in the evening when it is not raining on the roof and on the stones of the road to the sea"
)


# ---- the tokenizer: 3 control tokens, 256 bytes, then merges learnt from TEXT ----


def byte_letters():
    """The printable letter that stands for each byte in byte-level BPE (as GPT-2 has it)."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in keep}
    for n, b in enumerate(b for b in range(256) if b not in letters):
        letters[b] = chr(256 + n)
    return [letters[b] for b in range(256)]


def learn_merges(n):
    space = byte_letters()[ord(" ")]
    words = [list((space if i else "") + w) for i, w in enumerate(TEXT.split())]
    merges = []
    while len(merges) < n:
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda p: (counts[p], p))
        merges.append(best)
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def add_tokenizer(w, n_vocab):
    merges = learn_merges(n_vocab - 256 - len(CONTROL))
    tokens = CONTROL + byte_letters() + ["".join(m) for m in merges]
    assert len(set(tokens)) == n_vocab
    kinds = [gguf.TokenType.CONTROL] * len(CONTROL)
    kinds += [gguf.TokenType.NORMAL] * (n_vocab - len(CONTROL))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges([" ".join(m) for m in merges])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_pad_token_id(2)
    w.add_add_bos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)


# ---- weights ----

# Block formats that the gguf package cannot pack: bytes a block, and where its f16 scales stand.
RANDOM_BLOCKS = {
    Q.Q2_K: (84, [80, 82]),
    Q.Q3_K: (110, [108]),
    Q.Q4_K: (144, [0, 2]),
    Q.Q5_K: (176, [0, 2]),
    Q.Q6_K: (210, [208]),
    Q.IQ4_NL: (18, [0]),
    Q.MXFP4: (17, []),
}


def random_blocks(rng, shape, qtype, std):
    """Random bytes are valid blocks; only their scales need sense: they are set for the wanted std."""
    size, scales = RANDOM_BLOCKS[qtype]
    per_block = gguf.GGML_QUANT_SIZES[qtype][0]
    raw = rng.integers(0, 256, (shape[0], shape[1] // per_block, size), dtype=np.uint8)
    if qtype == Q.MXFP4:
        raw[..., 0] = 127 + round(np.log2(std / 2.7)) + rng.integers(-1, 2, raw.shape[:2])
        return raw.reshape(shape[0], -1)
    one = np.full(raw.shape[:2], 1, np.float16)
    for at in scales:
        raw[..., at : at + 2] = one[..., None].view(np.uint8)
    values = gguf.quants.dequantize(raw.reshape(shape[0], -1), qtype)
    for n, at in enumerate(scales):
        d = std / values.std() * rng.uniform(0.5, 1.5, raw.shape[:2]) * (1 if n == 0 else 2)
        raw[..., at : at + 2] = d.astype(np.float16)[..., None].view(np.uint8)
    return raw.reshape(shape[0], -1)


def add_matrix(w, rng, name, shape, qtype, gain=1.0):
    """[n_out, n_in] normal values that keep the variance of what goes through."""
    std = gain / np.sqrt(shape[1])
    if qtype in RANDOM_BLOCKS:
        w.add_tensor(name, random_blocks(rng, shape, qtype, std), raw_dtype=qtype)
        return
    values = rng.standard_normal(shape, dtype=np.float32) * np.float32(std)
    if name == "output.weight":
        values[: len(CONTROL)] *= 0.1  # greedy text does not end by chance,
        values[len(CONTROL) + 127 : len(CONTROL) + 256] *= 0.5  # and is mostly
        values[len(CONTROL) : len(CONTROL) + 32] *= 0.5  # printable ASCII
    w.add_tensor(name, gguf.quants.quantize(values, qtype), raw_dtype=qtype)


def norm(rng, n):
    return (1 + 0.1 * rng.standard_normal(n)).astype(np.float32)


def add_layer(w, rng, c, i):
    d, q_dim, kv_dim = c["d"], c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"]
    t = c["types"]
    p = f"blk.{i}."
    w.add_tensor(p + "attn_norm.weight", norm(rng, d))
    add_matrix(w, rng, p + "attn_q.weight", (q_dim, d), t["q"], 1.5)
    add_matrix(w, rng, p + "attn_k.weight", (kv_dim, d), t["k"], 1.5)
    add_matrix(w, rng, p + "attn_v.weight", (kv_dim, d), t["v"])
    add_matrix(w, rng, p + "attn_output.weight", (d, q_dim), t["o"], 2.0)
    if c["bias"]:
        for name, n in (("q", q_dim), ("k", kv_dim), ("v", kv_dim), ("output", d)):
            b = (0.3 * rng.standard_normal(n)).astype(np.float32)
            w.add_tensor(p + f"attn_{name}.bias", b)
    w.add_tensor(p + "ffn_norm.weight", norm(rng, d))
    add_matrix(w, rng, p + "ffn_gate.weight", (c["ff"], d), t["gate"], 1.5)
    add_matrix(w, rng, p + "ffn_up.weight", (c["ff"], d), t["up"], 1.5)
    add_matrix(w, rng, p + "ffn_down.weight", (d, c["ff"]), t["down"], 2.0)


def add_rope(w, c):
    rope = c["rope"]
    w.add_rope_freq_base(c["base"])
    w.add_rope_dimension_count(c["head_dim"])
    if rope == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(4.0)
    elif rope == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(4.0)
        w.add_rope_scaling_orig_ctx_len(CONTEXT // 4)
    elif rope == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(c))


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original": 64}


def llama3_factors(c):
    """What the GGUF converter stores for rope_type llama3: divisors of the frequencies."""
    n = c["head_dim"]
    freqs = 1.0 / (c["base"] ** (np.arange(0, n, 2, dtype=np.float64) / n))
    low = LLAMA3["original"] / LLAMA3["low_freq_factor"]
    high = LLAMA3["original"] / LLAMA3["high_freq_factor"]
    out = []
    for wavelen in 2 * np.pi / freqs:
        if wavelen < high:
            out.append(1.0)
        elif wavelen > low:
            out.append(LLAMA3["factor"])
        else:
            smooth = (LLAMA3["original"] / wavelen - LLAMA3["low_freq_factor"]) / (
                LLAMA3["high_freq_factor"] - LLAMA3["low_freq_factor"]
            )
            out.append(1.0 / ((1 - smooth) / LLAMA3["factor"] + smooth))
    return np.array(out, np.float32)


# ---- files ----

MATRICES = ["embd", "q", "k", "v", "o", "gate", "up", "down", "output"]
BASE = {
    "layers": 2, "d": 64, "ff": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 288,
    "tied": True, "bias": False, "rope": "none", "base": 10000.0, "window": 0, "type": Q.F16,
    "context": CONTEXT,
}  # fmt: skip
WIDE = {"layers": 1, "d": 256, "ff": 256, "kv_heads": 1, "head_dim": 32}
K_A = {
    "embd": Q.Q6_K, "q": Q.Q2_K, "k": Q.Q3_K, "v": Q.Q4_K, "o": Q.IQ4_NL, "gate": Q.Q5_K,
    "up": Q.Q4_K, "down": Q.Q6_K,
}  # fmt: skip
K_B = {
    "embd": Q.Q3_K, "q": Q.Q4_K, "k": Q.Q6_K, "v": Q.Q5_K, "o": Q.MXFP4, "gate": Q.Q2_K,
    "up": Q.Q3_K, "down": Q.Q4_K,
}  # fmt: skip
VARIANTS = {
    "f32": {"type": Q.F32},
    "f16": {"type": Q.F16},
    "bf16": {"type": Q.BF16},
    "q4_0": {"type": Q.Q4_0},
    "q4_1": {"type": Q.Q4_1},
    "q5_0": {"type": Q.Q5_0},
    "q5_1": {"type": Q.Q5_1},
    "q8_0": {"type": Q.Q8_0},
    "mha_untied_bias": {"kv_heads": 4, "tied": False, "bias": True},
    "linear": {"rope": "linear"},
    "llama3": {"rope": "llama3"},
    "yarn": {"rope": "yarn"},
    "window": {"window": 24},
    "k_a": {**WIDE, "types": K_A},
    "k_b": {**WIDE, "types": K_B},
}
MICRO = {
    "layers": 1, "d": 8, "ff": 8, "heads": 1, "kv_heads": 1, "head_dim": 8, "vocab": 259,
    "rope": "yarn",
}  # fmt: skip
TINY = {"vocab": 320, "ff": 128, "tied": False, "type": Q.Q8_0}
ENDLESS = {"type": Q.Q4_0, "context": 1 << 18}


def config(changes):
    c = {**BASE, **changes}
    c["types"] = {**{m: c["type"] for m in MATRICES}, **c.get("types", {})}
    return c


def make(path, name, changes, seed):
    c = config(changes)
    rng = np.random.default_rng(seed)
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(name)
    w.add_context_length(c["context"])
    w.add_embedding_length(c["d"])
    w.add_block_count(c["layers"])
    w.add_feed_forward_length(c["ff"])
    w.add_head_count(c["heads"])
    w.add_head_count_kv(c["kv_heads"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(c["vocab"])
    if c["window"]:
        w.add_sliding_window(c["window"])
    add_rope(w, c)
    add_tokenizer(w, c["vocab"])
    # A tied embedding is scaled so that its logits are not flat.
    embd_gain = 3.0 if c["tied"] else np.sqrt(c["d"])
    add_matrix(w, rng, "token_embd.weight", (c["vocab"], c["d"]), c["types"]["embd"], embd_gain)
    for i in range(c["layers"]):
        add_layer(w, rng, c, i)
    w.add_tensor("output_norm.weight", norm(rng, c["d"]))
    if not c["tied"]:
        add_matrix(w, rng, "output.weight", (c["vocab"], c["d"]), c["types"]["output"], 4.0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(f"{path.name:28} {path.stat().st_size:8}")


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures")
    out.mkdir(parents=True, exist_ok=True)
    make(out / "tiny-llama.gguf", "tiny-llama", TINY, 1)
    make(out / "endless-llama.gguf", "endless-llama", ENDLESS, 3)
    seeds = out.parent / "fuzz/corpus/fuzz_gguf"
    seeds.mkdir(parents=True, exist_ok=True)
    make(seeds / "micro.gguf", "micro", MICRO, 2)
    for seed, (name, changes) in enumerate(VARIANTS.items(), 100):
        make(out / f"llama_{name}.gguf", f"llama_{name}", changes, seed)


if __name__ == "__main__":
    main()
