/* Base64 with padding; decoding accepts exactly what encoding produces. */
#include "base/base64.h"

#include <stdint.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

enum { GROUPS = 256 }; /* of 3 bytes or 4 characters, between two appends */

/* Takes back what was appended before an error. */
static int give_up(struct buf *out, size_t len, int rc)
{
    out->len = len;
    if (out->data != NULL)
        out->data[len] = '\0';
    return rc;
}

int base64_encode(struct buf *out, const void *p, size_t n)
{
    const unsigned char *in = p;
    size_t before = out->len, w = 0;
    char part[GROUPS * 4];
    for (size_t i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        uint32_t bits = (uint32_t)in[i] << 16;
        if (have > 1)
            bits |= (uint32_t)in[i + 1] << 8;
        if (have > 2)
            bits |= in[i + 2];
        part[w++] = alphabet[bits >> 18];
        part[w++] = alphabet[bits >> 12 & 63];
        part[w++] = have > 1 ? alphabet[bits >> 6 & 63] : '=';
        part[w++] = have > 2 ? alphabet[bits & 63] : '=';
        if (w == sizeof part || n - i <= 3) {
            if (buf_add(out, part, w) != 0)
                return give_up(out, before, ERR_TOOBIG);
            w = 0;
        }
    }
    return 0;
}

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* The bytes in the four characters at s (0 if they are wrong); padding only at the end of the text.
 * Bits that padding leaves unused must be zero. */
static size_t decode_group(const char *s, bool last, char out[3])
{
    size_t have = 3;
    if (last && s[3] == '=')
        have = s[2] == '=' ? 1 : 2;
    uint32_t bits = 0;
    for (size_t k = 0; k < 4; k++) {
        int v = k > have ? 0 : value_of(s[k]);
        if (v < 0)
            return 0;
        bits = bits << 6 | (uint32_t)v;
    }
    out[0] = (char)(bits >> 16);
    out[1] = (char)(bits >> 8);
    out[2] = (char)bits;
    bool clean = have == 3 || (bits & (have == 2 ? 0xFFu : 0xFFFFu)) == 0;
    return clean ? have : 0;
}

int base64_decode(struct buf *out, const char *s, size_t n)
{
    size_t before = out->len, w = 0;
    char part[GROUPS * 3];
    if (n % 4 != 0)
        return ERR_INVALID;
    for (size_t i = 0; i < n; i += 4) {
        bool last = n - i == 4;
        size_t got = decode_group(s + i, last, part + w);
        if (got == 0)
            return give_up(out, before, ERR_INVALID);
        w += got;
        if (w == sizeof part || last) {
            if (buf_add(out, part, w) != 0)
                return give_up(out, before, ERR_TOOBIG);
            w = 0;
        }
    }
    return 0;
}
