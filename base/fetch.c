/* One libcurl handle for each hop, so that no connection and no resolved name outlives its check.  What an
 * answer has to be: status 200, the type image/anything, application/octet-stream or none, and no larger than
 * the buffer; whether it is a picture is for the decoders to say. */
#include "base/fetch.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/netaddr.h"

enum {
    URL_BYTES_MAX = 8192,
    HOST_BYTES_MAX = 254, /* 253 and a dot at the end */
    ENTRIES_MAX = 256,    /* of allow */
    PORTS_MAX = 16,
    EXTRA_BYTES_MAX = 64 * 1024,
    HOPS_MAX = 4, /* three redirects */
    SLOW_BYTES = 1024,
    SLOW_S = 5, /* fewer bytes a second for so long: it is given up */
};

struct fetch {
    bool public_hosts;
    char *agent;
    int n_ports, n_hosts, n_nets;
    long ports[PORTS_MAX];
    char *hosts[ENTRIES_MAX]; /* lower case; "*.example.org" is ".example.org" */
    struct netaddr_net nets[ENTRIES_MAX];
};

/* ---- what is allowed ---- */

static bool is_host_char(char c)
{
    return isalnum((unsigned char)c) || c == '.' || c == '-' || c == '_';
}

static int add_allowed(struct fetch *f, const char *s, size_t n, struct err *e)
{
    if (f->n_hosts == ENTRIES_MAX || f->n_nets == ENTRIES_MAX)
        return err_set(e, ERR_INVALID, "image_url_allow: at most %d entries", ENTRIES_MAX);
    if (netaddr_net_parse(&f->nets[f->n_nets], s, n)) {
        f->n_nets++;
        return 0;
    }
    const size_t skip = n > 2 && s[0] == '*' && s[1] == '.';
    bool ok = n > skip && n <= HOST_BYTES_MAX;
    for (size_t i = skip; i < n && ok; i++)
        ok = is_host_char(s[i]);
    if (!ok)
        return err_set(e, ERR_INVALID, "image_url_allow: '%.*s' is neither a host nor a network",
                       (int)(n < 60 ? n : 60), s);
    char *host = xcalloc(n + 1, 1);
    for (size_t i = skip; i < n; i++)
        host[i - skip] = (char)tolower((unsigned char)s[i]);
    f->hosts[f->n_hosts++] = host;
    return 0;
}

static int add_port(struct fetch *f, const char *s, size_t n, struct err *e)
{
    long port = 0;
    bool ok = n <= 5 && f->n_ports < PORTS_MAX;
    for (size_t i = 0; i < n && ok; i++) {
        ok = isdigit((unsigned char)s[i]);
        port = 10 * port + (s[i] - '0');
    }
    if (!ok || port < 1 || port > 65535)
        return err_set(e, ERR_INVALID, "image_url_ports must be 1 to %d ports with commas",
                       PORTS_MAX);
    f->ports[f->n_ports++] = port;
    return 0;
}

/* Every entry of a list with commas to add. */
static int each(struct fetch *f, const char *list,
                int (*add)(struct fetch *f, const char *s, size_t n, struct err *e), struct err *e)
{
    int err = 0;
    while (*list != '\0' && err == 0) {
        list += strspn(list, ", \t");
        const size_t n = strcspn(list, ", \t");
        if (n > 0)
            err = add(f, list, n, e);
        list += n;
    }
    return err;
}

