/* Fuzzes tokenizer_open, _encode and _decode.  The input is a vocabulary and a text:
 *     byte 0      bit 0: SentencePiece, bits 1-7: which pre-tokeniser
 *     byte 1      how many tokens follow; each: type byte, score byte, length byte, its bytes
 *     then        how many merges follow; each: length byte, its bytes
 *     then        four bytes: bos, eos, eot, flags of tokenizer.h
 *     the rest    the text
 * or, when it begins with "GGUF", a whole file that is opened and used on a fixed text.
 * What came out is decoded and must not be longer than the vocabulary allows.
 * The seeds of the second kind are tests/fixtures/tokenizer_*.gguf. */
#include <stddef.h>
#include <stdint.h>

#include "engine/text/pretok.h"
#include "tests/unit/tokenizer_gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *p, *end;
};

static uint8_t next(struct input *in)
{
    return in->p < in->end ? *in->p++ : 0;
}

static struct tg w;

static void put_str(struct input *in)
{
    size_t n = next(in);
    if (n > (size_t)(in->end - in->p))
        n = (size_t)(in->end - in->p);
    tg_strn(&w, (const char *)in->p, n);
    in->p += n;
}

/* Builds the GGUF from the input and leaves the text in *in. */
static int build(struct input *in)
{
    uint8_t head = next(in);
    bool spm = head & 1;
    size_t n_names = 0;
    while (pretok_name_at(n_names))
        n_names++;
    tg_begin(&w);
    tg_str(&w, "model", spm ? "llama" : "gpt2");
    if (!spm)
        tg_str(&w, "pre", pretok_name_at((head >> 1) % n_names));
    int32_t types[256];
    float scores[256];
    size_t n = next(in);
    tg_arr(&w, "tokens", GT_STR, n);
    for (size_t i = 0; i < n; i++) {
        types[i] = next(in) % 8;
        scores[i] = (float)(int8_t)next(in);
        put_str(in);
    }
    tg_ints(&w, "token_type", types, n);
    tg_floats(&w, "scores", scores, n);
    size_t n_merges = next(in);
    tg_arr(&w, "merges", GT_STR, n_merges);
    for (size_t i = 0; i < n_merges; i++)
        put_str(in);
    tg_int(&w, "bos_token_id", next(in));
    tg_int(&w, "eos_token_id", next(in));
    tg_int(&w, "eot_token_id", next(in));
    return next(in);
}

static void use(const struct tokenizer *t, const char *text, size_t len, int flags)
{
    int32_t *ids;
    size_t n, n_back;
    if (tokenizer_encode(t, text, len, flags, &ids, &n, 4 * len + 16, NULL))
        return;
    char *back;
    if (n > 4 * len + 16 || tokenizer_decode(t, ids, n, flags & 4, &back, &n_back, NULL))
        __builtin_trap();
    for (size_t i = 0; i < n; i++) {
        size_t k;
        (void)tokenizer_piece(t, ids[i], true, &k);
        (void)tokenizer_is_end(t, ids[i]);
    }
    free(back);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char fixed[] =
        "Hi  <|im_start|> l'\xC3\xA8 12345\n\t\xFF\xE4\xB8\xAD\xE2\x96\x81 aaaa";
    struct tokenizer *t;
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        struct gguf *g;
        if (tg_open_bytes(&g, data, size, NULL))
            return 0;
        int rc = tokenizer_open(&t, g, NULL);
        gguf_close(g);
        if (rc)
            return 0;
        use(t, fixed, sizeof fixed - 1, 3);
    } else {
        struct input in = {data, data + size};
        int flags = build(&in);
        if (tg_open(&w, &t, NULL))
            return 0;
        use(t, (const char *)in.p, (size_t)(in.end - in.p), flags);
    }
    tokenizer_close(t);
    return 0;
}
