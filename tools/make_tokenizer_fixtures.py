#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizer_*: small vocabularies and what the reference tokenizers do with
difficult texts.

    python3 -m venv build/venv-tok
    build/venv-tok/bin/pip install gguf tokenizers sentencepiece
    build/venv-tok/bin/python tools/make_tokenizer_fixtures.py [--model FILE] [--random N] [--out DIR]

The references are Hugging Face's `tokenizers` (byte-level BPE) and Google's `sentencepiece`, so that
nothing here depends on the C code.  Everything is seeded; the vocabularies are trained on the texts
of this file.  --model adds SmolLM2's expected ids from its GGUF (default models/cache/...), --random
the number of random texts (the checked-in files have 60; some thousands find more).

Files:
    tokenizer_texts.tsv       one text a line: hex of its UTF-8
    tokenizer_pre_NAME.tsv    "line<TAB>end end ...": where the pre-tokeniser NAME cuts, in bytes
    tokenizer_VOCAB.gguf      vocabulary only
    tokenizer_VOCAB.tsv       "line<TAB>flags<TAB>id id ...", flags as in tokenizer.h
"""
import argparse
import io
import random
from pathlib import Path

import gguf
import sentencepiece
from tokenizers import Regex, Tokenizer, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t x", " \n", "\n ", " \n \n  ",
    "a", " a", "a ", "  a", "Hello, world!", "Hello World", " Hello", "HELLO WORLD", "HelloWorld",
    "I'm you're he's we'll they'd I've don't", "I'M YOU'RE HE'S WE'LL", "it's 'quoted' 'so'",
    "l'altro dell'anno c'è un po' d'acqua", "l\u2019universit\u00e0 perch\u00e9 citt\u00e0 pi\u00f9",
    "Perch\u00e9 no? Cos\u00ec \u00e8 la vita: \u00c8 gi\u00e0 met\u00e0 luned\u00ec.",
    "cafe\u0301 e\u0301le\u0300ve nai\u0308ve", "A\u030angstro\u0308m \u212b \u2126 \u212a",
    "\U0001f600 \U0001f602\U0001f923", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f44d\U0001f3fd\U0001f44b\U0001f3ff ok", "\U0001f1ee\U0001f1f9\U0001f1eb\U0001f1f7",
    "\u2764\ufe0f\u200d\U0001f525 #\ufe0f\u20e3", "x\U0001f680y \U0001f680 1\U0001f6802",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u4eca\u65e5\u306f\u3001\u5143\u6c17\u3067\u3059\u304b\uff1f",
    "\u30ab\u30bf\u30ab\u30ca \u3072\u3089\u304c\u306a", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "abc\u4e2d\u6587def 123\u5e74", "\u4e2d\u6587  \u6587\u5b57\u3002\u300c\u5f15\u7528\u300d",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0643\u064a\u0641\u061f",
    "\u0661\u0662\u0663\u0664 \u06f1\u06f2\u06f3", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0967\u0968\u0969\u0964",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0416\u0418\u0417\u041d\u042c", "\u0393\u03b5\u03b9\u03ac \u03a3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
    "Stra\u00dfe GRO\u1e9eE \ufb01sh \u01c5 \u1f88", "T\u00fcrk\u00e7e \u0130stanbul \u0131\u015f\u0131k",
    "def f(x):\n\tif x > 0:\n\t\treturn x ** 2\n    return -1\n",
    "int main(void)\n{\n    for (int i = 0; i < 10; i++)\n        printf(\"%d\\n\", i);\n}\n",
    "a\r\nb\rc\nd\r\n\r\n  e", "if (a&&b||!c) { x[i] += 1; } // end", "https://example.org/a?b=c&d=e#f",
    "<p class=\"x\">text</p>", "foo_bar->baz::qux", "#include <stdio.h>", "$100 \u20ac50 \u00a35 50% 1+1=2",
    "0 1 12 123 1234 12345 123456 1234567", " 1  22   333    4444", "3.14159 1,234,567.89 -42 1e-9",
    "2024-01-31T12:00:00Z", "x1y22z333 v2.0.1", "\u2460\u2461 \u00bd\u00be \u2167 x\u00b2y\u00b3", "\uff11\uff12\uff13 \uff21\uff22\uff43",
    "a          b", "          ", "          x", "tab\t\t\tspace   \t  mix", "trailing   ", "end\n\n\n",
    "   \n   \n   text", "\n\n\n\n    indented", "a\u00a0b\u00a0\u00a0c", "\u3000\u5168\u89d2\u3000\u7a7a\u767d", "a\u2028b\u2029c\u0085d",
    "\u180ex \u180e\u180e y", "zero\u200bwidth \u200c \ufeff bom", "a\u000bb\u000cc \u001c\u001d x", "nul\x00byte\x01\x02\x7f",
    "...!!!???", "!@#$%^&*()_+-=[]{}|;':\",./<>?`~", "\u201cquoted\u201d \u2018single\u2019 \u2014 dash \u2026", "\u00a1Hola! \u00bfQu\u00e9?",
    "--flag=value -x", "'s 't 're 've 'm 'll 'd 'S 'T 'LL", "'\u017f \u212aelvin I'\u017f", "camelCaseWordsAndABCAcronymsHTTPServer",
    "antidisestablishmentarianism" * 3, "a" * 200, "ab" * 100, "A" * 70 + "a" * 70, "=" * 80, "-" * 33 + "\n" + "=" * 33,
    "<|im_start|>user\nHello<|im_end|>\n", "a<|im_start|>b", "<|im_start|><|im_end|>", "<|im_start", "x<tool>y <tool> z<tool>",
    "<tool>", "<tool><tool>", " <tool>", "<|im_end|> <tool>", "<|endoftext|>", "<s>x</s>", "<unk>", "<0x41>",
    "\ufffd\uffff\U0010ffff", "\u0300 leading mark", "e\u0301\u0302\u0303\u0304", "\u1100\u1161\u11a8 \uac01", "\u2581 lower one eighth \u2581\u2581x",
    "wonderful wonderful\nwonderful", "the quick brown fox jumps over the lazy dog", "The Quick Brown Fox",
    "\u0e01\u0e33 \u0ec1\u0e81\u0e9a \u1780\u1798\u17d2\u1796\u17bb\u1787\u17b6", "\ua9b2\ua9a2 \U000104b0\U000104d8 \U0001d400\U0001d7ce", "\U00020000\U0002a6d6 \U0001f9ff",
]
CORPUS = """The quick brown fox jumps over the lazy dog. There was once a small village by the sea, and in
the village lived a woman who told stories to everyone that came. Every evening the children would
gather around her and listen until the moon was high. She told them of kings and thieves, of ships
that sailed beyond the edge of the map, and of the wonderful machine that could answer any question.
for (int i = 0; i < n; i++) { total += values[i]; } return total / n;
def mean(values):\n    return sum(values) / len(values)\n
Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, ch\u00e9 la diritta via era smarrita.
Perch\u00e9 la citt\u00e0 \u00e8 cos\u00ec bella? L'universit\u00e0 \u00e8 gi\u00e0 piena, pi\u00f9 di 1200 studenti nel 2024.
It's what they've said: we'll see, don't worry, you're right, I'm sure. 12 34 567 89012 345678
\u4f60\u597d\uff0c\u4e16\u754c\u3002\u4eca\u65e5\u306f\u5143\u6c17\u3067\u3059\u304b\u3002 \u041f\u0440\u0438\u0432\u0435\u0442, \u043a\u0430\u043a \u0434\u0435\u043b\u0430? \u0645\u0631\u062d\u0628\u0627 \u0628\u0643\u0645
"""
ALPHABET = list("aaeiostnrABEZ0129'' \t\n\r  .,!?-_/<>$+=~^|`(\"") + list(
    "\u00e9\u00c8\u00df\u0301\u0308\u0130\u017f\u4e2d\u6587\u9fff\u3042\u30ab\u3001\u3002\uff01\uff21\u2019\u2014\u2026\uac00\u11a8\u0628\u064e\u0661\u0928\u094d\u0e33\u0416\u0436\u01c5\u02b0\u00aa\u00b2\u2167\u20ac"
    "\u00a0\u3000\u2028\u0085\u200d\u180e\ufeff\ufe0f\U0001f600\U0001f3fd\U00020000\U0001d400\x00\x0b\x1c\u0903\u0489\u00ad\u2581") + [
    "'s", "'LL", "'re", "  ", "\r\n", "123", "the", "THE", " a"]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d"
    "\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"
    "\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4"
    "\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115"
    "\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184"
    "\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787"
    "\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943")
UP, LO = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
C = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def split(regex):
    return pre.Split(Regex(regex), "isolated")


def gpt4(number):
    return split(C + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + number
                 + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def gpt4o(suffix, number):
    return split(r"[^\r\n\p{L}\p{N}]?" + UP + "*" + LO + "+" + suffix + r"|[^\r\n\p{L}\p{N}]?" + UP
                 + "+" + LO + "*" + suffix + "|" + number
                 + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


BYTES = pre.ByteLevel(add_prefix_space=False, use_regex=False)
BYTES_GPT2 = pre.ByteLevel(add_prefix_space=False, use_regex=True)
PRE = {
    "default": [split(r"[\p{P}$+<=>\^~|]+"), split(GPT2), split(r"\p{N}+"),
                split("[0-9][0-9][0-9]"), BYTES],
    "gpt-2": [BYTES_GPT2],
    "smollm": [pre.Digits(individual_digits=True), BYTES_GPT2],
    "falcon": [pre.Punctuation("contiguous"), BYTES_GPT2, split("[0-9][0-9][0-9]")],
    "llama-bpe": [gpt4(r"\p{N}{1,3}"), BYTES],
    "qwen2": [gpt4(r"\p{N}"), BYTES],
    "qwen35": [split(C + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
                     r"|\s*[\r\n]+|\s+(?!\S)|\s+"), BYTES],
    "deepseek-llm": [split("[\r\n]"), split(r"\s?[" + CASED + "]+"),
                     split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
                     split(r"\s+$"), split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
                     pre.Digits(individual_digits=True), BYTES],
    "deepseek-coder": [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                       split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
                       pre.Digits(individual_digits=True), BYTES],
    "deepseek-v3": [split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                    split(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
                          r"""|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
                          r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""), BYTES],
    "tekken": [gpt4o("", r"\p{N}"), BYTES],
    "gpt-4o": [gpt4o(C + "?", r"\p{N}{1,3}"), BYTES],
    "bailingmoe": [split(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
                         r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"), BYTES],
    "seed-coder": [split(C + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+"
                         r"|\s*[\r\n]+|\s+(?!\S)|\s+"), BYTES],
    "bloom": [split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), BYTES],
    "viking": [split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"),
               pre.Digits(individual_digits=True), BYTES],
    "kimi-k2": [split(r"[\p{Han}]+"
                      r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
                      r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+" + C + "?"
                      r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
                      r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*" + C + "?"
                      r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), BYTES],
    "minicpm5": [split(r"\p{N}{1,3}"), gpt4(r"\p{N}+"), BYTES],
    "laguna": [split(r"[^\n]+|[\n]+"), gpt4(r"\p{N}"), BYTES],
}
# What is trained into a vocabulary file.
VOCABS = ["gpt-2", "llama-bpe", "qwen2", "deepseek-coder", "falcon", "gpt-4o"]
NFC = {"qwen2"}
WHOLE_WORDS = {"llama-bpe"}
SPECIAL, PLAIN = 2, 0


