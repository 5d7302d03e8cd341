/* A state machine over the bytes.  Text that may be the beginning of a marker, and white space that may stand
 * in front of one, is held back. */
#include "api/tool_parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/rng.h"

enum state {
    PLAIN,     /* what is said, to the end */
    TEXT,      /* the same, and held has what may be a marker */
    FIRST,     /* a bare call would begin here: held has all of it */
    BEFORE,    /* between calls */
    KEY,       /* {"name" of a call, up to the colon */
    NAME_OPEN, /* up to the quote */
    NAME,
    ARGUMENTS, /* up to their { */
    OBJECT,    /* within them */
};

struct call {
    char id[32], name[TOOL_NAME_MAX + 1];
    struct buf arguments;
    bool told;   /* id and name are out */
    size_t sent; /* bytes of the arguments that are */
};

struct tool_parse {
    const struct tool_format *f;
    enum state state;
    struct buf held;
    int depth;
    bool in_string, escaped;
    int n, n_told; /* calls, and those of which all is told */
    size_t max, bytes;
    bool failed;
    struct call *calls; /* [n] */
};

struct tool_parse *tool_parse_open(const struct tool_format *f, size_t max)
{
    struct tool_parse *p = mem_try(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->f = f;
    p->max = max;
    p->state = f->shape == TOOL_BARE ? FIRST : TEXT;
    buf_init(&p->held, max);
    return p;
}

void tool_parse_close(struct tool_parse *p)
{
    if (p == NULL)
        return;
    for (int i = 0; i < p->n; i++)
        buf_free(&p->calls[i].arguments);
    buf_free(&p->held);
    free(p->calls);
    free(p);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static void say(struct tool_parse *p, size_t n, struct buf *out)
{
    buf_add(out, buf_str(&p->held), n);
    buf_drop(&p->held, n);
}

/* ---- where calls begin ---- */

/* The longest end of what is held that begins the marker. */
static size_t marker_length(const struct tool_parse *p)
{
    const size_t m = strlen(p->f->marker), n = p->held.len;
    for (size_t k = m < n ? m : n; k > 0; k--)
        if (memcmp(buf_str(&p->held) + n - k, p->f->marker, k) == 0)
            return k;
    return 0;
}

static void take_text(struct tool_parse *p, char c, struct buf *out)
{
    buf_addc(&p->held, c);
    const size_t k = marker_length(p);
    size_t keep = k;
    while (keep < p->held.len && is_space(p->held.data[p->held.len - keep - 1]))
        keep++;
    if (p->held.len > keep)
        say(p, p->held.len - keep, out);
    if (k == strlen(p->f->marker)) { /* the white space in front of it is nobody's */
        buf_clear(&p->held);
        p->state = p->f->shape == TOOL_NAMED ? NAME : BEFORE;
    }
}

/* 1: this is a bare call; 0: it may become one; -1: it is not. */
static int starts_bare(const struct tool_parse *p)
{
    static const char key[] = "\"name\"";
    const char *s = buf_str(&p->held), *marker = p->f->marker;
    while (is_space(*s))
        s++;
    if (*s == marker[0]) {
        const size_t n = strlen(marker), left = strlen(s);
        if (strncmp(s, marker, left < n ? left : n) != 0)
            return -1;
        if (left < n)
            return 0;
        s += n;
        while (is_space(*s))
            s++;
    }
    if (*s != '{')
        return *s == '\0' ? 0 : -1;
    for (s++; is_space(*s);)
        s++;
    const size_t left = strlen(s), n = sizeof key - 1;
    if (strncmp(s, key, left < n ? left : n) != 0)
        return -1;
    return left >= n;
}

/* ---- within calls ---- */

static void begin_call(struct tool_parse *p)
{
    if ((p->n & (p->n - 1)) == 0) { /* full: as large again */
        struct call *more =
            p->n < TOOL_CALLS_MAX ? mem_try(p->n > 0 ? 2 * (size_t)p->n : 1, sizeof *more) : NULL;
        if (more == NULL) {
            p->failed = true;
            return;
        }
        if (p->n > 0)
            memcpy(more, p->calls, (size_t)p->n * sizeof *more);
        free(p->calls);
        p->calls = more;
    }
    struct call *c = &p->calls[p->n];
    *c = (struct call){0};
    buf_init(&c->arguments, p->max);
    if (p->f->id_chars > 0)
        snprintf(c->id, sizeof c->id, "%0*llx", p->f->id_chars,
                 (unsigned long long)(rng_seed_random() & 0xfffffffff));
    else
        snprintf(c->id, sizeof c->id, "call_%016llx%08llx", (unsigned long long)rng_seed_random(),
                 (unsigned long long)(rng_seed_random() & 0xffffffff));
    p->n++;
}

/* A name is a call's as soon as it is whole; until then it stands in held. */
static void take_name(struct tool_parse *p, char c)
{
    if (c != (p->f->shape == TOOL_NAMED ? '[' : '"')) {
        if (p->held.len < TOOL_NAME_MAX)
            buf_addc(&p->held, c);
        return;
    }
    begin_call(p);
    if (!p->failed)
        snprintf(p->calls[p->n - 1].name, sizeof p->calls[0].name, "%s", buf_str(&p->held));
    buf_clear(&p->held);
    p->state = ARGUMENTS;
}

static void take_argument(struct tool_parse *p, char c)
{
    struct buf *b = &p->calls[p->n - 1].arguments;
    buf_addc(b, c);
    p->bytes++;
    p->failed = p->failed || b->failed || p->bytes > p->max;
    if (p->in_string) {
        p->in_string = p->escaped || c != '"';
        p->escaped = !p->escaped && c == '\\';
        return;
    }
    p->in_string = c == '"';
    p->depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (p->depth == 0)
        p->state = BEFORE;
}

static void take(struct tool_parse *p, char c, struct buf *out)
{
    int bare;
    switch (p->state) {
    case PLAIN:
        buf_addc(out, c);
        return;
    case TEXT:
        take_text(p, c, out);
        return;
    case FIRST:
        buf_addc(&p->held, c);
        if ((bare = starts_bare(p)) < 0)
            say(p, p->held.len, out);
        if (bare > 0)
            buf_clear(&p->held);
        p->state = bare > 0 ? KEY : bare < 0 ? PLAIN : FIRST;
        return;
    case BEFORE:
        if (p->f->shape == TOOL_NAMED ? c == ']' : c == '{')
            p->state = p->f->shape == TOOL_NAMED ? NAME : KEY;
        return;
    case KEY:
        if (c == ':')
            p->state = NAME_OPEN;
        return;
    case NAME_OPEN:
        if (c == '"')
            p->state = NAME;
        return;
    case NAME:
        take_name(p, c);
        return;
    case ARGUMENTS:
        if (c != '{')
            return;
        p->state = OBJECT;
        p->depth = 0;
        p->in_string = p->escaped = false;
        take_argument(p, c);
        return;
    case OBJECT:
        take_argument(p, c);
        return;
    }
}

void tool_parse_push(struct tool_parse *p, const char *s, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n && !p->failed; i++)
        take(p, s[i], out);
    p->failed = p->failed || p->held.failed;
}

void tool_parse_end(struct tool_parse *p, struct buf *out)
{
    if (p->state == TEXT || p->state == FIRST)
        say(p, p->held.len, out);
    buf_clear(&p->held);
}

/* ---- what came of it ---- */

int tool_parse_calls(const struct tool_parse *p)
{
    return p != NULL ? p->n : 0;
}

struct tool_call tool_parse_call(const struct tool_parse *p, int i)
{
    const struct call *c = &p->calls[i];
    return (struct tool_call){.id = c->id,
                              .name = c->name,
                              .arguments = buf_str(&c->arguments),
                              .n_arguments = c->arguments.len,
                              .whole =
                                  i < p->n - 1 || (p->state != ARGUMENTS && p->state != OBJECT)};
}

size_t tool_parse_bytes(const struct tool_parse *p)
{
    return p != NULL ? p->bytes + p->held.len : 0;
}

bool tool_parse_failed(const struct tool_parse *p)
{
    return p != NULL && p->failed;
}

static void put_call(struct json_writer *w, const struct call *c, int index, const char *arguments,
                     size_t n)
{
    json_open(w, NULL, '{');
    if (index >= 0)
        json_put_int(w, "index", index);
    json_put_str(w, "id", c->id);
    json_put_str(w, "type", "function");
    json_open(w, "function", '{');
    json_put_str(w, "name", c->name);
    json_put_strn(w, "arguments", arguments, n);
    json_close(w, '}');
    json_close(w, '}');
}

void tool_parse_put(const struct tool_parse *p, struct json_writer *w)
{
    json_open(w, "tool_calls", '[');
    for (int i = 0; i < p->n; i++) {
        const struct buf *b = &p->calls[i].arguments;
        put_call(w, &p->calls[i], -1, buf_str(b), b->len);
    }
    json_close(w, ']');
}

bool tool_parse_more(const struct tool_parse *p)
{
    if (p == NULL || p->n_told == p->n)
        return false;
    const struct call *c = &p->calls[p->n_told];
    return !c->told || c->sent < c->arguments.len;
}

void tool_parse_put_more(struct tool_parse *p, struct json_writer *w)
{
    struct call *c = &p->calls[p->n_told];
    json_open(w, "tool_calls", '[');
    if (!c->told) {
        put_call(w, c, p->n_told, "", 0);
        c->told = true;
    } else {
        json_open(w, NULL, '{');
        json_put_int(w, "index", p->n_told);
        json_open(w, "function", '{');
        json_put_strn(w, "arguments", c->arguments.data + c->sent, c->arguments.len - c->sent);
        json_close(w, '}');
        json_close(w, '}');
        c->sent = c->arguments.len;
    }
    json_close(w, ']');
    const bool last = p->n_told == p->n - 1;
    if (c->told && c->sent == c->arguments.len && (!last || p->state == BEFORE))
        p->n_told++;
}
