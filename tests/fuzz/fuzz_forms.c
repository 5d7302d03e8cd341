/* A letter for the kind of form, the form (a regular expression, a pattern or a GBNF grammar), a zero byte, and
 * a text that is followed through it. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/gbnf.h"
#include "api/regex.h"
#include "base/utf8.h"
#include "tests/grammar_follow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ended(const char *text, size_t n)
{
    if (!utf8_valid(text, n))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct arena arena;
    if (size < 2)
        return 0;
    char *form = malloc(size);
    memcpy(form, data + 1, size - 1);
    form[size - 1] = '\0';
    const size_t n = strlen(form);
    arena_init(&arena, 16 << 20);
    struct grammar *g = utf8_valid(form, n) ? grammar_new(&arena) : NULL;
    struct regex x = {.g = g,
                      .arena = &arena,
                      .param = "x",
                      .flags = data[0] == 'p' ? REGEX_QUOTED | REGEX_SEARCH : 0,
                      .most = data[0] == 'p' ? 9 : 0};
    if (g != NULL && (data[0] == 'g' ? gbnf_compile(&x.sym, g, &arena, form, "x", &e)
                                     : regex_compile(&x, form, &e)) == 0) {
        grammar_start(g, x.sym);
        struct grammar_run *r = NULL;
        if (!grammar_failed(g) && !grammar_empty(g) && n + 2 < size &&
            grammar_run_open(&r, g, &e) == 0)
            grammar_follow(r, (const char *)data + n + 2, size - n - 2, check_ended);
    }
    arena_free(&arena);
    free(form);
    return 0;
}
