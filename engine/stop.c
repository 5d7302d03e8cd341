/* Stop strings; stop.h has the design. */
#include "engine/stop.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

int stop_set_init(struct stop_set *set, const char *const *strings, int n, struct err *e)
{
    memset(set, 0, sizeof *set);
    if (n < 0 || n > JOB_STOP_MAX)
        return err_set(e, ERR_INVALID, "at most %d stop strings, got %d", JOB_STOP_MAX, n);
    for (int i = 0; i < n; i++) {
        size_t len = strlen(strings[i]);
        int *fail = len > 0 && len < INT32_MAX ? mem_try(len, sizeof *fail) : NULL;
        if (!fail) {
            stop_set_fini(set);
            if (len == 0)
                return err_set(e, ERR_INVALID, "a stop string must not be empty");
            return err_set(e, ERR_NOMEM, "no memory for the stop strings");
        }
        for (int k = 0, j = 1; j < (int)len; j++) {
            while (k > 0 && strings[i][k] != strings[i][j])
                k = fail[k - 1];
            if (strings[i][k] == strings[i][j])
                k++;
            fail[j] = k;
        }
        set->strings[i] = strings[i];
        set->lens[i] = (int)len;
        set->fails[i] = fail;
        set->n = i + 1;
    }
    return 0;
}

void stop_set_fini(struct stop_set *set)
{
    for (int i = 0; i < set->n; i++)
        free(set->fails[i]);
    memset(set, 0, sizeof *set);
}

void stop_init(struct stop *s, const struct stop_set *set)
{
    memset(s, 0, sizeof *s);
    s->set = set;
    size_t longest = 0;
    for (int i = 0; i < set->n; i++) {
        if ((size_t)set->lens[i] > longest)
            longest = (size_t)set->lens[i];
    }
    buf_init(&s->held, longest + 1);
}

void stop_fini(struct stop *s)
{
    buf_free(&s->held);
}

/* Advances every automaton by one byte.  The longest string that is complete now, or -1; *held_len is
 * the longest tail that may become one. */
static int advance(struct stop *s, char c, int *held_len)
{
    const struct stop_set *set = s->set;
    int hit = -1;
    *held_len = 0;
    for (int i = 0; i < set->n; i++) {
        int k = s->states[i];
        while (k > 0 && set->strings[i][k] != c)
            k = set->fails[i][k - 1];
        if (set->strings[i][k] == c)
            k++;
        s->states[i] = k;
        if (k > *held_len)
            *held_len = k;
        if (k == set->lens[i] && (hit < 0 || k > set->lens[hit]))
            hit = i;
    }
    return hit;
}

int stop_push(struct stop *s, const char *text, size_t len, bool include, struct buf *out)
{
    if (s->set->n == 0) {
        buf_add(out, text, len);
        return -1;
    }
    size_t n_old = s->held.len; /* the stream from here: held, then text */
    int held_len = (int)n_old, hit = -1;
    size_t end = 0;
    while (end < len && hit < 0)
        hit = advance(s, text[end++], &held_len);
    size_t total = n_old + end;
    size_t keep = hit < 0 ? (size_t)held_len : include ? 0 : (size_t)s->set->lens[hit];
    size_t give = total - keep;
    /* What goes out is the front of held + text. */
    size_t from_old = give < n_old ? give : n_old;
    buf_add(out, s->held.data, from_old);
    buf_add(out, text, give - from_old);
    buf_drop(&s->held, from_old);
    if (hit >= 0)
        buf_clear(&s->held);
    else
        buf_add(&s->held, text + (give - from_old), end - (give - from_old));
    return hit;
}

void stop_flush(struct stop *s, struct buf *out)
{
    buf_add(out, s->held.data, s->held.len);
    buf_clear(&s->held);
}
