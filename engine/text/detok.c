/* Holding back is utf8_whole's: what it leaves can still become a character with the next token's
 * bytes.  Replacing broken bytes per push gives the same as replacing them in the whole text,
 * because a sequence is never cut before it is complete or broken. */
#include "engine/text/detok.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "engine/text/tokenizer.h"

void detok_init(struct detok *d, const struct tokenizer *t, bool at_start, bool special)
{
    *d = (struct detok){.t = t, .special = special, .strip = at_start && tokenizer_strips_space(t)};
}

/* Appends bytes with the broken ones replaced. */
static int add_repaired(struct buf *out, const char *s, size_t n, struct err *e)
{
    if (n == 0)
        return 0;
    size_t len = utf8_repair(NULL, s, n);
    int rc = 0;
    if (len == n && utf8_valid(s, n)) {
        rc = buf_add(out, s, n);
    } else {
        char *repaired = mem_try(len, 1);
        if (!repaired)
            return err_set(e, ERR_NOMEM, "no memory for %zu bytes of text", len);
        (void)utf8_repair(repaired, s, n);
        rc = buf_add(out, repaired, len);
        free(repaired);
    }
    return rc ? err_set(e, ERR_TOOBIG, "the text is longer than %zu bytes", out->max) : 0;
}

int detok_push(struct detok *d, int32_t id, struct buf *out, struct err *e)
{
    if (id < 0 || id >= tokenizer_info(d->t)->n_vocab)
        return err_set(e, ERR_INVALID, "token %d is outside the vocabulary", (int)id);
    size_t len;
    const char *piece = tokenizer_piece(d->t, id, d->special, &len);
    bool control = tokenizer_is_control(d->t, id);
    if (d->strip && !control && len > 0 && piece[0] == ' ') {
        piece++;
        len--;
    }

    char small[64], *joined = small;
    size_t n = d->n_pending + len;
    if (n > sizeof small) {
        joined = mem_try(n, 1);
        if (!joined)
            return err_set(e, ERR_NOMEM, "no memory for a token of %zu bytes", len);
    }
    memcpy(joined, d->pending, d->n_pending);
    if (len)
        memcpy(joined + d->n_pending, piece, len);
    size_t whole = utf8_whole(joined, n);
    if (n - whole > sizeof d->pending)
        whole = n; /* cannot be: an unfinished character has at most 3 bytes */
    int rc = add_repaired(out, joined, whole, e);
    if (!rc) {
        d->n_pending = n - whole;
        memcpy(d->pending, joined + whole, d->n_pending);
        d->strip = control && tokenizer_strips_space(d->t);
    }
    if (joined != small)
        free(joined);
    return rc;
}

int detok_flush(struct detok *d, struct buf *out, struct err *e)
{
    int rc = add_repaired(out, d->pending, d->n_pending, e);
    if (!rc)
        d->n_pending = 0;
    return rc;
}
