/* Error codes -> HTTP status, and OpenAI's error body.  The one place where both tables are.
 *
 * The body always has all four keys.  "code" is the reason that whoever saw the problem gave, else
 * a word that follows from the status.  Messages of server faults may quote what the system said,
 * so addresses and absolute paths are taken out of them before they leave the process. */
#include <ctype.h>
#include <string.h>

#include "api/api.h"
#include "api/call.h"
#include "base/json.h"

static const struct {
    int code, status;
} by_code[] = {
    {ERR_INVALID, 400}, {ERR_NOTFOUND, 404}, {ERR_TOOBIG, 413},      {ERR_BUSY, 429},
    {ERR_REFUSED, 400}, {ERR_NOMEM, 503},    {ERR_UNSUPPORTED, 501}, {ERR_CORRUPT, 500},
    {ERR_IO, 500},      {ERR_DEVICE, 500},   {ERR_CANCELLED, 503},   {ERR_UNAVAILABLE, 503},
};

static const struct {
    int status;
    const char *type, *code; /* code: when the error names no reason; NULL gives null */
} by_status[] = {
    {400, "invalid_request_error", NULL},
    {401, "invalid_request_error", "invalid_api_key"},
    {403, "invalid_request_error", "forbidden"},
    {404, "invalid_request_error", "not_found"},
    {405, "invalid_request_error", "method_not_allowed"},
    {408, "invalid_request_error", "request_timeout"},
    {413, "invalid_request_error", "request_too_large"},
    {414, "invalid_request_error", "uri_too_long"},
    {415, "invalid_request_error", "unsupported_media_type"},
    {429, "rate_limit_error", "rate_limit_exceeded"},
    {431, "invalid_request_error", "headers_too_large"},
    {500, "server_error", "internal_error"},
    {501, "server_error", "unsupported"},
    {503, "server_error", "service_unavailable"},
};

int api_error_status(const struct err *e)
{
    if (strcmp(e->reason, "context_length_exceeded") == 0 ||
        strcmp(e->reason, "answer_too_large") == 0)
        return 400; /* the request is not too large, what it asks for is */
    if (e->code == ERR_UNSUPPORTED && e->param[0] != '\0')
        return 400; /* the client can leave the field out */
    for (size_t i = 0; i < sizeof by_code / sizeof *by_code; i++)
        if (by_code[i].code == e->code)
            return by_code[i].status;
    return 500;
}

const char *error_code_word(const struct err *e, int status)
{
    if (e->reason[0] != '\0')
        return e->reason;
    if (e->code == ERR_REFUSED)
        return "content_policy_violation";
    if (e->code == ERR_UNSUPPORTED)
        return "unsupported";
    if (e->code == ERR_NOMEM)
        return "out_of_memory";
    for (size_t i = 0; i < sizeof by_status / sizeof *by_status; i++)
        if (by_status[i].status == status)
            return by_status[i].code;
    return NULL;
}

/* Bytes of the word at s that must not leave the process: "/usr/lib/x", "0x7ffe12345678". */
static size_t secret_len(const char *s)
{
    size_t n = strcspn(s, " \t\"'(),;");
    if (s[0] == '/' && n > 1)
        return n;
    if (s[0] == '0' && s[1] == 'x' && strspn(s + 2, "0123456789abcdefABCDEF") >= 6)
        return n;
    return 0;
}

void error_scrub(char *out, size_t size, const char *msg)
{
    size_t n = 0;
    bool word_start = true;
    for (const char *s = msg; *s != '\0' && n + 4 < size;) {
        size_t skip = word_start ? secret_len(s) : 0;
        if (skip > 0) {
            memcpy(out + n, "...", 3);
            n += 3;
            s += skip;
            word_start = false;
            continue;
        }
        word_start = strchr(" \t\"'(),;:=", *s) != NULL;
        out[n++] = *s++;
    }
    out[n] = '\0';
}

void api_error_body(struct buf *out, int status, const struct err *e)
{
    const char *type = status >= 500 ? "server_error" : "invalid_request_error";
    for (size_t i = 0; i < sizeof by_status / sizeof *by_status; i++)
        if (by_status[i].status == status)
            type = by_status[i].type;
    char msg[sizeof e->msg];
    if (status >= 500)
        error_scrub(msg, sizeof msg, e->msg);
    else
        memcpy(msg, e->msg, sizeof msg);
    struct json_writer w;
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_open(&w, "error", '{');
    json_put_str(&w, "message", msg[0] != '\0' ? msg : "the request failed");
    json_put_str(&w, "type", type);
    json_put_str(&w, "param", e->param[0] != '\0' ? e->param : NULL);
    json_put_str(&w, "code", error_code_word(e, status));
    json_close(&w, '}');
    json_close(&w, '}');
}
