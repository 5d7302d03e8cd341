/* Pictures come as base64, as data: URLs, or by URLs of the network where the operator says so (base/fetch.h).
 * All pictures of a request share one time limit. */
#include "api/image_source.h"

#include <ctype.h>
#include <string.h>

#include "api/call.h"
#include "base/base64.h"
#include "base/clock.h"
#include "base/fetch.h"

/* "https://...", "ftp://...": a scheme and "://". */
static bool is_url(const char *text)
{
    size_t n = 0;
    while (isalnum((unsigned char)text[n]) || (n > 0 && text[n] != '\0' && strchr("+-.", text[n])))
        n++;
    return n > 0 && (strncmp(text + n, "://", 3) == 0 ||
                     (text[n] == ':' && strncasecmp(text, "http", 4) == 0));
}

static int fetched(struct api_call *c, const char *url, struct buf *out, struct err *e)
{
    struct api_call_private *p = c->priv;
    const struct fetch *f = p->api->o.fetch;
    if (f == NULL)
        return err_set(e, ERR_UNSUPPORTED,
                       "this server fetches nothing; send the picture itself as data: URL");
    int err = fetch_check(f, url, e);
    if (err != 0)
        return err;
    if (!p->may_wait) {
        c->fetch = true;
        return err_set(e, ERR_UNAVAILABLE, "the picture is not here yet");
    }
    if (p->fetch_until_us == 0)
        p->fetch_until_us = clock_us() + p->api->o.fetch_timeout_us;
    const struct fetch_request r = {
        .url = url, .id = p->request_id, .until_us = p->fetch_until_us, .gone = p->gone};
    return fetch_get(f, &r, out, e);
}

static int decoded(const char *text, struct buf *out, struct err *e)
{
    if (strncmp(text, "data:", 5) == 0) {
        const char *comma = strstr(text, ";base64,");
        text = comma != NULL ? comma + strlen(";base64,") : "";
    }
    int err = base64_decode(out, text, strlen(text));
    if (err == ERR_TOOBIG)
        err_set(e, err, "it has more than %zu bytes", out->max);
    else if (err != 0)
        err_set(e, err, "it is not base64");
    return err;
}

int image_source_bytes(struct api_call *c, const char *text, const char *param, struct buf *out,
                       struct err *e)
{
    int err = is_url(text) ? fetched(c, text, out, e) : decoded(text, out, e);
    if (err == 0)
        return 0;
    err_wrap(e, "%s", param);
    return err_param(e, "%s", param);
}