def make_texts(n_random):
    rng = random.Random(20240131)
    out = list(TEXTS)
    for _ in range(n_random):
        out.append("".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 40))))
    return out


def byte_ends(pieces, text):
    at, ends = [0], []
    for ch in text:
        at.append(at[-1] + len(ch.encode()))
    for _, (_, end) in pieces:
        ends.append(at[end])
    return ends


def write_pre(out, texts):
    for name, parts in PRE.items():
        seq = pre.Sequence(parts)
        with open(out / f"tokenizer_pre_{name}.tsv", "w") as f:
            for i, t in enumerate(texts):
                ends = byte_ends(seq.pre_tokenize_str(t), t)
                f.write(f"{i}\t{' '.join(map(str, ends))}\n")


def write_ids(path, rows):
    with open(path, "w") as f:
        for i, flags, ids in rows:
            f.write(f"{i}\t{flags}\t{' '.join(map(str, ids))}\n")


def bpe_rows(tok, texts):
    rows = []
    for i, t in enumerate(texts):
        tok.encode_special_tokens = True  # that is: as ordinary text
        plain = tok.encode(t, add_special_tokens=False).ids
        tok.encode_special_tokens = False
        special = tok.encode(t, add_special_tokens=False).ids
        rows.append((i, PLAIN, plain))
        if special != plain:
            rows.append((i, SPECIAL, special))
    return rows


