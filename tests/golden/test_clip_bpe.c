/* CLIP's tokenizer against transformers' CLIPTokenizer, on the texts and the small vocabulary that
 * tools/make_clip_fixtures.py made.  Another fixture can be given: CLIP_FIXTURES=DIR */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/text/clip_bpe.h"

enum { MAX_LINE = 1 << 16 };
static char line[MAX_LINE], text[MAX_LINE / 2];

static const char *fixtures(void)
{
    const char *dir = getenv("CLIP_FIXTURES");
    return dir ? dir : "tests/fixtures/clip_tokenizer";
}

static struct clip_bpe *opened(const char *pad)
{
    struct clip_bpe *t = NULL;
    struct err e;
    if (clip_bpe_open(&t, fixtures(), pad, &e) != 0)
        fail_msg("%s", e.msg);
    return t;
}

/* With work of its own. */
static int encode(const struct clip_bpe *t, const char *s, size_t len, struct token_list *out,
                  struct err *e)
{
    struct clip_bpe_work *w = clip_bpe_work_new(t);
    assert_non_null(w);
    int rc = clip_bpe_encode(t, w, s, len, out, e);
    clip_bpe_work_free(w);
    return rc;
}

static size_t unhex(const char *s)
{
    size_t n = strcspn(s, "\t\n") / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned b = 0;
        sscanf(s + 2 * i, "%2x", &b);
        text[i] = (char)b;
    }
    return n;
}

/* The ids behind p, up to a tab or the end of the line, against those of the text. */
static bool same(const struct clip_bpe *t, size_t len, const char *p)
{
    struct token_list l = {.max = MAX_LINE};
    struct err e;
    if (encode(t, text, len, &l, &e) != 0)
        fail_msg("%s", e.msg);
    size_t i = 0;
    bool ok = true;
    while (*p != '\t' && *p != '\n' && *p != 0) {
        char *end;
        long id = strtol(p, &end, 10);
        ok = ok && end != p && i < l.n && l.ids[i] == id;
        i++;
        p = end + (*end == ' ');
    }
    ok = ok && i == l.n;
    if (!ok) {
        print_error("got");
        for (size_t k = 0; k < l.n; k++)
            print_error(" %d", l.ids[k]);
        print_error("\n");
    }
    free(l.ids);
    return ok;
}

static void clip_bpe_gives_the_ids_of_transformers(void **state)
{
    (void)state;
    struct clip_bpe *pads_eos = opened(NULL), *pads_zero = opened("!");
    char path[512];
    snprintf(path, sizeof path, "%s/ids.tsv", fixtures());
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    int n = 0, wrong = 0;
    while (fgets(line, sizeof line, f)) {
        size_t len = unhex(line);
        const char *first = strchr(line, '\t') + 1, *second = strchr(first, '\t') + 1;
        n++;
        if (!same(pads_eos, len, first) || !same(pads_zero, len, second)) {
            print_error("text %d: %.*s\n", n, (int)len, text);
            wrong++;
        }
    }
    fclose(f);
    assert_true(n > 200);
    assert_int_equal(wrong, 0);
    clip_bpe_close(pads_eos);
    clip_bpe_close(pads_zero);
}

static void clip_bpe_knows_its_special_tokens(void **state)
{
    (void)state;
    struct clip_bpe *t = opened(NULL);
    const struct clip_bpe_info *i = clip_bpe_info(t);
    assert_int_equal(i->bos, i->n_vocab - 2);
    assert_int_equal(i->eos, i->n_vocab - 1);
    assert_int_equal(i->pad, i->eos);
    assert_int_equal(i->comma, 256 + ',' - '!');
    clip_bpe_close(t);
    t = opened("!");
    assert_int_equal(clip_bpe_info(t)->pad, 0);
    clip_bpe_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clip_bpe_gives_the_ids_of_transformers),
        cmocka_unit_test(clip_bpe_knows_its_special_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
