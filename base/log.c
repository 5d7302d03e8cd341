/* One line an event, built in a fixed buffer and written with one write(), so that lines of several
 * threads do not mix.  What does not fit is cut so that the line stays well-formed.
 * Nobody waits for who reads the log: lines that a full pipe does not take are counted, and the next one tells. */
#include "base/log.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/utf8.h"

enum { LIMIT = 4096 - 4 }; /* after it there is always room for a quote, '}' and the newline */

static _Atomic int min_level = LOG_INFO;
static _Atomic bool as_json = false;
static pthread_mutex_t writing =
    PTHREAD_MUTEX_INITIALIZER; /* nobody waits within: a ready pipe does not block */
static int64_t n_lost;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_init(enum log_level level, bool json)
{
    min_level = (int)level;
    as_json = json;
}

bool log_on(enum log_level level)
{
    return level != LOG_OFF && (int)level >= min_level;
}

/* All or nothing. */
static bool add(struct log_line *l, const char *p, size_t n)
{
    if ((size_t)l->len + n > LIMIT)
        return false;
    memcpy(l->text + l->len, p, n);
    l->len += (int)n;
    return true;
}

static bool adds(struct log_line *l, const char *s)
{
    return add(l, s, strlen(s));
}

/* Quoted, as far as it fits.  Control characters (also U+0080..U+009F, which terminals obey) and
 * invalid UTF-8 are written as escapes. */
static void add_quoted(struct log_line *l, const char *s)
{
    size_t n = strlen(s);
    bool fits = adds(l, "\"");
    for (size_t i = 0; i < n && fits;) {
        uint32_t cp;
        int len = utf8_decode(s + i, n - i, &cp);
        char esc[8] = {'\\', (char)cp, '\0'};
        if (cp == '"' || cp == '\\') {
            fits = adds(l, esc);
        } else if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || cp == 0xFFFD) {
            snprintf(esc, sizeof esc, "\\u%04x", (unsigned)cp & 0xFFFF);
            fits = adds(l, esc);
        } else {
            fits = add(l, s + i, (size_t)len);
        }
        i += (size_t)len;
    }
    l->text[l->len++] = '"'; /* the tail has room */
}

static bool is_plain(const char *s)
{
    if (*s == '\0')
        return false;
    for (; *s != '\0'; s++) {
        if (*s <= ' ' || *s > '~' || *s == '"' || *s == '\\' || *s == '=')
            return false;
    }
    return true;
}

/* The key and what stands around it; false when nothing more fits. */
static bool add_key(struct log_line *l, const char *key)
{
    size_t n = strlen(key);
    if (!l->on || (size_t)l->len + n + 8 > LIMIT)
        return false;
    adds(l, as_json ? ",\"" : " ");
    add(l, key, n);
    adds(l, as_json ? "\":" : "=");
    return true;
}

/* A number that does not fit is left out with its key. */
static void add_number(struct log_line *l, const char *key, const char *text)
{
    int before = l->len;
    if (add_key(l, key) && !adds(l, text))
        l->len = before;
}

void log_begin(struct log_line *l, enum log_level level, const char *event)
{
    l->level = level;
    l->on = log_on(level);
    l->len = 0;
    if (!l->on)
        return;
    struct timespec now;
    struct tm tm;
    char stamp[64];
    clock_gettime(CLOCK_REALTIME, &now);
    if (as_json) {
        gmtime_r(&now.tv_sec, &tm);
        size_t n = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
        snprintf(stamp + n, sizeof stamp - n, ".%03dZ", (int)(now.tv_nsec / 1000000));
        adds(l, "{\"time\":\"");
        adds(l, stamp);
        adds(l, "\",\"level\":\"");
        adds(l, level_names[level]);
        adds(l, "\",\"event\":");
        add_quoted(l, event);
        return;
    }
    localtime_r(&now.tv_sec, &tm);
    strftime(stamp, sizeof stamp, "%H:%M:%S ", &tm);
    adds(l, stamp);
    snprintf(stamp, sizeof stamp, "%-5s ", level_names[level]);
    adds(l, stamp);
    adds(l, event);
}

void log_str(struct log_line *l, const char *key, const char *v)
{
    int before = l->len;
    if (!add_key(l, key))
        return;
    if (v == NULL) {
        if (!adds(l, as_json ? "null" : "-"))
            l->len = before;
    } else if (as_json || !is_plain(v) || !adds(l, v)) {
        add_quoted(l, v);
    }
}

void log_int(struct log_line *l, const char *key, int64_t v)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)v);
    add_number(l, key, text);
}

void log_num(struct log_line *l, const char *key, double v)
{
    char text[32];
    if (isfinite(v))
        snprintf(text, sizeof text, fabs(v) < 1e15 ? "%.3f" : "%.6g", v);
    else
        snprintf(text, sizeof text, "null");
    add_number(l, key, text);
}

/* false: there is no room.  A pipe that is ready takes PIPE_BUF bytes at once, and a line has no more. */
static bool put_line(struct log_line *l)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&out, 1, 0) == 0)
        return false;
    if (as_json)
        l->text[l->len++] = '}';
    l->text[l->len++] = '\n';
    if (write(STDERR_FILENO, l->text, (size_t)l->len) < 0)
        return true; /* nowhere left to complain */
    return true;
}

static bool tell_lost(void)
{
    struct log_line l;
    log_begin(&l, LOG_ERROR, "log.lost");
    log_int(&l, "lines", n_lost);
    return put_line(&l);
}

void log_end(struct log_line *l)
{
    if (!l->on)
        return;
    l->on = false;
    pthread_mutex_lock(&writing);
    if (n_lost > 0 && tell_lost())
        n_lost = 0;
    if (n_lost > 0 || !put_line(l))
        n_lost++;
    pthread_mutex_unlock(&writing);
}

void log_msg(enum log_level level, const char *event, const char *fmt, ...)
{
    struct log_line l;
    log_begin(&l, level, event);
    if (!l.on)
        return;
    char msg[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    log_str(&l, "msg", msg);
    log_end(&l);
}
