/* multipart/form-data: delimiters are searched with memmem (linear), headers are lines of bounded length,
 * and of them only Content-Disposition matters; what a file is, its first bytes say. */
#include "api/multipart.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { BOUNDARY_MAX = 70 }; /* RFC 2046 */

struct cursor {
    const char *at, *end;
};

static int broken(struct err *e, const char *what)
{
    return err_set(e, ERR_INVALID, "the form cannot be read: %s", what);
}

/* ---- Parameters of a header: ; name=value; name="va\"lue" ---- */

static const char *skip_space(const char *s, const char *end)
{
    while (s < end && (*s == ' ' || *s == '\t'))
        s++;
    return s;
}

/* The value at s into out (cut at size), s behind it; NULL when it is not well formed. */
static const char *read_value(const char *s, const char *end, char *out, size_t size, bool *fits)
{
    size_t n = 0;
    bool quoted = s < end && *s == '"';
    s += quoted;
    for (; s < end && (quoted ? *s != '"' : *s != ';' && *s != ' ' && *s != '\t'); s++) {
        /* Browsers write \ as it is, others escape: only \" and \\ are pairs. */
        if (quoted && *s == '\\' && s + 1 < end && (s[1] == '"' || s[1] == '\\'))
            s++;
        if (n + 1 < size)
            out[n] = *s;
        n++;
    }
    if (quoted && s == end)
        return NULL;
    *fits = n < size;
    out[*fits ? n : size - 1] = '\0';
    return s + quoted;
}

/* The parameter `name` of a header's value: 1 and out when it is there, 0, or -1 when the header is not
 * well formed or the value too long. */
static int parameter(const char *s, const char *end, const char *name, char *out, size_t size)
{
    int found = 0;
    char key[32], value[256];
    s = memchr(s, ';', (size_t)(end - s));
    while (s != NULL && s < end) {
        size_t n = 0;
        s = skip_space(s + 1, end);
        while (s < end && *s != '=' && *s != ';') {
            if (n + 1 < sizeof key)
                key[n++] = *s;
            s++;
        }
        key[n] = '\0';
        if (s == end || *s == ';')
            continue; /* a parameter without a value, or the end */
        bool wanted = strcasecmp(key, name) == 0, fits = true;
        s = read_value(s + 1, end, wanted ? out : value, wanted ? size : sizeof value, &fits);
        if (s == NULL || (wanted && (!fits || found)))
            return -1;
        found = found || wanted;
        s = skip_space(s, end);
        if (s < end && *s != ';')
            return -1;
    }
    return found;
}

bool multipart_is(const char *content_type)
{
    static const char form[] = "multipart/form-data";
    size_t n = sizeof form - 1;
    return content_type != NULL && strncasecmp(content_type, form, n) == 0 &&
           (content_type[n] == '\0' || content_type[n] == ';' || content_type[n] == ' ');
}

/* "\r\n--" and the boundary: what ends every part. */
static int read_boundary(const char *content_type, char out[BOUNDARY_MAX + 5], struct err *e)
{
    char value[BOUNDARY_MAX + 1];
    size_t n = content_type != NULL ? strlen(content_type) : 0;
    if (!multipart_is(content_type) ||
        parameter(content_type, content_type + n, "boundary", value, sizeof value) != 1 ||
        value[0] == '\0')
        return broken(e, "Content-Type must be multipart/form-data with a boundary");
    for (const char *s = value; *s != '\0'; s++)
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f)
            return broken(e, "the boundary has a character that none may have");
    snprintf(out, BOUNDARY_MAX + 5, "\r\n--%s", value);
    return 0;
}

/* ---- Parts ---- */

static bool name_is(const char *line, const char *colon, const char *name)
{
    size_t n = strlen(name);
    return (size_t)(colon - line) == n && strncasecmp(line, name, n) == 0;
}

