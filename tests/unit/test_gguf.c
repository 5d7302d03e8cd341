/* GGUF files made byte by byte: what is read, and what is refused.  The refusals are reproductions of
 * published vulnerabilities of other readers; each test names them.  Runs under ASan and UBSan as
 * well, where a wrong byte read is a failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/gguf.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 };

/* ---- a file in the making ---- */

struct maker {
    char data[1 << 16];
    size_t n;
};
static struct maker mk;

static void put(const void *p, size_t n)
{
    assert_true(mk.n + n <= sizeof mk.data);
    memcpy(mk.data + mk.n, p, n);
    mk.n += n;
}

static void put_u32(uint32_t v)
{
    put(&v, sizeof v);
}

static void put_u64(uint64_t v)
{
    put(&v, sizeof v);
}

static void put_str(const char *s)
{
    put_u64(strlen(s));
    put(s, strlen(s));
}

static void start_version(uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    mk.n = 0;
    put("GGUF", 4);
    put_u32(version);
    put_u64(n_tensors);
    put_u64(n_kv);
}

static void start(uint64_t n_tensors, uint64_t n_kv)
{
    start_version(3, n_tensors, n_kv);
}

static void put_kv(const char *key, uint32_t type, const void *v, size_t n)
{
    put_str(key);
    put_u32(type);
    put(v, n);
}

static void put_kv_u32(const char *key, uint32_t v)
{
    put_kv(key, U32, &v, sizeof v);
}

static void put_array(const char *key, uint32_t elem, uint64_t n)
{
    put_str(key);
    put_u32(ARR);
    put_u32(elem);
    put_u64(n);
}

/* A tensor of the table; dims as the file has them, the fastest first. */
static void put_tensor(const char *name, uint32_t type, uint64_t offset, uint32_t ndim,
                       const uint64_t *dims)
{
    put_str(name);
    put_u32(ndim);
    for (uint32_t d = 0; d < ndim; d++)
        put_u64(dims[d]);
    put_u32(type);
    put_u64(offset);
}

static void put_vector(const char *name, uint64_t n, uint64_t offset)
{
    put_tensor(name, 0, offset, 1, &n);
}

static void pad(size_t alignment)
{
    while (mk.n % alignment != 0)
        put("", 1);
}

static void put_zeros(size_t n)
{
    while (n-- > 0)
        put("", 1);
}

static int open_bytes(struct gguf **g, const void *p, size_t n, struct err *e)
{
    char path[64];
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    memset(e, 0, sizeof *e);
    int rc = gguf_open(g, path, e);
    close(fd);
    return rc;
}

static struct gguf *opened(void)
{
    struct gguf *g = NULL;
    struct err e;
    if (open_bytes(&g, mk.data, mk.n, &e) != 0)
        fail_msg("%s", e.msg);
    return g;
}

/* What was made is refused, with these words in the message. */
static void refused_as(int code, const char *words)
{
    struct gguf *g = NULL;
    struct err e;
    int rc = open_bytes(&g, mk.data, mk.n, &e);
    if (rc == 0)
        gguf_close(g);
    assert_int_equal(rc, code);
    if (strstr(e.msg, words) == NULL)
        fail_msg("no \"%s\" in \"%s\"", words, e.msg);
    for (const char *p = e.msg; *p != 0; p++)
        assert_true(*p >= ' ' && *p <= '~');
}

static void refused(const char *words)
{
    refused_as(ERR_CORRUPT, words);
}

/* ---- good files ---- */

static void put_all_kinds(void)
{
    const uint8_t u8 = 200;
    const int8_t i8 = -100;
    const uint16_t u16 = 60000;
    const int16_t i16 = -30000;
    const int32_t i32 = -2000000000;
    const uint64_t u64 = UINT64_MAX;
    const int64_t i64 = -5000000000;
    const float f32 = 1.5f;
    const double f64 = -2.25;
    put_kv("u8", U8, &u8, 1);
    put_kv("i8", I8, &i8, 1);
    put_kv("u16", U16, &u16, 2);
    put_kv("i16", I16, &i16, 2);
    put_kv_u32("u32", 4000000000u);
    put_kv("i32", I32, &i32, 4);
    put_kv("u64", U64, &u64, 8);
    put_kv("i64", I64, &i64, 8);
    put_kv("f32", F32, &f32, 4);
    put_kv("f64", F64, &f64, 8);
    put_kv("bool", BOOL, "\1", 1);
    put_kv("odd bool", BOOL, "\2", 1);
    put_str("str");
    put_u32(STR);
    put_str("text");
    put_array("strs", STR, 2);
    put_str("one");
    put_str("");
    put_array("ints", I16, 3);
    put("\1\0\377\377\0\200", 6);
    put_array("floats", F32, 1);
    put(&f32, 4);
}

