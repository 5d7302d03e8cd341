/* Error messages: formatted, cut at a character border, kept on one line. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Text from requests and files ends up in messages, so control characters become spaces. */
static void one_line(char *s)
{
    s[utf8_whole(s, strlen(s))] = '\0';
    for (; *s != '\0'; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = ' ';
    }
}

/* A caller that passes no err still needs a failure, not 0. */
static int code_of(const struct err *e)
{
    return e != NULL ? e->code : ERR_INVALID;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (e == NULL)
        return code;
    struct err fresh = {.code = code};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(fresh.msg, sizeof fresh.msg, fmt, ap);
    va_end(ap);
    one_line(fresh.msg);
    *e = fresh; /* only now: the arguments may point into *e */
    return code;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    if (e == NULL)
        return code_of(e);
    char msg[2 * sizeof e->msg + 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    size_t n = strlen(msg);
    snprintf(msg + n, sizeof msg - n, ": %s", e->msg);
    msg[sizeof e->msg - 1] = '\0';
    one_line(msg);
    memcpy(e->msg, msg, sizeof e->msg);
    return e->code;
}

int err_param(struct err *e, const char *fmt, ...)
{
    if (e == NULL)
        return code_of(e);
    char param[sizeof e->param];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(param, sizeof param, fmt, ap);
    va_end(ap);
    one_line(param);
    memcpy(e->param, param, sizeof param);
    return e->code;
}

int err_reason(struct err *e, const char *reason)
{
    if (e != NULL)
        snprintf(e->reason, sizeof e->reason, "%s", reason);
    return code_of(e);
}

struct err_shown err_shown(const char *s, size_t n)
{
    struct err_shown out;
    const size_t k = n < ERR_SHOWN ? n : ERR_SHOWN;
    for (size_t i = 0; i < k; i++)
        out.text[i] = s[i] >= ' ' && s[i] <= '~' ? s[i] : '?';
    memcpy(out.text + k, k < n ? "..." : "\0\0\0", 4);
    return out;
}

struct err_shown err_shown_str(const char *s)
{
    return err_shown(s, strlen(s));
}
