/* safetensors files made by hand: what is read, and what is refused.  Runs under ASan and UBSan as
 * well, where a wrong byte read is a failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "engine/safetensors.h"

/* A file of this header and so many bytes 0, 1, 2 ... behind it. */
static void make(struct buf *b, const char *header, size_t header_len, size_t n_data)
{
    uint64_t n = header_len;
    buf_init(b, 64 << 20);
    buf_add(b, &n, sizeof n);
    buf_add(b, header, header_len);
    for (size_t i = 0; i < n_data; i++)
        buf_addc(b, (char)i);
    assert_false(b->failed);
}

static int open_bytes(struct safetensors **s, const void *p, size_t n, struct err *e)
{
    char path[64];
    int fd = memfd_create("safetensors", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    memset(e, 0, sizeof *e);
    int rc = safetensors_open(s, path, e);
    close(fd);
    return rc;
}

static struct safetensors *opened(const char *header, size_t n_data)
{
    struct buf b;
    struct err e;
    struct safetensors *s = NULL;
    make(&b, header, strlen(header), n_data);
    if (open_bytes(&s, b.data, b.len, &e) != 0)
        fail_msg("%s", e.msg);
    buf_free(&b);
    return s;
}

static void bytes_refused(const void *p, size_t n, int code, const char *words)
{
    struct err e;
    struct safetensors *s = NULL;
    int rc = open_bytes(&s, p, n, &e);
    if (rc == 0)
        safetensors_close(s);
    assert_int_equal(rc, code);
    assert_int_equal(e.code, code);
    if (strstr(e.msg, words) == NULL)
        fail_msg("no \"%s\" in \"%s\"", words, e.msg);
    for (const char *c = e.msg; *c != 0; c++)
        assert_true(*c >= ' ' && *c <= '~');
}

static void refused_as(int code, const char *header, size_t n_data, const char *words)
{
    struct buf b;
    make(&b, header, strlen(header), n_data);
    bytes_refused(b.data, b.len, code, words);
    buf_free(&b);
}

static void refused(const char *header, size_t n_data, const char *words)
{
    refused_as(ERR_CORRUPT, header, n_data, words);
}

/* ---- good files ---- */

static void safetensors_reads_types_shapes_and_data(void **state)
{
    (void)state;
    struct safetensors *s =
        opened("{\"__metadata__\":{\"format\":\"pt\",\"a.b\":\"x\"},"
               "\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
               "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
               "\"ids\":{\"dtype\":\"I64\",\"shape\":[1,1],\"data_offsets\":[16,24]},"
               "\"none\":{\"dtype\":\"BF16\",\"shape\":[7,0],\"data_offsets\":[24,24]}}   ",
               24);
    assert_int_equal(safetensors_n_tensors(s), 4);
    assert_string_equal(safetensors_tensor_at(s, 0)->name, "a");
    const struct safetensors_tensor *t = safetensors_find(s, "b");
    assert_non_null(t);
    assert_int_equal(t->type, DTYPE_F16);
    assert_int_equal(t->ndim, 2);
    assert_int_equal(t->dims[0], 2);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->bytes, 12);
    assert_int_equal(*(const char *)t->data, 4);
    t = safetensors_find(s, "a");
    assert_int_equal(t->ndim, 0);
    assert_int_equal(t->bytes, 4);
    t = safetensors_find(s, "ids");
    assert_int_equal(t->type, DTYPE_N);
    assert_string_equal(t->type_name, "I64");
    t = safetensors_find(s, "none");
    assert_int_equal(t->bytes, 0);
    assert_int_equal(t->dims[0], 7);
    assert_null(safetensors_find(s, "c"));
    assert_string_equal(safetensors_metadata(s, "format"), "pt");
    assert_null(safetensors_metadata(s, "b"));
    safetensors_close(s);
}

static void safetensors_without_tensors_is_a_file(void **state)
{
    (void)state;
    struct safetensors *s = opened("{}", 0);
    assert_int_equal(safetensors_n_tensors(s), 0);
    assert_null(safetensors_metadata(s, "format"));
    safetensors_close(s);
    safetensors_close(NULL);
}

/* ---- refusals ---- */