static int64_t int_of(const struct gguf *g, const char *key)
{
    int64_t v = -1;
    struct err e = {0};
    assert_int_equal(gguf_get_int(g, key, &v, INT64_MIN, INT64_MAX, &e), 0);
    return v;
}

static void gguf_reads_all_kinds_of_values(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        start_version(version, 0, 16);
        put_all_kinds();
        struct gguf *g = opened();
        assert_int_equal(int_of(g, "u8"), 200);
        assert_int_equal(int_of(g, "i8"), -100);
        assert_int_equal(int_of(g, "u16"), 60000);
        assert_int_equal(int_of(g, "i16"), -30000);
        assert_true(int_of(g, "u32") == 4000000000);
        assert_int_equal(int_of(g, "i32"), -2000000000);
        assert_true(int_of(g, "u64") == INT64_MAX);
        assert_true(int_of(g, "i64") == -5000000000);
        struct err e = {0};
        float f = 0;
        bool b = false;
        struct gguf_str s = {0};
        assert_int_equal(gguf_get_float(g, "f32", &f, &e), 0);
        assert_true(f == 1.5f);
        assert_int_equal(gguf_get_float(g, "f64", &f, &e), 0);
        assert_true(f == -2.25f);
        assert_int_equal(gguf_get_bool(g, "bool", &b, &e), 0);
        assert_true(b);
        assert_int_equal(gguf_get_str(g, "str", &s, &e), 0);
        assert_int_equal(s.len, 4);
        assert_memory_equal(s.data, "text", 4);
        assert_true(gguf_has(g, "strs") && !gguf_has(g, "str ") && !gguf_has(g, ""));
        gguf_close(g);
    }
}

static void gguf_reads_arrays(void **state)
{
    (void)state;
    start(0, 16);
    put_all_kinds();
    struct gguf *g = opened();
    struct gguf_arr a;
    struct err e = {0};
    assert_int_equal(gguf_get_strs(g, "strs", &a, &e), 0);
    assert_int_equal(a.n, 2);
    assert_memory_equal(a.strs[0].data, "one", 3);
    assert_int_equal(a.strs[1].len, 0);
    assert_int_equal(gguf_get_ints(g, "ints", &a, &e), 0);
    assert_int_equal(a.n, 3);
    assert_int_equal(gguf_arr_int(&a, 0), 1);
    assert_int_equal(gguf_arr_int(&a, 1), -1);
    assert_int_equal(gguf_arr_int(&a, 2), -32768);
    assert_int_equal(gguf_get_floats(g, "floats", &a, &e), 0);
    assert_true(a.n == 1 && gguf_arr_float(&a, 0) == 1.5f);
    assert_int_equal(gguf_get_floats(g, "absent", &a, &e), 0);
    assert_int_equal(a.n, 0);
    assert_int_equal(gguf_get_ints(g, "absent", &a, &e), 0);
    assert_int_equal(a.n, 0);
    assert_int_equal(gguf_get_strs(g, "absent", &a, &e), 0);
    assert_int_equal(a.n, 0);
    gguf_close(g);
}

static void gguf_absent_values_are_left_alone(void **state)
{
    (void)state;
    start(0, 0);
    struct gguf *g = opened();
    int64_t i = 7;
    float f = 7;
    bool b = true;
    struct gguf_str s = {"x", 1};
    struct err e = {0};
    assert_int_equal(gguf_get_int(g, "k", &i, 0, 1, &e), 0);
    assert_int_equal(gguf_get_float(g, "k", &f, &e), 0);
    assert_int_equal(gguf_get_bool(g, "k", &b, &e), 0);
    assert_int_equal(gguf_get_str(g, "k", &s, &e), 0);
    assert_true(i == 7 && f == 7 && b && s.len == 1);
    assert_int_equal(gguf_n_tensors(g), 0);
    assert_null(gguf_tensor_find(g, "x"));
    gguf_close(g);
}

static void expect_kind(int rc, struct err *e, const char *key)
{
    assert_int_equal(rc, ERR_CORRUPT);
    assert_non_null(strstr(e->msg, key));
    memset(e, 0, sizeof *e);
}

