/* Arenas: alignment, zeroes, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"

static void arena_alloc_is_aligned_zeroed_and_separate(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1 << 24);
    static unsigned char *pieces[2000];
    for (size_t i = 0; i < 2000; i++) {
        size_t n = i * 7 % 300;
        pieces[i] = arena_alloc(&a, n);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(pieces[i][k], 0);
        memset(pieces[i], (int)(i & 0xFF), n);
    }
    for (size_t i = 0; i < 2000; i++) {
        for (size_t k = 0; k < i * 7 % 300; k++)
            assert_int_equal(pieces[i][k], i & 0xFF);
    }
    arena_free(&a);
}

static void arena_refuses_what_is_over_its_limit(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 64);
    assert_null(arena_alloc(&a, 65));
    assert_non_null(arena_alloc(&a, 40)); /* 48 with padding */
    assert_int_equal(a.used_bytes, 48);
    assert_null(arena_alloc(&a, 17));
    assert_non_null(arena_alloc(&a, 16));
    assert_null(arena_alloc(&a, 1));
    assert_null(arena_alloc(&a, 0));
    arena_free(&a);
    assert_int_equal(a.used_bytes, 0);
    assert_non_null(arena_alloc(&a, 64));
    arena_free(&a);
}

static void arena_refuses_sizes_that_overflow(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, SIZE_MAX);
    size_t huge = SIZE_MAX; /* not a constant to the compiler's size checks */
    assert_null(arena_alloc(&a, huge));
    assert_null(arena_alloc(&a, huge - 15));
    assert_null(arena_array(&a, huge / 2, 3));
    assert_null(arena_array(&a, huge / 16 + 2, 16));
    assert_null(arena_strndup(&a, "x", huge));
    assert_non_null(arena_array(&a, 0, 8));
    arena_free(&a);
}

static void arena_keeps_small_pieces_together_around_big_ones(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1 << 26);
    char *first = arena_alloc(&a, 16);
    char *big = arena_alloc(&a, 4 << 20);
    char *second = arena_alloc(&a, 16);
    assert_non_null(big);
    memset(big, 1, 4 << 20);
    assert_ptr_equal(second, first + 16);
    arena_free(&a);
}

static void arena_copies_and_formats_strings(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 4096);
    assert_string_equal(arena_strdup(&a, "hello"), "hello");
    assert_string_equal(arena_strdup(&a, ""), "");
    assert_string_equal(arena_strndup(&a, "hello", 2), "he");
    assert_string_equal(arena_strndup(&a, NULL, 0), "");
    assert_memory_equal(arena_strndup(&a, "a\0b", 3), "a\0b", 4);
    assert_string_equal(arena_printf(&a, "%s[%d]", "layer", 3), "layer[3]");
    assert_null(arena_printf(&a, "%5000d", 1));
    arena_free(&a);
}

static void mem_try_returns_null_on_overflow(void **state)
{
    (void)state;
    size_t huge = SIZE_MAX / 2;
    assert_null(mem_try(huge, 3));
    void *p = mem_try(0, 8);
    assert_non_null(p);
    free(p);
    int *v = mem_try(4, sizeof *v);
    assert_int_equal(v[3], 0);
    free(v);
}

static void xmalloc_gives_memory_even_for_zero(void **state)
{
    (void)state;
    char *p = xmalloc(0);
    p = xrealloc(p, 3);
    memcpy(p, "ab", 3);
    assert_string_equal(p, "ab");
    char *q = xstrdup(p);
    assert_string_equal(q, "ab");
    int *v = xcalloc(2, sizeof *v);
    assert_int_equal(v[0] + v[1], 0);
    free(v);
    free(q);
    free(p);
}

static void xmalloc_exits_with_71_when_memory_is_out(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        volatile size_t huge = SIZE_MAX / 2;
        free(xcalloc(huge, 16)); /* overflows: fails on any machine */
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 71);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_alloc_is_aligned_zeroed_and_separate),
        cmocka_unit_test(arena_refuses_what_is_over_its_limit),
        cmocka_unit_test(arena_refuses_sizes_that_overflow),
        cmocka_unit_test(arena_keeps_small_pieces_together_around_big_ones),
        cmocka_unit_test(arena_copies_and_formats_strings),
        cmocka_unit_test(mem_try_returns_null_on_overflow),
        cmocka_unit_test(xmalloc_gives_memory_even_for_zero),
        cmocka_unit_test(xmalloc_exits_with_71_when_memory_is_out),
    };
    return cmocka_run_group_tests_name("base/arena", tests, NULL, NULL);
}