static void safetensors_refuses_what_is_no_header(void **state)
{
    (void)state;
    bytes_refused("", 0, ERR_CORRUPT, "0 bytes");
    bytes_refused("\2\0\0\0\0\0\0\0{", 9, ERR_CORRUPT, "9 bytes");
    bytes_refused("PK\3\4aaaaaaaaaaaa", 16, ERR_CORRUPT, "does not begin with {");
    bytes_refused("\x80\2\0\0\0\0\0\0{}", 10, ERR_CORRUPT, "incomplete");
    bytes_refused("\3\0\0\0\0\0\0\0{}", 10, ERR_CORRUPT, "incomplete");
    bytes_refused("\1\0\0\0\0\0\0\0{}", 10, ERR_CORRUPT, "JSON");
    bytes_refused("\377\377\377\377\377\377\377\377{}", 10, ERR_CORRUPT, "allowed are at most");
    bytes_refused("\1\0\0\1\0\0\0\0{}", 10, ERR_CORRUPT, "allowed are at most");
    refused("{", 1, "JSON");
    refused("{} x", 0, "JSON");
    refused("{\"a\":{\"b\":{\"c\":{\"d\":{}}}}}", 0, "JSON");
    refused("{\"\xff\":{}}", 0, "JSON");
    refused("{\"a\\u0000b\":{}}", 0, "JSON");
    assert_int_equal(safetensors_open(NULL, "/nonexistent/x", NULL), ERR_NOTFOUND);
}

static void safetensors_refuses_bad_entries(void **state)
{
    (void)state;
    refused("{\"a\":1}", 0, "is not described");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "is not described");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4,
            "is not described");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"offsets\":[0,4]}}", 4, "no data_offsets");
    refused("{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no dtype");
    refused_as(ERR_UNSUPPORTED, "{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,4]}}",
               4, "\"F4\", which is unknown");
    refused("{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "0 bytes");
    refused("{\"__metadata__\":[]}", 0, "not a small object");
    refused("{\"__metadata__\":{\"a\":1}}", 0, "a number");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
            8, "JSON");
    char long_name[400];
    memset(long_name, 'n', sizeof long_name);
    memcpy(long_name, "{\"", 2);
    static const char rest[] = "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    memcpy(long_name + sizeof long_name - sizeof rest, rest, sizeof rest);
    refused(long_name, 4, "allowed are 1 to 255");
}

static void safetensors_refuses_bad_shapes(void **state)
{
    (void)state;
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}}", 4, "no shape");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "whole number");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4,
            "whole number");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4,
            "whole number");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1e300],\"data_offsets\":[0,4]}}", 4,
            "whole number");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
            "more than 8 dimensions");
    /* 2^62 * 4 bytes is 0 in 64 bits. */
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483648,2147483648],\"data_offsets\":[0,0]}}",
            0, "overflows");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
            0, "overflows");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4294967296,4294967296],"
            "\"data_offsets\":[0,0]}}",
            0, "overflows");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "needs 8");
    refused("{\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "needs 2");
}

static void safetensors_refuses_bad_offsets(void **state)
{
    (void)state;
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "no data_offsets");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4,
            "no data_offsets");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4,
            "no data_offsets");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "ends before");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, "incomplete");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
            "\"data_offsets\":[9007199254740988,9007199254740992]}}",
            4, "incomplete");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5,
            "the file has 5");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "gap");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
            6, "overlaps");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
            4, "overlaps");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[2,2]}}",
            4, "overlaps");
}

static void safetensors_refuses_more_entries_than_allowed(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 64 << 20);
    for (int i = 0; i <= SAFETENSORS_MAX_TENSORS; i++)
        buf_printf(&b, "%c\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                   i == 0 ? '{' : ',', i);
    buf_addc(&b, '}');
    refused(buf_str(&b), 0, "entries");
    buf_clear(&b);
    buf_adds(&b, "{\"a\":[");
    for (int i = 0; i < 3 << 20; i++)
        buf_adds(&b, "0,");
    buf_adds(&b, "0]}");
    refused(buf_str(&b), 0, "JSON");
    buf_free(&b);
}

static void safetensors_survives_a_cut_at_every_byte(void **state)
{
    (void)state;
    struct buf b;
    static const char header[] =
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}";
    make(&b, header, sizeof header - 1, 16);
    for (size_t n = 0; n < b.len; n++)
        bytes_refused(b.data, n, ERR_CORRUPT, "");
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(safetensors_reads_types_shapes_and_data),
        cmocka_unit_test(safetensors_without_tensors_is_a_file),
        cmocka_unit_test(safetensors_refuses_what_is_no_header),
        cmocka_unit_test(safetensors_refuses_bad_entries),
        cmocka_unit_test(safetensors_refuses_bad_shapes),
        cmocka_unit_test(safetensors_refuses_bad_offsets),
        cmocka_unit_test(safetensors_refuses_more_entries_than_allowed),
        cmocka_unit_test(safetensors_survives_a_cut_at_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