/* CVE-2024-8063 and llama.cpp's scores read as another type (A2.8, A2.10) */
static void gguf_values_of_another_kind_are_named(void **state)
{
    (void)state;
    start(0, 18);
    put_all_kinds();
    const float inf = INFINITY;
    put_kv("inf", F32, &inf, 4);
    put_array("bytes", U8, 3);
    put("abc", 3);
    struct gguf *g = opened();
    struct err e = {0};
    struct gguf_arr a;
    struct gguf_str s;
    int64_t i = 0;
    float f = 0;
    bool b = false;
    expect_kind(gguf_get_int(g, "f32", &i, 0, 9, &e), &e, "f32");
    expect_kind(gguf_get_int(g, "str", &i, 0, 9, &e), &e, "str");
    expect_kind(gguf_get_int(g, "ints", &i, 0, 9, &e), &e, "array of i16");
    expect_kind(gguf_get_int(g, "bool", &i, 0, 9, &e), &e, "bool");
    expect_kind(gguf_get_int(g, "u8", &i, 0, 199, &e), &e, "200");
    expect_kind(gguf_get_int(g, "i8", &i, -99, 0, &e), &e, "-100");
    expect_kind(gguf_get_float(g, "u32", &f, &e), &e, "u32");
    expect_kind(gguf_get_float(g, "inf", &f, &e), &e, "inf");
    expect_kind(gguf_get_bool(g, "u8", &b, &e), &e, "u8");
    expect_kind(gguf_get_bool(g, "odd bool", &b, &e), &e, "odd bool");
    expect_kind(gguf_get_str(g, "strs", &s, &e), &e, "array of string");
    expect_kind(gguf_get_strs(g, "ints", &a, &e), &e, "ints");
    expect_kind(gguf_get_strs(g, "str", &a, &e), &e, "str");
    expect_kind(gguf_get_ints(g, "floats", &a, &e), &e, "floats");
    expect_kind(gguf_get_ints(g, "strs", &a, &e), &e, "strs");
    expect_kind(gguf_get_floats(g, "bytes", &a, &e), &e, "bytes");
    expect_kind(gguf_get_floats(g, "f32", &a, &e), &e, "f32");
    gguf_close(g);
}

static void gguf_finds_tensors_in_pytorch_order(void **state)
{
    (void)state;
    start(2, 1);
    put_kv_u32("general.alignment", 64);
    put_tensor("q", 8, 64, 3, (const uint64_t[]){32, 2, 3}); /* q8_0 */
    put_vector("v", 5, 0);
    pad(64);
    const float five[5] = {1, 2, 3, 4, 5};
    put(five, sizeof five);
    pad(64);
    put_zeros(6 * 34);
    struct gguf *g = opened();
    assert_int_equal(gguf_n_tensors(g), 2);
    const struct gguf_tensor *q = gguf_tensor_find(g, "q"), *v = gguf_tensor_find(g, "v");
    assert_ptr_equal(q, gguf_tensor_at(g, 0));
    assert_true(q->ndim == 3 && q->dims[0] == 3 && q->dims[1] == 2 && q->dims[2] == 32);
    assert_true(q->type == DTYPE_Q8_0 && q->bytes == 6 * 34);
    assert_true(v->ndim == 1 && v->dims[0] == 5 && v->bytes == sizeof five);
    assert_memory_equal(v->data, five, sizeof five);
    assert_true(gguf_file(g)->size == mk.n);
    gguf_close(g);
}

/* ---- bad files ---- */

/* CVE-2024-39720 (A2.10): four bytes of magic and nothing else. */
static void gguf_every_cut_of_a_header_is_refused(void **state)
{
    (void)state;
    start(1, 16);
    put_all_kinds();
    put_vector("v", 8, 0);
    pad(32);
    put_zeros(32);
    gguf_close(opened());
    struct maker whole = mk;
    for (size_t n = 0; n < whole.n; n++) {
        struct gguf *g = NULL;
        struct err e;
        assert_int_equal(open_bytes(&g, whole.data, n, &e), ERR_CORRUPT);
        assert_true(e.msg[0] != 0);
    }
}

static void gguf_other_versions_are_named(void **state)
{
    (void)state;
    start_version(1, 0, 0);
    refused_as(ERR_UNSUPPORTED, "version 1");
    start_version(4, 0, 0);
    refused_as(ERR_UNSUPPORTED, "version 4");
    start_version(0, 0, 0);
    refused_as(ERR_UNSUPPORTED, "version 0");
    start_version(0x03000000, 0, 0);
    refused_as(ERR_UNSUPPORTED, "big-endian");
    mk.data[0] = 'X';
    refused("not a GGUF file");
}