int fetch_open(struct fetch **out, const struct fetch_options *o, struct err *e)
{
    struct fetch *f = xcalloc(1, sizeof *f);
    f->public_hosts = o->public_hosts;
    f->agent = xstrdup(o->agent != NULL ? o->agent : "duetto");
    int err = each(f, o->allow, add_allowed, e);
    if (err == 0)
        err = each(f, o->ports, add_port, e);
    if (err == 0 && f->n_ports == 0)
        err = err_set(e, ERR_INVALID, "image_url_ports has no port");
    if (err == 0 && !f->public_hosts && f->n_hosts + f->n_nets == 0)
        err = err_set(e, ERR_INVALID,
                      "image_urls is listed, but image_url_allow has no host and no network");
    if (err == 0 && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        err = err_set(e, ERR_IO, "libcurl does not start");
    if (err != 0) {
        fetch_close(f);
        return err;
    }
    *out = f;
    return 0;
}

void fetch_close(struct fetch *f)
{
    if (f == NULL)
        return;
    for (int i = 0; i < f->n_hosts; i++)
        free(f->hosts[i]);
    free(f->agent);
    free(f);
}

static bool host_listed(const struct fetch *f, const char *host)
{
    const size_t n = strlen(host);
    for (int i = 0; i < f->n_hosts; i++) {
        const size_t len = strlen(f->hosts[i]);
        const bool ends = f->hosts[i][0] == '.';
        if (ends ? n > len && strcmp(host + n - len, f->hosts[i]) == 0
                 : strcmp(host, f->hosts[i]) == 0)
            return true;
    }
    return false;
}

/* ---- a URL ---- */

struct target {
    CURLU *url;
    char host[HOST_BYTES_MAX + 1]; /* lower case, without a dot at its end and without [] */
    bool tls, listed;
};

static int bad_url(struct err *e, const char *why)
{
    err_set(e, ERR_INVALID, "the URL %s", why);
    return err_reason(e, "invalid_image_url");
}

/* A part of it into out; false: it is not there, or does not fit. */
static bool part_of(CURLU *url, CURLUPart part, unsigned flags, char *out, size_t size)
{
    char *s = NULL;
    if (curl_url_get(url, part, &s, flags) != CURLUE_OK || s == NULL)
        return false;
    const size_t n = strlen(s);
    if (n < size)
        memcpy(out, s, n + 1);
    curl_free(s);
    return n < size;
}

static int read_host(struct target *t, struct err *e)
{
    char host[HOST_BYTES_MAX + 3];
    if (!part_of(t->url, CURLUPART_HOST, 0, host, sizeof host) || host[0] == '\0')
        return bad_url(e, "has no host, or one that is too long");
    size_t n = strlen(host);
    const bool v6 = host[0] == '[';
    if (v6) {
        struct netaddr_net one;
        if (n < 3 || host[n - 1] != ']' || !netaddr_net_parse(&one, host + 1, n - 2))
            return bad_url(e, "has an address that is none");
        memmove(host, host + 1, n - 2);
        host[n - 2] = '\0';
        n -= 2;
    } else if (host[n - 1] == '.') {
        host[--n] = '\0';
    }
    for (size_t i = 0; i < n && !v6; i++)
        if (!is_host_char(host[i]))
            return bad_url(e, "has a host that is not of letters, digits, dots and hyphens");
    if (n == 0 || n > HOST_BYTES_MAX)
        return bad_url(e, "has no host, or one that is too long");
    for (size_t i = 0; i <= n; i++)
        t->host[i] = (char)tolower((unsigned char)host[i]);
    return 0;
}

static int read_target(const struct fetch *f, struct target *t, struct err *e)
{
    char port[8], *zone = NULL;
    if (curl_url_get(t->url, CURLUPART_ZONEID, &zone, 0) == CURLUE_OK) {
        curl_free(zone);
        return bad_url(e, "has an address with a zone");
    }
    int err = read_host(t, e);
    if (err != 0)
        return err;
    if (!part_of(t->url, CURLUPART_PORT, CURLU_DEFAULT_PORT, port, sizeof port))
        return bad_url(e, "has a port that is none");
    const long number = strtol(port, NULL, 10);
    bool ok = false;
    for (int i = 0; i < f->n_ports; i++)
        ok = ok || f->ports[i] == number;
    if (!ok)
        return bad_url(e, "has a port that this server does not ask");
    t->listed = host_listed(f, t->host);
    /* without an allowed network no address could make up for it */
    if (!f->public_hosts && !t->listed && f->n_nets == 0)
        return bad_url(e, "has a host that this server does not ask");
    return 0;
}

/* On success t->url is to be freed. */
static int open_target(const struct fetch *f, const char *url, struct target *t, struct err *e)
{
    const size_t n = strnlen(url, URL_BYTES_MAX + 1);
    if (n > URL_BYTES_MAX)
        return bad_url(e, "is too long");
    for (size_t i = 0; i < n; i++)
        if (url[i] <= ' ' || url[i] >= 0x7f)
            return bad_url(e, "has a space or a byte that is not ASCII: write it with %XX");
    /* libcurl would take one slash, and three */
    const size_t skip = strncasecmp(url, "https://", 8) == 0  ? 8
                        : strncasecmp(url, "http://", 7) == 0 ? 7
                                                              : 0;
    if (skip == 0 || url[skip] == '/')
        return bad_url(e, "must begin with http:// or https:// and a host");
    t->tls = skip == 8;
    t->url = curl_url();
    if (t->url == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the URL");
    const CURLUcode rc = curl_url_set(t->url, CURLUPART_URL, url, CURLU_DISALLOW_USER);
    int err = rc == CURLUE_OK ? read_target(f, t, e)
              : rc == CURLUE_USER_NOT_ALLOWED
                  ? bad_url(e, "has a user or a password: they are not taken")
                  : bad_url(e, "is not one");
    if (err != 0)
        curl_url_cleanup(t->url);
    return err;
}

int fetch_check(const struct fetch *f, const char *url, struct err *e)
{
    struct target t = {0};
    int err = open_target(f, url, &t, e);
    if (err == 0)
        curl_url_cleanup(t.url);
    return err;
}

/* ---- a hop ---- */

struct hop {
    const struct fetch *f;
    const struct fetch_request *r;
    const struct target *target;
    struct buf *out;
    CURL *curl;
    size_t extra_bytes; /* of headers, and of a redirect's text */
    long status;
    bool refused, gone, wrong_type, began;
};

static bool may_connect(const struct hop *h, const struct sockaddr *sa)
{
    struct netaddr a;
    if (!netaddr_of(&a, sa))
        return false;
    for (int i = 0; i < h->f->n_nets; i++)
        if (netaddr_in(&a, &h->f->nets[i]))
            return true;
    return (h->f->public_hosts || h->target->listed) && netaddr_is_public(&a);
}

/* The one door to the network: no address gets a socket that was not looked at. */
static curl_socket_t on_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct hop *h = ctx;
    if (purpose != CURLSOCKTYPE_IPCXN || h->refused || !may_connect(h, &a->addr)) {
        h->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static size_t on_header(char *data, size_t size, size_t n, void *ctx)
{
    (void)data;
    struct hop *h = ctx;
    h->extra_bytes += size * n;
    return h->extra_bytes <= EXTRA_BYTES_MAX ? size * n : 0;
}

static bool type_fits(const struct hop *h)
{
    const char *type = NULL;
    if (curl_easy_getinfo(h->curl, CURLINFO_CONTENT_TYPE, &type) != CURLE_OK)
        return false;
    return type == NULL || strncasecmp(type, "image/", 6) == 0 ||
           strncasecmp(type, "application/octet-stream", 24) == 0 ||
           strncasecmp(type, "binary/octet-stream", 19) == 0;
}

static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
    struct hop *h = ctx;
    if (!h->began) {
        h->began = true;
        curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &h->status);
        h->wrong_type = h->status == 200 && !type_fits(h);
    }
    if (h->status >= 300 && h->status < 400) /* read to its end: then libcurl knows where to */
        return on_header(data, size, n, ctx);
    if (h->status != 200 || h->wrong_type)
        return 0; /* not what is wanted: the rest is not read */
    return buf_add(h->out, data, size * n) == 0 ? size * n : 0;
}

static int on_progress(void *ctx, curl_off_t total, curl_off_t now, curl_off_t up_total,
                       curl_off_t up)
{
    (void)total, (void)now, (void)up_total, (void)up;
    struct hop *h = ctx;
    h->gone = h->r->gone != NULL && atomic_load(h->r->gone);
    return h->gone || clock_us() >= h->r->until_us;
}

static bool set_up(struct hop *h, struct curl_slist *headers)
{
    CURL *c = h->curl;
    const int64_t left_ms = (h->r->until_us - clock_us()) / 1000;
    bool ok = left_ms > 0;
#define SET(option, value) ok = ok && curl_easy_setopt(c, option, value) == CURLE_OK
    SET(CURLOPT_CURLU, h->target->url);
#if LIBCURL_VERSION_NUM >= 0x075500
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
    SET(CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
    SET(CURLOPT_QUICK_EXIT, 1L); /* a resolver that hangs is left behind, not waited for */
#endif
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOPROXY, "*");
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_HTTP_CONTENT_DECODING, 0L);
    SET(CURLOPT_FAILONERROR, 1L);
    SET(CURLOPT_USERAGENT, h->f->agent);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_OPENSOCKETFUNCTION, on_socket);
    SET(CURLOPT_OPENSOCKETDATA, h);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, h);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, h);
    SET(CURLOPT_NOPROGRESS, 0L);
    SET(CURLOPT_XFERINFOFUNCTION, on_progress);
    SET(CURLOPT_XFERINFODATA, h);
    SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)h->out->max);
    SET(CURLOPT_TIMEOUT_MS, (long)left_ms);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)left_ms);
    SET(CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES);
    SET(CURLOPT_LOW_SPEED_TIME, (long)SLOW_S);
