/* Framing, API keys, request ids, origins. */
#include "server/guard.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/base64.h"
#include "base/buf.h"
#include "base/rng.h"

enum { BASIC_MAX = 1024 };

static bool name_is_token(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if ((unsigned char)*s <= 0x20 || (unsigned char)*s >= 0x7f)
            return false;
    return true;
}

static enum MHD_Result take(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct guard_headers *g = cls;
    (void)kind;
    const char *v = value ? value : "";
    g->n++;
    g->n_bytes += strlen(name) + strlen(v) + 4;
    g->bad_name |= !name_is_token(name);
    for (const char *p = v; *p; p++)
        g->bad_value |= ((unsigned char)*p < 0x20 && *p != '\t') || *p == 0x7f;
    const struct {
        const char *name;
        const char **value;
    } kept[] = {{"authorization", &g->authorization},
                {"x-api-key", &g->api_key},
                {"origin", &g->origin},
                {"x-request-id", &g->request_id},
                {"content-type", &g->content_type},
                {"content-encoding", &g->content_encoding},
                {"traceparent", &g->traceparent}};
    if (!strcasecmp(name, "host")) {
        g->n_host++;
        g->host = v;
    } else if (!strcasecmp(name, "content-length")) {
        g->n_content_length++;
        g->content_length = strtoll(v, NULL, 10); /* MHD has refused what is not digits */
    } else if (!strcasecmp(name, "transfer-encoding")) {
        g->n_transfer_encoding++;
        g->bad_transfer_encoding |= strcasecmp(v, "chunked") != 0;
    }
    g->expect |= !strcasecmp(name, "expect");
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        if (!strcasecmp(name, kept[i].name))
            *kept[i].value = v;
    return MHD_YES;
}

void guard_read(struct guard_headers *g, struct MHD_Connection *c)
{
    *g = (struct guard_headers){.content_length = -1};
    MHD_get_connection_values(c, MHD_HEADER_KIND, take, g);
}

int guard_framing(const struct guard_headers *g, struct err *e)
{
    if (g->bad_name)
        return err_set(e, ERR_INVALID, "a header name has a space or control character");
    if (g->bad_value)
        return err_set(e, ERR_INVALID, "a header value has a control character");
    if (g->n_host > 1)
        return err_set(e, ERR_INVALID, "more than one Host header");
    if (g->n_content_length > 1 || g->n_transfer_encoding > 1 ||
        (g->n_content_length && g->n_transfer_encoding))
        return err_set(e, ERR_INVALID, "the length of the body is given more than once");
    if (g->bad_transfer_encoding)
        return err_set(e, ERR_INVALID, "Transfer-Encoding may only be chunked");
    return 0;
}

int guard_coding(const struct guard_headers *g, struct err *e)
{
    const char *coding = g->content_encoding ? g->content_encoding : "";
    if (!*coding || !strcasecmp(coding, "identity"))
        return 0;
    err_set(e, ERR_UNSUPPORTED, "a body may not be compressed: Content-Encoding %.40s", coding);
    return err_reason(e, "unsupported_media_type");
}

bool guard_target(const char *uri)
{
    for (const char *p = uri; *p; p++) {
        if ((unsigned char)*p <= 0x20 || *p == 0x7f)
            return false;
        if (p[0] == '%' && p[1] == '0' && p[2] == '0')
            return false;
    }
    return true;
}

/* Every byte of the longest key is looked at whatever the given one is. */
static bool equal_in_constant_time(const char *given, const char *key)
{
    size_t n = strlen(given), m = strlen(key), diff = n ^ m;
    for (size_t i = 0; i < m; i++)
        diff |= (unsigned char)key[i] ^ (unsigned char)given[n ? i % n : 0];
    return diff == 0;
}

/* Of "user:password" as base64, for clients that have no other way to send a key; "" where it is none. */
static const char *basic_password(const char *text, char out[BASIC_MAX])
{
    struct buf plain;
    buf_init(&plain, BASIC_MAX - 1);
    out[0] = '\0';
    const char *colon = base64_decode(&plain, text, strlen(text)) == 0 && plain.len > 0
                            ? memchr(plain.data, ':', plain.len)
                            : NULL;
    if (colon)
        snprintf(out, BASIC_MAX, "%.*s", (int)(plain.len - (size_t)(colon + 1 - plain.data)),
                 colon + 1);
    buf_free(&plain);
    return out;
}

int guard_key(const struct guard_headers *g, const char *const *keys, int n_keys)
{
    const char *given = g->api_key ? g->api_key : "";
    char password[BASIC_MAX];
    if (g->authorization && !strncasecmp(g->authorization, "Bearer ", 7))
        given = g->authorization + 7;
    else if (g->authorization && !strncasecmp(g->authorization, "Basic ", 6))
        given = basic_password(g->authorization + 6, password);
    int found = -1;
    for (int i = 0; i < n_keys; i++)
        found = equal_in_constant_time(given, keys[i]) ? i : found;
    return found;
}

bool guard_origin(const char *origin, const char *list)
{
    size_t n = strlen(origin);
    for (const char *p = list; *p;) {
        p += strspn(p, ", ");
        size_t len = strcspn(p, ", ");
        if ((len == 1 && *p == '*') || (len == n && n && !memcmp(p, origin, n)))
            return true;
        p += len;
    }
    return false;
}

void guard_request_id(const struct guard_headers *g, char out[GUARD_ID_BYTES])
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:";
    const char *id = g->request_id ? g->request_id : "";
    size_t n = strlen(id);
    if (n > 0 && n < GUARD_ID_BYTES && strspn(id, safe) == n) {
        memcpy(out, id, n + 1);
        return;
    }
    static uint64_t seed, count; /* the loop thread's */
    if (!seed)
        seed = rng_seed_random();
    uint32_t r[4];
    rng_philox(seed, 0, count++, r);
    snprintf(out, GUARD_ID_BYTES, "req-%08x%08x%08x%08x", r[0], r[1], r[2], r[3]);
}
