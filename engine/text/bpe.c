/* The merge loop: the symbols are a doubly linked list in an array, the candidate pairs a binary
 * heap ordered by (rank, position).  A pair that was overtaken by another merge stays in the heap
 * and is recognised when it comes up, because its two ids are no longer there; so a merge costs
 * two pushes and the whole is O(n log n) for a word of any length. */
#include "engine/text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "engine/gguf.h"

struct bpe_slot {
    int32_t left, right; /* left -1: free */
    uint32_t rank;
    int32_t id;
};

struct bpe_pair {
    uint64_t key; /* rank << 32 | position of the left symbol */
    int32_t left_id, right_id;
};

static size_t slot_index(const struct bpe_merges *m, int32_t left, int32_t right)
{
    /* The finaliser of splitmix64: every input bit reaches every output bit. */
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ m->seed;
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
    return (size_t)(h ^ (h >> 31)) & (m->cap - 1);
}

static int slots_alloc(struct bpe_merges *m, size_t cap)
{
    m->slots = mem_try(cap, sizeof *m->slots);
    if (!m->slots)
        return ERR_NOMEM;
    for (size_t i = 0; i < cap; i++)
        m->slots[i].left = -1;
    m->cap = cap;
    m->n = 0;
    return 0;
}

int bpe_merges_init(struct bpe_merges *m, size_t n_expected)
{
    *m = (struct bpe_merges){.seed = rng_seed_random()};
    size_t cap = 16;
    while (cap / 2 < n_expected) {
        if (cap > SIZE_MAX / 4)
            return ERR_NOMEM;
        cap *= 2;
    }
    return slots_alloc(m, cap);
}

void bpe_merges_free(struct bpe_merges *m)
{
    free(m->slots);
    *m = (struct bpe_merges){0};
}

static int merges_grow(struct bpe_merges *m)
{
    struct bpe_merges old = *m;
    int rc = slots_alloc(m, old.cap * 2);
    if (rc) {
        *m = old;
        return rc;
    }
    for (size_t i = 0; i < old.cap; i++) {
        const struct bpe_slot *s = &old.slots[i];
        if (s->left >= 0)
            (void)bpe_merges_put(m, s->left, s->right, s->rank, s->id); /* there is room */
    }
    free(old.slots);
    return 0;
}

int bpe_merges_put(struct bpe_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    if (m->n >= m->cap / 2) {
        int rc = merges_grow(m);
        if (rc)
            return rc;
    }
    size_t i = slot_index(m, left, right);
    for (; m->slots[i].left >= 0; i = (i + 1) & (m->cap - 1)) {
        if (m->slots[i].left == left && m->slots[i].right == right)
            return 0;
    }
    m->slots[i] = (struct bpe_slot){left, right, rank, id};
    m->n++;
    return 0;
}

bool bpe_merges_get(const struct bpe_merges *m, int32_t left, int32_t right, uint32_t *rank,
                    int32_t *id)
{
    if (left < 0 || right < 0)
        return false;
    for (size_t i = slot_index(m, left, right); m->slots[i].left >= 0; i = (i + 1) & (m->cap - 1)) {
        const struct bpe_slot *s = &m->slots[i];
        if (s->left == left && s->right == right) {
            *rank = s->rank;
            *id = s->id;
            return true;
        }
    }
    return false;
}

int bpe_work_reserve(struct bpe_work *w, size_t n_syms)
{
    if (n_syms <= w->cap)
        return 0;
    if (n_syms > INT32_MAX)
        return ERR_NOMEM;
    size_t cap = n_syms < 256 ? 256 : n_syms + n_syms / 2;
    bpe_work_free(w);
    w->syms = mem_try(cap, sizeof *w->syms);
    /* n - 1 pairs at first; each merge takes one out and puts at most two in. */
    w->heap = mem_try(cap * 2, sizeof *w->heap);
    if (!w->syms || !w->heap) {
        bpe_work_free(w);
        return ERR_NOMEM;
    }
    w->cap = cap;
    return 0;
}

void bpe_work_free(struct bpe_work *w)
{
    free(w->syms);
    free(w->heap);
    *w = (struct bpe_work){0};
}