def write_gguf(path, model, tokens, types, **more):
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model(model)
    w.add_token_list(tokens)
    w.add_token_types(types)
    if "pre" in more:
        w.add_tokenizer_pre(more["pre"])
        w.add_token_merges(more["merges"])
        w.add_add_bos_token(False)
    else:
        w.add_token_scores(more["scores"])
        w.add_add_space_prefix(True)
    w.add_bos_token_id(more["bos"])
    w.add_eos_token_id(more["eos"])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def write_bpe(out, name, texts):
    import json
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre.Sequence(PRE[name])
    trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False,
                                  initial_alphabet=sorted(pre.ByteLevel.alphabet()))
    tok.train_from_iterator([CORPUS] * 4 + TEXTS, trainer)
    model = json.loads(tok.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(m) for m in model["merges"]]
    for word in ["\u0120wonderful", "wonderful", "\u0120fox", "HTTP"]:  # no merges lead to these
        vocab.setdefault(word, len(vocab))
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=name in WHOLE_WORDS))
    tok.pre_tokenizer = pre.Sequence(PRE[name])
    if name in NFC:
        tok.normalizer = normalizers.NFC()
    tok.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    tok.add_tokens(["<tool>"])
    n = tok.get_vocab_size()
    tokens = [tok.id_to_token(i) for i in range(n)]
    types = [gguf.TokenType.NORMAL] * (n - 4) + [gguf.TokenType.CONTROL] * 3 + [
        gguf.TokenType.USER_DEFINED]
    write_gguf(out / f"tokenizer_{name}.gguf", "gpt2", tokens, types, pre=name,
               merges=[" ".join(m) for m in merges], bos=n - 4, eos=n - 3)
    write_ids(out / f"tokenizer_{name}.tsv", bpe_rows(tok, texts))


