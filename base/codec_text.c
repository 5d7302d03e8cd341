/* The texts within a PNG file: tEXt (Latin-1) and iTXt (UTF-8), not the compressed ones. */
#include <string.h>

#include "base/codec.h"
#include "base/utf8.h"

enum { SIGNATURE = 8, HEAD = 8, TAIL = 4 };

static uint32_t number(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void add_latin(struct buf *out, const uint8_t *s, size_t n)
{
    for (size_t i = 0; i < n && s[i] != 0; i++) {
        if (s[i] < 0x80) {
            buf_addc(out, (char)s[i]);
        } else {
            buf_addc(out, (char)(0xc0 | s[i] >> 6));
            buf_addc(out, (char)(0x80 | (s[i] & 0x3f)));
        }
    }
}

/* After the key: compressed, method, language 0, translated key 0, text. */
static void add_utf8(struct buf *out, const uint8_t *s, size_t n)
{
    if (n < 2 || s[0] != 0)
        return;
    const uint8_t *end = s + n, *at = s + 2;
    for (int i = 0; i < 2; i++) {
        const uint8_t *zero = memchr(at, 0, (size_t)(end - at));
        if (zero == NULL)
            return;
        at = zero + 1;
    }
    const char *text = (const char *)at;
    const size_t len = (size_t)(end - at);
    if (utf8_valid(text, len) && memchr(text, 0, len) == NULL)
        buf_add(out, text, len);
}

bool codec_text_find(const void *data, size_t n, const char *key, struct buf *out)
{
    const uint8_t *p = data;
    const size_t key_len = strlen(key) + 1; /* with its end */
    if (codec_sniff(data, n) != CODEC_PNG)
        return false;
    for (size_t at = SIGNATURE; n - at >= HEAD + TAIL;) {
        const size_t len = number(p + at);
        const uint8_t *type = p + at + 4, *body = p + at + HEAD;
        if (len > n - at - HEAD - TAIL || memcmp(type, "IEND", 4) == 0)
            return false;
        if (len > key_len && memcmp(body, key, key_len) == 0) {
            const size_t before = out->len;
            if (memcmp(type, "tEXt", 4) == 0)
                add_latin(out, body + key_len, len - key_len);
            else if (memcmp(type, "iTXt", 4) == 0)
                add_utf8(out, body + key_len, len - key_len);
            if (out->len > before)
                return true;
        }
        at += HEAD + len + TAIL;
    }
    return false;
}
