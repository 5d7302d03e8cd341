/* The UTF-8 functions must agree with each other on any bytes. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void check_decoding(const char *s, size_t n, bool valid)
{
    bool clean = true;
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        char back[4];
        int len = utf8_decode(s + i, n - i, &cp);
        check(len >= 1 && (size_t)len <= n - i);
        if (len == 1 && cp == 0xFFFD)
            clean = false;
        else
            check(utf8_encode(back, cp) == len && memcmp(back, s + i, (size_t)len) == 0);
        i += (size_t)len;
    }
    check(clean == valid);
}

static void check_repair(const char *s, size_t n, bool valid)
{
    size_t len = utf8_repair(NULL, s, n);
    char *out = malloc(len + 1);
    check(out != NULL && utf8_repair(out, s, n) == len && utf8_valid(out, len));
    check(valid == (len == n && memcmp(out, s, n) == 0));
    free(out);
}

/* Sending text in two pieces, cut where utf8_whole says, repairs to the same as in one. */
static void check_whole(const char *s, size_t n)
{
    size_t whole = utf8_whole(s, n);
    check(whole <= n && n - whole <= 3);
    check(utf8_repair(NULL, s, whole) + utf8_repair(NULL, s + whole, n - whole) ==
          utf8_repair(NULL, s, n));
    check(utf8_repair(NULL, s + whole, n - whole) == (whole < n ? 3 : 0));
}

static void check_nfc(const char *s, size_t n, bool valid)
{
    size_t once_len = 0, twice_len = 0;
    char *once = utf8_nfc(s, n, &once_len);
    check((once != NULL) == valid);
    if (once == NULL)
        return;
    check(utf8_valid(once, once_len));
    char *twice = utf8_nfc(once, once_len, &twice_len);
    check(twice != NULL && twice_len == once_len && memcmp(once, twice, once_len) == 0);
    free(once);
    free(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *s = (const char *)data;
    bool valid = utf8_valid(s, size);
    check_decoding(s, size, valid);
    check_repair(s, size, valid);
    check_whole(s, size);
    check_nfc(s, size, valid);
    return 0;
}
