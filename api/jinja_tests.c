/* The tests behind "is", select and selectattr, as jinja2 defines them. */
#include "api/jinja_int.h"

enum test_id {
    TEST_DEFINED,
    TEST_UNDEFINED,
    TEST_NONE,
    TEST_STRING,
    TEST_NUMBER,
    TEST_INTEGER,
    TEST_FLOAT,
    TEST_BOOLEAN,
    TEST_TRUE,
    TEST_FALSE,
    TEST_MAPPING,
    TEST_ITERABLE,
    TEST_SEQUENCE,
    TEST_CALLABLE,
    TEST_ESCAPED,
    TEST_ODD,
    TEST_EVEN,
    TEST_LOWER,
    TEST_UPPER,
    TEST_ARGUMENT, /* those below take one */
    TEST_DIVISIBLEBY,
    TEST_SAMEAS,
    TEST_IN,
    TEST_EQ,
    TEST_NE,
    TEST_LT,
    TEST_LE,
    TEST_GT,
    TEST_GE,
};

static const struct {
    const char *name;
    enum test_id id;
} tests[] = {
    {"defined", TEST_DEFINED},
    {"undefined", TEST_UNDEFINED},
    {"none", TEST_NONE},
    {"string", TEST_STRING},
    {"number", TEST_NUMBER},
    {"integer", TEST_INTEGER},
    {"float", TEST_FLOAT},
    {"boolean", TEST_BOOLEAN},
    {"true", TEST_TRUE},
    {"false", TEST_FALSE},
    {"mapping", TEST_MAPPING},
    {"iterable", TEST_ITERABLE},
    {"sequence", TEST_SEQUENCE},
    {"callable", TEST_CALLABLE},
    {"escaped", TEST_ESCAPED},
    {"odd", TEST_ODD},
    {"even", TEST_EVEN},
    {"lower", TEST_LOWER},
    {"upper", TEST_UPPER},
    {"divisibleby", TEST_DIVISIBLEBY},
    {"sameas", TEST_SAMEAS},
    {"in", TEST_IN},
    {"eq", TEST_EQ},
    {"equalto", TEST_EQ},
    {"==", TEST_EQ},
    {"ne", TEST_NE},
    {"!=", TEST_NE},
    {"lt", TEST_LT},
    {"lessthan", TEST_LT},
    {"<", TEST_LT},
    {"le", TEST_LE},
    {"<=", TEST_LE},
    {"gt", TEST_GT},
    {"greaterthan", TEST_GT},
    {">", TEST_GT},
    {"ge", TEST_GE},
    {">=", TEST_GE},
};

static bool is_iterable(struct jv v)
{
    return v.type == JV_UNDEF || v.type == JV_STR || v.type == JV_DICT || v.type == JV_LOOP ||
           jinja_has_list(v);
}

/* What has a length and items by index or key. */
static bool is_sequence(struct jv v)
{
    return v.type == JV_UNDEF || v.type == JV_STR || v.type == JV_DICT || jinja_is_seq(v);
}

static int modulo_is(struct jinja_ctx *c, struct jv v, struct jv by, int64_t want, bool *out)
{
    struct jv rest;
    int rc = jinja_binary(c, T_MOD, v, by, &rest);
    return rc == 0 ? jinja_equal(c, rest, jinja_int(want), 0, out) : rc;
}

/* str.isupper, str.islower of the value as text */
static int case_is(struct jinja_ctx *c, struct jv v, const char *method, bool *out)
{
    struct jv s, r;
    int rc = jinja_str(c, v, &s);
    if (rc != 0)
        return rc;
    struct jmethod m = {.self = s, .id = jinja_method_id(s, method, strlen(method))};
    rc = jinja_method_call(c, &m, &(struct jargs){0}, &r);
    *out = rc == 0 && jinja_truth(r);
    return rc;
}

