/* A state machine over the bytes.  Text that may be the beginning of a marker, and white space that may stand
 * in front of one, is held back. */
#include "api/tool_parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/rng.h"

enum { HELD_MAX = 128 }; /* bytes of what stands around names and calls */

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
    PARAM,     /* up to a parameter, or the end of the call */
    PARAM_NAME,
    VALUE,
};

struct call {
    char id[32], name[TOOL_NAME_MAX + 1];
    struct buf arguments;
    bool told;   /* id and name are out */
    size_t sent; /* bytes of the arguments that are */
};

struct tool_parse {
    const struct tool_format *f;
    const char *json; /* tool_grammar_json */
    enum state state;
    struct buf held;
    int depth;
    bool in_string, escaped;
    bool first, quoted; /* parameter of its call; value that is a text */
    int n, n_told;      /* calls, and those of which all is told */
    size_t max, bytes;
    bool failed;
    struct call *calls; /* [n] */
};

struct tool_parse *tool_parse_open(const struct tool_format *f, const char *json, size_t max)
{
    struct tool_parse *p = mem_try(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->f = f;
    p->json = json;
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

/* The longest end of what is held that begins this text. */
static size_t begun(const struct tool_parse *p, const char *text)
{
    const size_t m = strlen(text), n = p->held.len;
    for (size_t k = m < n ? m : n; k > 0; k--)
        if (memcmp(buf_str(&p->held) + n - k, text, k) == 0)
            return k;
    return 0;
}

/* What is held ends with this text. */
static bool reached(const struct tool_parse *p, const char *text)
{
    const size_t n = strlen(text);
    return p->held.len >= n && memcmp(buf_str(&p->held) + p->held.len - n, text, n) == 0;
}

/* Goes on to a state when what is held ends with this text. */
static bool await(struct tool_parse *p, const char *text, enum state next)
{
    if (!reached(p, text)) {
        if (p->held.len > 4 * HELD_MAX) /* what a text could not begin with any more */
            buf_drop(&p->held, p->held.len - HELD_MAX);
        return false;
    }
    buf_clear(&p->held);
    p->state = next;
    return true;
}

static bool is_named(const struct tool_parse *p)
{
    return p->f->shape == TOOL_NAMED || p->f->shape == TOOL_PARAMS;
}

static void take_text(struct tool_parse *p, char c, struct buf *out)
{
    buf_addc(&p->held, c);
    const size_t k = begun(p, p->f->marker);
    size_t keep = k;
    while (keep < p->held.len && is_space(p->held.data[p->held.len - keep - 1]))
        keep++;
    if (p->held.len > keep)
        say(p, p->held.len - keep, out);
    if (k == strlen(p->f->marker)) { /* the white space in front of it is nobody's */
        buf_clear(&p->held);
        p->state = is_named(p) && p->f->open == NULL ? NAME : BEFORE;
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

static void add_argument(struct tool_parse *p, char c)
{
    struct buf *b = &p->calls[p->n - 1].arguments;
    buf_addc(b, c);
    p->bytes++;
    p->failed = p->failed || b->failed || p->bytes > p->max;
}

static void add_arguments(struct tool_parse *p, const char *s)
{
    for (; *s != '\0'; s++)
        add_argument(p, *s);
}

/* The first n bytes that are held, as they stand within a JSON string when they are a text. */
static void add_held(struct tool_parse *p, size_t n, bool text)
{
    for (size_t i = 0; i < n; i++) {
        const char c = p->held.data[i];
        char code[8] = {'\\', c == '\n' ? 'n' : c == '\t' ? 't' : c};
        if (!text || ((unsigned char)c >= ' ' && c != '"' && c != '\\')) {
            add_argument(p, c);
            continue;
        }
        if ((unsigned char)code[1] < ' ')
            snprintf(code, sizeof code, "\\u%04x", (unsigned)c);
        add_arguments(p, code);
    }
    buf_drop(&p->held, n);
}

/* A name is a call's as soon as it is whole; until then it stands in held. */
static void take_name(struct tool_parse *p, char c)
{
    const char *after = is_named(p) ? p->f->after : "\"";
    if (p->held.len < TOOL_NAME_MAX + HELD_MAX)
        buf_addc(&p->held, c);
    if (!reached(p, after))
        return;
    begin_call(p);
    if (!p->failed)
        snprintf(p->calls[p->n - 1].name, sizeof p->calls[0].name, "%.*s",
                 (int)(p->held.len - strlen(after)), buf_str(&p->held));
    buf_clear(&p->held);
    p->state = p->f->shape == TOOL_PARAMS ? PARAM : ARGUMENTS;
    p->first = true;
    if (p->state == PARAM && !p->failed)
        add_argument(p, '{');
}

static void take_argument(struct tool_parse *p, char c)
{
    add_argument(p, c);
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

/* Whether the value of the parameter in held is JSON; all others are texts, which stand there without quotes. */
static bool is_json(const struct tool_parse *p)
{
    const char *of = p->json, *param;
    for (; of != NULL && *of != '\0'; of = param + strlen(param) + 1) {
        param = of + strlen(of) + 1;
        if (strcmp(of, p->calls[p->n - 1].name) == 0 && strcmp(param, buf_str(&p->held)) == 0)
            return true;
    }
    return false;
}

/* Between the parameters of a call, and in the name of one. */
static void take_param(struct tool_parse *p, char c)
{
    buf_addc(&p->held, c);
    if (p->state == PARAM) {
        if (await(p, p->f->close, BEFORE))
            add_argument(p, '}');
        else
            await(p, p->f->param, PARAM_NAME);
        return;
    }
    if (!reached(p, p->f->value)) {
        p->failed = p->failed || p->held.len > p->max;
        return;
    }
    p->held.len -= strlen(p->f->value);
    p->held.data[p->held.len] = '\0';
    p->quoted = !is_json(p);
    add_arguments(p, p->first ? "\"" : ", \"");
    add_held(p, p->held.len, true);
    add_arguments(p, p->quoted ? "\": \"" : "\": ");
    p->first = false;
    p->state = VALUE;
}

static void take_value(struct tool_parse *p, char c)
{
    buf_addc(&p->held, c);
    const size_t k = begun(p, p->f->param_end);
    add_held(p, p->held.len - k, p->quoted);
    if (!await(p, p->f->param_end, PARAM))
        return;
    if (p->quoted)
        add_argument(p, '"');
}

static void take_before(struct tool_parse *p, char c)
{
    if (is_named(p)) {
        buf_addc(&p->held, c);
        await(p, p->f->open != NULL ? p->f->open : p->f->marker, NAME);
    } else if (c == '{') {
        p->state = KEY;
    }
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
        take_before(p, c);
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
    case PARAM:
    case PARAM_NAME:
        take_param(p, c);
        return;
    case VALUE:
        take_value(p, c);
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
    if (p->state == VALUE)
        add_held(p, p->held.len, p->quoted);
    buf_clear(&p->held);
}

/* ---- what came of it ---- */

int tool_parse_calls(const struct tool_parse *p)
{
    return p != NULL ? p->n : 0;
}

static bool is_whole(const struct tool_parse *p, int i)
{
    return i < p->n - 1 || p->state < ARGUMENTS;
}

struct tool_call tool_parse_call(const struct tool_parse *p, int i)
{
    const struct call *c = &p->calls[i];
    return (struct tool_call){.id = c->id,
                              .name = c->name,
                              .arguments = buf_str(&c->arguments),
                              .n_arguments = c->arguments.len,
                              .whole = is_whole(p, i)};
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

/* The call of which something is not told yet; NULL: none. */
static struct call *untold(const struct tool_parse *p)
{
    for (int i = p->n_told; i < p->n; i++)
        if (!p->calls[i].told || p->calls[i].sent < p->calls[i].arguments.len)
            return &p->calls[i];
    return NULL;
}

bool tool_parse_more(const struct tool_parse *p)
{
    return p != NULL && untold(p) != NULL;
}

void tool_parse_put_more(struct tool_parse *p, struct json_writer *w)
{
    struct call *c = untold(p);
    p->n_told = (int)(c - p->calls);
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
}