#undef SET
    return ok;
}

/* Why there is no file, in the client's words: nothing about addresses, nor what a host said. */
static int explain(const struct hop *h, CURLcode rc, struct err *e)
{
    const char *host = h->target->host;
    if (h->gone)
        return err_set(e, ERR_CANCELLED, "the picture is not needed any more");
    if (h->out->failed || rc == CURLE_FILESIZE_EXCEEDED)
        return err_set(e, ERR_TOOBIG, "the file at %.80s has more than %zu bytes", host,
                       h->out->max);
    if (h->refused)
        err_set(e, ERR_INVALID, "%.80s has an address that this server does not ask", host);
    else if (rc == CURLE_OPERATION_TIMEDOUT || rc == CURLE_ABORTED_BY_CALLBACK)
        err_set(e, ERR_INVALID, "%.80s is too slow", host);
    else if (h->wrong_type)
        err_set(e, ERR_INVALID, "what %.80s sends is not a picture, by its Content-Type", host);
    else if (h->status != 0 && h->status != 200)
        err_set(e, ERR_INVALID, "%.80s answers with status %ld", host, h->status);
    else if (rc == CURLE_PARTIAL_FILE)
        err_set(e, ERR_INVALID, "%.80s ends in the middle of the file", host);
    else if (rc == CURLE_OK)
        err_set(e, ERR_INVALID, "%.80s sends an empty file", host);
    else
        err_set(e, ERR_INVALID, "%.80s cannot be asked: %s", host, curl_easy_strerror(rc));
    return err_reason(e, "invalid_image_url");
}