static void heap_up(struct bpe_pair *h, size_t i)
{
    struct bpe_pair p = h[i];
    while (i > 0 && p.key < h[(i - 1) / 2].key) {
        h[i] = h[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h[i] = p;
}

static void heap_down(struct bpe_pair *h, size_t n, size_t i)
{
    struct bpe_pair p = h[i];
    for (size_t c = 2 * i + 1; c < n; c = 2 * i + 1) {
        if (c + 1 < n && h[c + 1].key < h[c].key)
            c++;
        if (p.key <= h[c].key)
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = p;
}

/* The pair that starts at symbol `at`, if it merges. */
static bool pair_at(const struct bpe_merges *m, const struct bpe_sym *syms, int32_t at,
                    struct bpe_pair *p)
{
    if (at < 0 || syms[at].next < 0)
        return false;
    uint32_t rank;
    int32_t id;
    p->left_id = syms[at].id;
    p->right_id = syms[syms[at].next].id;
    if (!bpe_merges_get(m, p->left_id, p->right_id, &rank, &id))
        return false;
    p->key = (uint64_t)rank << 32 | (uint32_t)at;
    return true;
}

size_t bpe_merge(const struct bpe_merges *m, struct bpe_work *w, size_t n)
{
    struct bpe_sym *s = w->syms;
    struct bpe_pair *h = w->heap;
    for (size_t i = 0; i < n; i++) {
        s[i].prev = (int32_t)i - 1;
        s[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    size_t n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++)
        n_heap += pair_at(m, s, (int32_t)i, &h[n_heap]);
    for (size_t i = n_heap / 2; i-- > 0;)
        heap_down(h, n_heap, i);

    while (n_heap > 0) {
        struct bpe_pair p = h[0];
        h[0] = h[--n_heap];
        if (n_heap > 1)
            heap_down(h, n_heap, 0);
        struct bpe_sym *l = &s[(uint32_t)p.key];
        if (l->id != p.left_id || l->next < 0 || s[l->next].id != p.right_id)
            continue; /* overtaken */
        struct bpe_sym *r = &s[l->next];
        uint32_t rank;
        (void)bpe_merges_get(m, l->id, r->id, &rank, &l->id);
        l->next = r->next;
        r->id = -1;
        r->next = -1;
        int32_t at = (int32_t)(l - s);
        if (l->next >= 0)
            s[l->next].prev = at;
        if (pair_at(m, s, l->prev, &h[n_heap]))
            heap_up(h, n_heap++);
        if (pair_at(m, s, at, &h[n_heap]))
            heap_up(h, n_heap++);
    }

    size_t n_out = 0;
    for (int32_t i = n ? 0 : -1, next; i >= 0; i = next) {
        next = s[i].next;
        s[n_out++] = s[i];
    }
    return n_out;
}

static int put_merges(struct bpe *b, const struct gguf_arr *a, const struct vocab *v, struct err *e)
{
    char joined[2 * VOCAB_MAX_MERGED_BYTES];
    for (size_t i = 0; i < a->n; i++) {
        const struct gguf_str *s = &a->strs[i];
        /* From the second byte on: a token may itself begin with a space. */
        const char *space = s->len > 1 ? memchr(s->data + 1, ' ', s->len - 1) : NULL;
        if (!space)
            return err_set(e, ERR_CORRUPT, "merge %zu is not two tokens with a space between", i);
        size_t n_left = (size_t)(space - s->data), n_right = s->len - n_left - 1;
        if (s->len > sizeof joined)
            continue;
        memcpy(joined, s->data, n_left);
        memcpy(joined + n_left, space + 1, n_right);
        int32_t left = vocab_find(v, s->data, n_left);
        int32_t right = vocab_find(v, space + 1, n_right);
        int32_t id = vocab_find(v, joined, n_left + n_right);
        if (left < 0 || right < 0 || id < 0)
            continue; /* could never give a token */
        if (bpe_merges_put(&b->merges, left, right, (uint32_t)i, id))
            return err_set(e, ERR_NOMEM, "no memory for %zu merges", a->n);
    }
    return 0;
}

static int fill_words(struct bpe *b, const struct vocab *v, struct err *e)
{
    int rc = map_init(&b->by_piece, v->n);
    for (size_t i = 0; !rc && i < v->n; i++) {
        if (v->type[i] != TOKEN_NORMAL || !v->piece[i].len)
            continue;
        rc = map_put(&b->by_piece, v->piece[i].data, v->piece[i].len, (int64_t)i);
        if (rc == ERR_INVALID)
            rc = 0; /* two tokens of the same bytes: the first counts */
    }
    return rc ? err_set(e, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", v->n) : 0;
}

int bpe_open(struct bpe *b, const struct gguf *g, const struct vocab *v, bool whole_words,
             struct err *e)
{
    *b = (struct bpe){.whole_words = whole_words, .all_bytes = true};
    struct gguf_arr a = {0};
    int rc = gguf_get_strs(g, "tokenizer.ggml.merges", &a, e);
    if (rc)
        return rc;
    if (a.n > INT32_MAX)
        return err_set(e, ERR_CORRUPT, "the vocabulary has %zu merges", a.n);
    if (bpe_merges_init(&b->merges, a.n < 4 * v->n ? a.n : 4 * v->n)) {
        rc = err_set(e, ERR_NOMEM, "no memory for %zu merges", a.n);
        goto fail;
    }
    for (int i = 0; i < 256; i++) {
        char c[4];
        int n = utf8_encode(c, vocab_byte_to_cp((unsigned char)i));
        b->byte_id[i] = vocab_find(v, c, (size_t)n);
        b->all_bytes = b->all_bytes && b->byte_id[i] >= 0;
    }
    rc = put_merges(b, &a, v, e);
    if (!rc && whole_words)
        rc = fill_words(b, v, e);
    if (!rc)
        return 0;
fail:
    bpe_close(b);
    return rc;
}

void bpe_close(struct bpe *b)
{
    bpe_merges_free(&b->merges);
    map_free(&b->by_piece);
    *b = (struct bpe){0};
}

int bpe_word(const struct bpe *b, struct bpe_work *w, const char *word, size_t len,
             struct token_list *out, struct err *e)
{
    int64_t whole;
    if (b->whole_words && len && map_get(&b->by_piece, word, len, &whole))
        return token_list_push(out, (int32_t)whole, e);
    if (bpe_work_reserve(w, len))
        return err_set(e, ERR_NOMEM, "no memory to tokenise a word of %zu bytes", len);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int32_t id = b->byte_id[(unsigned char)word[i]];
        if (id >= 0)
            w->syms[n++] = (struct bpe_sym){.id = id, .at = (uint32_t)i};
    }
    n = bpe_merge(&b->merges, w, n);
    for (size_t i = 0; i < n; i++) {
        int rc = token_list_push(out, w->syms[i].id, e);
        if (rc)
            return rc;
    }
    return 0;
}