/* CVE-2024-23605, -23496, -21802, -21825, -21836 (A2.1) */
static void gguf_counts_beyond_the_file_are_refused(void **state)
{
    (void)state;
    const uint64_t counts[] = {1,          2,          65536,     65537,      1ull << 32,
                               1ull << 58, 1ull << 61, INT64_MAX, UINT64_MAX, UINT64_MAX / 48 + 1};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        start(0, counts[i]);
        refused("keys");
        start(counts[i], 0);
        refused("tensors");
    }
}

/* CVE-2025-49847 (A2.2) and ollama #17042 (A2.12) */
static void gguf_lengths_beyond_the_file_are_refused(void **state)
{
    (void)state;
    const uint64_t lengths[] = {100,       INT32_MAX,  1ull << 31,     1ull << 32,
                                INT64_MAX, 1ull << 63, UINT64_MAX - 8, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        start(0, 1); /* of a key */
        put_u64(lengths[i]);
        put_zeros(20);
        refused("key");
        start(0, 1); /* of a string */
        put_str("k");
        put_u32(STR);
        put_u64(lengths[i]);
        refused("string of");
        start(1, 0); /* of a tensor's name */
        put_u64(lengths[i]);
        put_zeros(40);
        refused("tensor name");
        for (uint32_t elem = U8; elem <= F64; elem++) { /* of an array */
            start(0, 1);
            put_array("k", elem, lengths[i]);
            put_zeros(7);
            refused(elem == ARR ? "arrays of arrays" : "longer than the rest");
        }
        start(0, 1); /* of a string in an array */
        put_array("k", STR, 1);
        put_u64(lengths[i]);
        refused("string of an array");
    }
}

static void gguf_unknown_types_are_named(void **state)
{
    (void)state;
    start(0, 1);
    put_kv("k\n", 13, "abcd", 4);
    refused("\"k?\" has the unknown value type 13");
    start(0, 1);
    put_array("k", 13, 0);
    refused("unknown array element type 13");
    const uint32_t types[] = {4, 5, 9, 16, 31, 40, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        start(1, 0);
        put_tensor("odd", types[i], 0, 1, (const uint64_t[]){256});
        pad(32);
        put_zeros(256);
        char words[64];
        snprintf(words, sizeof words, "\"odd\" has the type %u", types[i]);
        refused(words);
    }
}

static void gguf_names_are_checked(void **state)
{
    (void)state;
    start(0, 2);
    put_kv_u32("twice", 1);
    put_kv_u32("twice", 2);
    refused("duplicate key \"twice\"");
    start(0, 1);
    put_kv_u32("", 1);
    refused("key has 0 bytes");
    start(0, 1);
    put_u64(3);
    put("a\0b", 3);
    put_zeros(8);
    refused("NUL");
    start(2, 0);
    put_vector("twice", 8, 0);
    put_vector("twice", 8, 32);
    refused("duplicate tensor \"twice\"");
    char name[257];
    memset(name, 'n', 256);
    name[256] = 0;
    start(1, 0);
    put_vector(name, 8, 0);
    refused("tensor name has 256 bytes");
}

/* The open division by zero of A2.6, and dimensions outside 1 ... 4 */
static void gguf_dimensions_are_checked(void **state)
{
    (void)state;
    const uint64_t zero[4] = {8, 0, 8, 8}, big[2] = {8, 1ull << 63}, five[5] = {1, 1, 1, 1, 1};
    start(1, 0);
    put_tensor("t", 0, 0, 4, zero);
    refused("dimension of 0");
    start(1, 0);
    put_tensor("t", 0, 0, 2, big);
    refused("dimension of 9223372036854775808");
    start(1, 0);
    put_tensor("t", 0, 0, 0, zero);
    put_zeros(8);
    refused("0 dimensions");
    start(1, 0);
    put_tensor("t", 0, 0, 5, five);
    refused("5 dimensions");
    start(1, 0);
    put_tensor("t", 2, 0, 1, (const uint64_t[]){33}); /* q4_0 */
    refused("not whole blocks of q4_0");
    start(1, 0);
    put_tensor("t", 12, 0, 1, (const uint64_t[]){128}); /* q4_K */
    refused("not whole blocks");
}