static int same_as(struct jinja_ctx *c, struct jv a, struct jv b, bool *out)
{
    *out = false;
    if (a.type != b.type)
        return 0;
    if (jinja_is_num(a) || a.type == JV_STR || a.type == JV_NONE || a.type == JV_UNDEF)
        return jinja_equal(c, a, b, 0, out);
    *out = a.list == b.list;
    return 0;
}

static int test_plain(struct jinja_ctx *c, enum test_id id, struct jv v, bool *out)
{
    switch (id) {
    case TEST_DEFINED:
        *out = v.type != JV_UNDEF;
        return 0;
    case TEST_UNDEFINED:
        *out = v.type == JV_UNDEF;
        return 0;
    case TEST_NONE:
        *out = v.type == JV_NONE;
        return 0;
    case TEST_STRING:
        *out = v.type == JV_STR;
        return 0;
    case TEST_NUMBER:
        *out = jinja_is_num(v);
        return 0;
    case TEST_INTEGER:
        *out = v.type == JV_INT;
        return 0;
    case TEST_FLOAT:
        *out = v.type == JV_FLOAT;
        return 0;
    case TEST_BOOLEAN:
        *out = v.type == JV_BOOL;
        return 0;
    case TEST_TRUE:
        *out = v.type == JV_BOOL && v.b;
        return 0;
    case TEST_FALSE:
        *out = v.type == JV_BOOL && !v.b;
        return 0;
    case TEST_MAPPING:
        *out = v.type == JV_DICT;
        return 0;
    case TEST_ITERABLE:
        *out = is_iterable(v);
        return 0;
    case TEST_SEQUENCE:
        *out = is_sequence(v);
        return 0;
    case TEST_CALLABLE: /* Undefined has a __call__, which fails */
        *out = v.type >= JV_LOOP || v.type == JV_UNDEF;
        return 0;
    case TEST_ESCAPED:
        *out = v.type == JV_STR && v.safe;
        return 0;
    case TEST_ODD:
        return modulo_is(c, v, jinja_int(2), 1, out);
    case TEST_EVEN:
        return modulo_is(c, v, jinja_int(2), 0, out);
    case TEST_LOWER:
        return case_is(c, v, "islower", out);
    default:
        return case_is(c, v, "isupper", out);
    }
}

static int test_with(struct jinja_ctx *c, enum test_id id, struct jv v, struct jv arg, bool *out)
{
    switch (id) {
    case TEST_DIVISIBLEBY:
        return modulo_is(c, v, arg, 0, out);
    case TEST_SAMEAS:
        return same_as(c, v, arg, out);
    case TEST_IN:
        return jinja_in(c, v, arg, out);
    case TEST_EQ:
        return jinja_compare(c, T_EQ, v, arg, out);
    case TEST_NE:
        return jinja_compare(c, T_NE, v, arg, out);
    case TEST_LT:
        return jinja_compare(c, T_LT, v, arg, out);
    case TEST_LE:
        return jinja_compare(c, T_LE, v, arg, out);
    case TEST_GT:
        return jinja_compare(c, T_GT, v, arg, out);
    default:
        return jinja_compare(c, T_GE, v, arg, out);
    }
}

int jinja_test(struct jinja_ctx *c, struct jv name, struct jv in, const struct jargs *args,
               bool *out)
{
    int rc = jinja_charge(c, 0);
    *out = false;
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        if (!jinja_is_str(name, tests[i].name))
            continue;
        int want = tests[i].id > TEST_ARGUMENT ? 1 : 0;
        if (args->n != want)
            return jinja_fail(c, ERR_INVALID, "the test '%s' takes %d arguments, not %d",
                              tests[i].name, want, args->n);
        return want ? test_with(c, tests[i].id, in, args->items[0].v, out)
                    : test_plain(c, tests[i].id, in, out);
    }
    return jinja_fail(c, ERR_UNSUPPORTED, "there is no test '%.*s'",
                      (int)(name.n < 40 ? name.n : 40), name.s);
}