static int read_disposition(const char *s, const char *end, struct multipart_part *p, struct err *e)
{
    char file[256];
    s = skip_space(s, end);
    if (end - s < 9 || strncasecmp(s, "form-data", 9) != 0)
        return broken(e, "a part is not form-data");
    if (parameter(s, end, "name", p->name, sizeof p->name) != 1 || p->name[0] == '\0')
        return broken(e, "a part has no name, or too long a one");
    for (const char *c = p->name; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
            return broken(e, "the name of a part is not plain ASCII");
    /* A long name of a file is no error: nobody looks at it. */
    p->is_file = parameter(s, end, "filename", file, sizeof file) != 0 ||
                 parameter(s, end, "filename*", file, sizeof file) != 0;
    return 0;
}

static bool is_plain_encoding(const char *s, const char *end)
{
    static const char *const plain[] = {"binary", "8bit", "7bit"};
    s = skip_space(s, end);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if ((size_t)(end - s) == strlen(plain[i]) &&
            strncasecmp(s, plain[i], (size_t)(end - s)) == 0)
            return true;
    return false;
}

/* The header lines up to the empty one. */
static int read_headers(struct cursor *c, struct multipart_part *p, struct err *e)
{
    const char *first = c->at;
    bool named = false;
    for (;;) {
        size_t room = (size_t)(c->end - c->at);
        const char *line = c->at, *stop = memmem(line, room, "\r\n", 2);
        if (stop == NULL)
            return broken(e, "a part's headers have no end");
        if (stop - first > MULTIPART_HEADER_MAX)
            return err_set(e, ERR_TOOBIG, "a part of the form has more than %d bytes of headers",
                           MULTIPART_HEADER_MAX);
        c->at = stop + 2;
        if (stop == line)
            break;
        const char *colon = memchr(line, ':', (size_t)(stop - line));
        if (colon == NULL || memchr(line, '\0', (size_t)(stop - line)) != NULL)
            return broken(e, "a header of a part is not one");
        if (name_is(line, colon, "Content-Disposition")) {
            if (named)
                return broken(e, "a part has two Content-Dispositions");
            named = true;
            if (read_disposition(colon + 1, stop, p, e) != 0)
                return ERR_INVALID;
        } else if (name_is(line, colon, "Content-Transfer-Encoding") &&
                   !is_plain_encoding(colon + 1, stop)) {
            return broken(e, "a part is in a transfer encoding; send its bytes as they are");
        }
    }
    return named ? 0 : broken(e, "a part has no Content-Disposition");
}

static int read_part(struct cursor *c, const char *delimiter, const struct multipart_limits *lim,
                     struct multipart_part *p, struct err *e)
{
    int err = read_headers(c, p, e);
    if (err != 0)
        return err;
    /* The delimiter of an empty part may begin with the line end of its headers. */
    const char *from = c->at - 2;
    const char *stop = memmem(from, (size_t)(c->end - from), delimiter, strlen(delimiter));
    if (stop == NULL)
        return broken(e, "it ends within a part");
    p->data = c->at;
    p->len = stop > c->at ? (size_t)(stop - c->at) : 0;
    c->at = stop + strlen(delimiter);
    size_t max = p->is_file ? lim->max_file_bytes : lim->max_field_bytes;
    if (p->len <= max)
        return 0;
    err_set(e, ERR_TOOBIG, "the part %s has %zu bytes, at most %zu are allowed", p->name, p->len,
            max);
    return err_param(e, "%s", p->name);
}

/* Behind a delimiter: "--" ends the form, a line end begins a part.  1, 0, or an error. */
static int read_delimiter_end(struct cursor *c, struct err *e)
{
    if (c->end - c->at >= 2 && memcmp(c->at, "--", 2) == 0)
        return 1;
    c->at = skip_space(c->at, c->end);
    if (c->end - c->at < 2 || memcmp(c->at, "\r\n", 2) != 0)
        return broken(e, "a boundary is followed by something else");
    c->at += 2;
    return 0;
}

int multipart_parse(struct multipart *m, const char *content_type, const char *body, size_t n,
                    const struct multipart_limits *lim, struct err *e)
{
    char delimiter[BOUNDARY_MAX + 5];
    m->n = 0;
    int err = read_boundary(content_type, delimiter, e);
    if (err != 0)
        return err;
    struct cursor c = {body, body + n};
    size_t n_first = strlen(delimiter) - 2; /* the first one needs no line before it */
    if (n >= n_first && memcmp(body, delimiter + 2, n_first) == 0) {
        c.at += n_first;
    } else {
        const char *first = n > 0 ? memmem(body, n, delimiter, n_first + 2) : NULL;
        if (first == NULL)
            return broken(e, "its boundary is not in the body");
        c.at = first + n_first + 2;
    }
    while ((err = read_delimiter_end(&c, e)) == 0) {
        if (m->n == MULTIPART_PARTS_MAX)
            return err_set(e, ERR_TOOBIG, "the form has more than %d parts", MULTIPART_PARTS_MAX);
        if ((err = read_part(&c, delimiter, lim, &m->parts[m->n], e)) != 0)
            return err;
        m->n++;
    }
    return err < 0 ? err : 0;
}