def write_spm(out, texts):
    buf = io.BytesIO()
    lines = [ln for t in [CORPUS] * 4 + TEXTS for ln in t.split("\n") if ln and "\0" not in ln]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=buf, model_type="bpe", vocab_size=900,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.985, user_defined_symbols=["<tool>"],
        control_symbols=["<|im_start|>", "<|im_end|>"], num_threads=1, minloglevel=2,
        allow_whitespace_only_pieces=True, hard_vocab_limit=False)
    sp = sentencepiece.SentencePieceProcessor(model_proto=buf.getvalue())
    n = sp.get_piece_size()
    types = []
    for i in range(n):
        t = gguf.TokenType.NORMAL
        if sp.is_unknown(i):
            t = gguf.TokenType.UNKNOWN
        elif sp.is_control(i):
            t = gguf.TokenType.CONTROL
        elif sp.is_byte(i):
            t = gguf.TokenType.BYTE
        elif sp.is_unused(i):
            t = gguf.TokenType.UNUSED
        elif sp.id_to_piece(i) == "<tool>":
            t = gguf.TokenType.USER_DEFINED
        types.append(t)
    write_gguf(out / "tokenizer_spm.gguf", "llama", [sp.id_to_piece(i) for i in range(n)], types,
               scores=[sp.get_score(i) for i in range(n)], bos=sp.bos_id(), eos=sp.eos_id())
    write_ids(out / "tokenizer_spm.tsv", [(i, PLAIN, sp.encode(t)) for i, t in enumerate(texts)])


def write_smollm(out, path, texts):
    fields = gguf.GGUFReader(path).fields
    get = lambda k: fields["tokenizer.ggml." + k].contents()
    tokens, merges, types = get("tokens"), get("merges"), get("token_type")
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)},
                               merges=[tuple(m.split(" ")) for m in merges]))
    tok.pre_tokenizer = pre.Sequence(PRE["smollm"])
    tok.add_special_tokens([t for t, k in zip(tokens, types) if k == gguf.TokenType.CONTROL])
    write_ids(out / "tokenizer_smollm2.tsv", bpe_rows(tok, texts))


def main():
    root = Path(__file__).resolve().parent.parent
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--model", default=root / "models/cache/SmolLM2-135M-Instruct.Q4_1.gguf")
    p.add_argument("--random", type=int, default=60)
    p.add_argument("--out", type=Path, default=root / "tests/fixtures")
    a = p.parse_args()
    texts = make_texts(a.random)
    with open(a.out / "tokenizer_texts.tsv", "w") as f:
        f.writelines(t.encode().hex() + "\n" for t in texts)
    write_pre(a.out, texts)
    for name in VOCABS:
        write_bpe(a.out, name, texts)
    write_spm(a.out, texts)
    if Path(a.model).exists():
        write_smollm(a.out, a.model, texts)
    else:
        print(f"{a.model} is not there: tokenizer_smollm2.tsv stays as it was")


if __name__ == "__main__":
    main()