/* One request and its answer.  *next gets where a redirect leads (to be freed), else NULL. */
static int run_hop(struct hop *h, char **next, struct err *e)
{
    struct curl_slist *headers =
        curl_slist_append(NULL, "Accept: image/png, image/jpeg, image/webp");
    int err = 0;
    *next = NULL;
    h->curl = curl_easy_init();
    if (h->curl == NULL || headers == NULL || !set_up(h, headers)) {
        err = err_set(e, h->r->until_us <= clock_us() ? ERR_INVALID : ERR_NOMEM,
                      "%.80s cannot be asked in this time", h->target->host);
    } else {
        const CURLcode rc = curl_easy_perform(h->curl);
        char *location = NULL;
        curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &h->status);
        curl_easy_getinfo(h->curl, CURLINFO_REDIRECT_URL, &location);
        if (location != NULL && h->status >= 300 && h->status < 400)
            *next = xstrdup(location);
        else if (rc != CURLE_OK || h->status != 200 || h->out->len == 0)
            err = explain(h, rc, e);
    }
    curl_slist_free_all(headers);
    curl_easy_cleanup(h->curl);
    return err;
}

static int get(const struct fetch *f, const struct fetch_request *r, struct buf *out,
               struct target *t, struct err *e)
{
    char *url = xstrdup(r->url);
    bool was_tls = false;
    int err = 0;
    for (int hops = 0; url != NULL && err == 0; hops++) {
        struct hop h = {.f = f, .r = r, .target = t, .out = out};
        char *next = NULL;
        if (hops == HOPS_MAX)
            err = bad_url(e, "leads to one redirect after another");
        else if ((err = open_target(f, url, t, e)) == 0) {
            err = was_tls && !t->tls ? bad_url(e, "is redirected from https to http")
                                     : run_hop(&h, &next, e);
            curl_url_cleanup(t->url);
        }
        was_tls = t->tls;
        if (err != 0 && hops > 0 && err == ERR_INVALID)
            err_wrap(e, "after a redirect");
        free(url);
        url = next;
    }
    free(url);
    return err;
}

int fetch_get(const struct fetch *f, const struct fetch_request *r, struct buf *out, struct err *e)
{
    struct target t = {0};
    struct err why = {0};
    const int64_t start_us = clock_us();
    int err = get(f, r, out, &t, &why);
    struct log_line l;
    log_begin(&l, LOG_INFO, "fetch");
    log_str(&l, "id", r->id != NULL ? r->id : "");
    log_str(&l, "host", t.host);
    log_int(&l, "bytes", (int64_t)out->len);
    log_num(&l, "ms", (double)(clock_us() - start_us) / 1e3);
    if (err != 0)
        log_str(&l, "error", why.msg);
    log_end(&l);
    if (err != 0 && e != NULL)
        *e = why;
    return err;
}