/* CVE-2025-53630, CVE-2026-27940, CVE-2026-33298 (A2.4, A2.5) */
static void gguf_sizes_that_wrap_are_refused(void **state)
{
    (void)state;
    const uint64_t dims[][4] = {{1ull << 32, 1ull << 32, 1, 1},
                                {1ull << 62, 2, 1, 1},
                                {1ull << 62, 1, 1, 1},
                                {1ull << 61, 8, 1, 1},
                                {0x4000000000000001, 4, 1, 1},
                                {1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16},
                                {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX}};
    const uint32_t types[] = {0, 1, 30};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        for (int t = 0; t < 3; t++) {
            start(1, 0);
            put_tensor("t", types[t], 0, 4, dims[i]);
            pad(32);
            put_zeros(64);
            struct gguf *g = NULL;
            struct err e;
            assert_int_equal(open_bytes(&g, mk.data, mk.n, &e), ERR_CORRUPT);
        }
    }
    start(1, 0);
    put_tensor("t", 8, 0, 2, (const uint64_t[]){1ull << 60, 32});
    refused("overflows");
    start(3, 0); /* their sum wraps */
    put_vector("a", 1ull << 60, 0);
    put_vector("b", 1ull << 60, 1ull << 62);
    put_vector("c", 1ull << 60, 1ull << 63);
    put_zeros(64);
    refused("incomplete download");
}

/* general.alignment of 0x80000000 or of type i32 (A2.7) */
static void gguf_alignment_is_checked(void **state)
{
    (void)state;
    const uint32_t wrong[] = {0, 1, 4, 7, 24, 48, 65537, 1u << 17, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        start(0, 1);
        put_kv_u32("general.alignment", wrong[i]);
        refused("general.alignment is");
    }
    const int32_t minus = INT32_MIN;
    start(0, 1);
    put_kv("general.alignment", I32, &minus, 4);
    refused("not u32");
    start(0, 1);
    put_kv("general.alignment", U64, "\40\0\0\0\0\0\0\0", 8);
    refused("not u32");
    start(1, 1);
    put_kv_u32("general.alignment", 8);
    put_vector("t", 1, 8);
    pad(8);
    put_zeros(12);
    gguf_close(opened());
}

/* CVE-2026-7482 (A2.11) */
static void gguf_tensors_lie_within_the_file_and_apart(void **state)
{
    (void)state;
    const uint64_t offsets[] = {32, 64, 1ull << 40, INT64_MAX - 31, 1ull << 63, UINT64_MAX - 31};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        start(1, 0);
        put_vector("t", 8, offsets[i]);
        pad(32);
        put_zeros(32);
        refused(offsets[i] > UINT64_MAX - 4096 ? "overflows" : "incomplete download");
    }
    start(1, 0);
    put_vector("t", 8, 1);
    put_zeros(128);
    refused("not aligned");
    start(2, 0);
    put_vector("b", 9, 0);
    put_vector("a", 8, 32);
    put_zeros(128);
    refused("overlap");
    start(2, 0);
    put_vector("b", 8, 0);
    put_vector("a", 8, 0);
    put_zeros(128);
    refused("overlap");
    start(1, 0); /* one byte is missing */
    put_vector("t", 9, 0);
    pad(32);
    put_zeros(35);
    char words[64];
    snprintf(words, sizeof words, "describes %zu bytes but the file has %zu", mk.n + 1, mk.n);
    refused(words);
}

static void gguf_missing_files_are_named(void **state)
{
    (void)state;
    struct gguf *g = NULL;
    struct err e = {0};
    assert_int_equal(gguf_open(&g, "/nonexistent/model.gguf", &e), ERR_NOTFOUND);
    assert_int_equal(gguf_open(&g, "/", &e), ERR_IO);
    gguf_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_reads_all_kinds_of_values),
        cmocka_unit_test(gguf_reads_arrays),
        cmocka_unit_test(gguf_absent_values_are_left_alone),
        cmocka_unit_test(gguf_values_of_another_kind_are_named),
        cmocka_unit_test(gguf_finds_tensors_in_pytorch_order),
        cmocka_unit_test(gguf_every_cut_of_a_header_is_refused),
        cmocka_unit_test(gguf_other_versions_are_named),
        cmocka_unit_test(gguf_counts_beyond_the_file_are_refused),
        cmocka_unit_test(gguf_lengths_beyond_the_file_are_refused),
        cmocka_unit_test(gguf_unknown_types_are_named),
        cmocka_unit_test(gguf_names_are_checked),
        cmocka_unit_test(gguf_dimensions_are_checked),
        cmocka_unit_test(gguf_sizes_that_wrap_are_refused),
        cmocka_unit_test(gguf_alignment_is_checked),
        cmocka_unit_test(gguf_tensors_lie_within_the_file_and_apart),
        cmocka_unit_test(gguf_missing_files_are_named),
    };
    return cmocka_run_group_tests_name("engine/gguf", tests, NULL, NULL);
}
