/* Strings of a JSON Schema: lengths, `pattern`, and those `format`s that are known, which are patterns too.
 *
 * A pattern and a length hold together where the length follows from the pattern, or can be put into it
 * (regex.h); else the schema is refused. */
#include <string.h>

#include "api/regex.h"
#include "api/schema.h"

#define DAY31   "(0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])"
#define DAY30   "(0[469]|11)-(0[1-9]|[12]\\d|30)"
#define DAY28   "02-(0[1-9]|1\\d|2[0-8])"
#define LEAP    "([1-9]\\d(0[48]|[2468][048]|[13579][26])|([2468][048]|1[26]|[3579][26])00)"
#define DATE    "([1-9]\\d{3}-(" DAY31 "|" DAY30 "|" DAY28 ")|" LEAP "-02-29)"
#define HOUR    "([01]\\d|2[0-3])"
#define TIME    HOUR ":[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]" HOUR ":[0-5]\\d)"
#define BYTE    "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4    BYTE "(\\." BYTE "){3}"
#define H16     "[0-9a-f]{1,4}"
#define LABEL   "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?"
#define HOST    LABEL "(\\." LABEL "){0,3}"
#define ATOM    "[A-Za-z0-9_+-]{1,20}"
#define SEGMENT "([A-Za-z0-9._~-]|%[0-9A-F]{2})"

/* All of them come to an end: a model that finds none must find one. */
static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"duration",
     "^P(\\d{1,6}W|(\\d{1,6}Y(\\d{1,6}M(\\d{1,6}D)?)?|\\d{1,6}M(\\d{1,6}D)?|\\d{1,6}D)(T"
     "\\d{1,6}[HMS])?|T(\\d{1,6}H(\\d{1,6}M(\\d{1,6}S)?)?|\\d{1,6}M(\\d{1,6}S)?|\\d{1,6}S))$"},
    {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
    {"email", "^" ATOM "(\\." ATOM "){0,2}@" LABEL "(\\." LABEL "){1,3}$"},
    {"hostname", "^" HOST "$"},
    {"ipv4", "^" IPV4 "$"},
    {"ipv6", "^((" H16 ":){7}" H16 "|(" H16 ":){1,6}:" H16 "|::(" H16 ":){0,5}" H16 "|::)$"},
    {"uri",
     "^[a-z][a-z0-9+.-]{1,9}://" HOST "(:[1-9]\\d{0,3})?(/" SEGMENT "{0,40}){0,8}(\\?(" SEGMENT "|["
     "=&]){1,60})?(#" SEGMENT "{0,40})?$"},
};

static int bad(const struct schema *s, struct err *e, const char *what)
{
    err_set(e, ERR_INVALID, "%s: %s", s->param, what);
    return err_param(e, "%s", s->param);
}

/* What the pattern or the format asks for; *name NULL: neither is there. */
static int find_pattern(const struct schema *s, const struct cJSON *v, const char **pattern,
                        const char **name, struct err *e)
{
    const struct cJSON *own = json_get(v, "pattern");
    const char *format = json_str(json_get(v, "format"));
    *pattern = json_str(own);
    *name = *pattern != NULL ? "pattern" : NULL;
    if (*pattern == NULL && json_type(own) != JSON_NULL)
        return bad(s, e, "pattern must be a string");
    for (size_t i = 0; i < sizeof formats / sizeof *formats && format != NULL; i++) {
        if (strcmp(formats[i].name, format) != 0)
            continue;
        if (*name != NULL)
            return schema_refuse(s, e, "a pattern cannot stand beside the format", format);
        *pattern = formats[i].pattern;
        *name = "format";
    }
    return 0;
}

int schema_string(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e)
{
    int min = 0, max = -1;
    const char *pattern, *name;
    int rc = schema_count(s, v, "minLength", &min, e);
    if (rc == 0)
        rc = schema_count(s, v, "maxLength", &max, e);
    if (rc == 0)
        rc = find_pattern(s, v, &pattern, &name, e);
    if (rc != 0)
        return rc;
    if (max >= 0 && max < min)
        return bad(s, e, "maxLength is less than minLength");
    *out = s->string;
    grammar_sym quote = grammar_str(s->g, "\""), inner = 0;
    if (name != NULL) {
        struct regex x = {.g = s->g,
                          .arena = s->arena,
                          .param = s->param,
                          .flags = REGEX_QUOTED | REGEX_SEARCH,
                          .least = min,
                          .most = max > 0 ? max : 0};
        if ((rc = regex_compile(&x, pattern, e)) != 0)
            return rc;
        if (x.min < min || (max >= 0 && (x.max < 0 || x.max > max)))
            return schema_refuse(s, e, "minLength and maxLength cannot be held to beside this",
                                 name);
        inner = x.sym;
    } else if (min > 0 || max >= 0) {
        inner = grammar_repeat(s->g, s->character, min, max);
    }
    if (inner != 0)
        *out = grammar_seq(s->g, 3, (grammar_sym[]){quote, inner, quote});
    return 0;
}
