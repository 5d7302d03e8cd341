/* UTF-8 as in RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum status { WHOLE, BROKEN, UNFINISHED };

/* Looks at the character at s (n > 0).  *len: its bytes, or when it is BROKEN or UNFINISHED those
 * of its longest correct beginning (at least 1), which is what one U+FFFD replaces. */
static enum status look(const char *s, size_t n, int *len, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)s;
    unsigned char c = u[0];
    *len = 1;
    *cp = c;
    if (c < 0x80)
        return WHOLE;
    if (c < 0xC2 || c > 0xF4)
        return BROKEN;
    int need = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    /* Only the second byte's range depends on the first (RFC 3629, section 4). */
    unsigned char lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    *cp = c & (0x7Fu >> need);
    for (; *len < need; ++*len) {
        if ((size_t)*len == n)
            return UNFINISHED;
        c = u[*len];
        if (c < lo || c > hi)
            return BROKEN;
        *cp = *cp << 6 | (c & 0x3F);
        lo = 0x80;
        hi = 0xBF;
    }
    return WHOLE;
}

bool utf8_valid(const char *s, size_t n)
{
    int len;
    uint32_t cp;
    for (size_t i = 0; i < n; i += (size_t)len) {
        if (look(s + i, n - i, &len, &cp) != WHOLE)
            return false;
    }
    return true;
}

int utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    int len;
    if (look(s, n, &len, cp) == WHOLE)
        return len;
    *cp = 0xFFFD;
    return 1;
}

int utf8_broken(const char *s, size_t n)
{
    int len;
    uint32_t cp;
    look(s, n, &len, &cp);
    return len;
}

int utf8_encode(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF))
        cp = 0xFFFD;
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

size_t utf8_whole(const char *s, size_t n)
{
    /* The last byte that is not a continuation decides; it always starts a character anew. */
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if ((c & 0xC0) == 0x80)
            continue;
        int len;
        uint32_t cp;
        bool open = look(s + n - back, back, &len, &cp) == UNFINISHED;
        return open ? n - back : n;
    }
    return n;
}

size_t utf8_repair(char *out, const char *s, size_t n)
{
    static const char replacement[3] = {'\xEF', '\xBF', '\xBD'};
    size_t w = 0;
    int len;
    for (size_t i = 0; i < n; i += (size_t)len) {
        uint32_t cp;
        bool whole = look(s + i, n - i, &len, &cp) == WHOLE;
        const char *from = whole ? s + i : replacement;
        size_t add = whole ? (size_t)len : sizeof replacement;
        if (out != NULL)
            memcpy(out + w, from, add);
        w += add;
    }
    return w;
}

static char *map(const char *s, size_t n, size_t *out_len, utf8proc_option_t form)
{
    if (n > SIZE_MAX / 16 || !utf8_valid(s, n))
        return NULL;
    utf8proc_uint8_t *out = NULL;
    const utf8proc_uint8_t *in = (const utf8proc_uint8_t *)(n > 0 ? s : "");
    utf8proc_ssize_t len = utf8proc_map(in, (utf8proc_ssize_t)n, &out, UTF8PROC_STABLE | form);
    if (len < 0)
        return NULL;
    *out_len = (size_t)len;
    return (char *)out;
}

char *utf8_nfc(const char *s, size_t n, size_t *out_len)
{
    return map(s, n, out_len, UTF8PROC_COMPOSE);
}

char *utf8_nfd(const char *s, size_t n, size_t *out_len)
{
    return map(s, n, out_len, UTF8PROC_DECOMPOSE);
}

/* ---- one code point ---- */

bool utf8_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32) || cp == 0x85 || cp == 0xA0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

/* Beyond U+10FFFF nothing is assigned; utf8proc takes signed numbers. */
static utf8proc_category_t category(uint32_t cp)
{
    return cp > 0x10FFFF ? UTF8PROC_CATEGORY_CN : utf8proc_category((utf8proc_int32_t)cp);
}

bool utf8_is_cased(uint32_t cp)
{
    utf8proc_category_t k = category(cp);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

bool utf8_is_letter(uint32_t cp)
{
    utf8proc_category_t k = category(cp);
    return utf8_is_cased(cp) || k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_LO;
}

bool utf8_is_digit(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_ND;
}

bool utf8_is_printable(uint32_t cp)
{
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return cp == ' ';
    default:
        return true;
    }
}

bool utf8_is_mark(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_MN;
}

bool utf8_is_punct(uint32_t cp)
{
    utf8proc_category_t k = category(cp);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool utf8_is_control(uint32_t cp)
{
    utf8proc_category_t k = category(cp);
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO;
}

uint32_t utf8_upper(uint32_t cp)
{
    return cp > 0x10FFFF ? cp : (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp);
}

uint32_t utf8_lower(uint32_t cp)
{
    return cp > 0x10FFFF ? cp : (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

uint32_t utf8_title(uint32_t cp)
{
    return cp > 0x10FFFF ? cp : (uint32_t)utf8proc_totitle((utf8proc_int32_t)cp);
}

bool utf8_hex(const char *s, int n, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < n; i++) {
        const char c = s[i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0)
            return false;
        *out = *out << 4 | (uint32_t)digit;
    }
    return true;
}
