/* Mapped files: errors, and files that shrink while they are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

enum { PAGE = 4096 };

static char dir[64], path[96];
static struct sigaction handler;

/* cmocka takes over SIGBUS before each test: main() keeps what file.c installed, to put it back. */
static void take_sigbus_back(void **state)
{
    (void)state;
    assert_int_equal(sigaction(SIGBUS, &handler, NULL), 0);
}

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/duetto-file-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/f", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void write_file(size_t n, int byte)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(fputc(byte, f), byte);
    assert_int_equal(fclose(f), 0);
}

static void file_open_maps_the_whole_file(void **state)
{
    (void)state;
    struct file f;
    struct err e = {0};
    write_file(PAGE + 10, 'x');
    assert_int_equal(file_open(&f, path, &e), 0);
    assert_int_equal(f.size, PAGE + 10);
    assert_int_equal(f.data[0], 'x');
    assert_int_equal(f.data[PAGE + 9], 'x');
    assert_false(file_damaged(&f));
    file_close(&f);
    assert_null(f.data);
    file_close(&f); /* twice does no harm */
}

static void file_open_accepts_an_empty_file(void **state)
{
    (void)state;
    struct file f;
    struct err e = {0};
    write_file(0, 0);
    assert_int_equal(file_open(&f, path, &e), 0);
    assert_null(f.data);
    assert_int_equal(f.size, 0);
    assert_false(file_damaged(&f));
    file_forget(&f, 0, 10);
    file_close(&f);
}

static void file_open_says_what_is_wrong(void **state)
{
    (void)state;
    struct file f;
    struct err e = {0};
    char other[128];
    snprintf(other, sizeof other, "%s/missing", dir);
    assert_int_equal(file_open(&f, other, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "missing: No such file"));
    assert_int_equal(file_open(&f, dir, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "not a regular file"));
    snprintf(other, sizeof other, "%s/fifo", dir);
    assert_int_equal(mkfifo(other, 0600), 0);
    assert_int_equal(file_open(&f, other, &e), ERR_IO); /* and does not wait for a writer */
    unlink(other);
    file_close(&f);
}

static void file_reads_zeros_where_it_was_truncated(void **state)
{
    take_sigbus_back(state);
    struct file f, whole;
    struct err e = {0};
    write_file(16 * PAGE, 'x');
    assert_int_equal(file_open(&f, path, &e), 0);
    assert_int_equal(f.data[12 * PAGE], 'x'); /* already read once */
    assert_int_equal(truncate(path, 4 * PAGE), 0);
    assert_int_equal(f.data[4 * PAGE - 1], 'x');
    assert_false(file_damaged(&f));
    assert_int_equal(f.data[8 * PAGE + 5], 0);
    assert_true(file_damaged(&f));
    for (size_t i = 0; i < f.size; i++)
        assert_int_equal(f.data[i], i < 4 * PAGE ? 'x' : 0);
    file_forget(&f, 0, f.size);
    assert_int_equal(f.data[0], 'x');
    assert_int_equal(f.data[f.size - 1], 0);
    file_close(&f);

    assert_int_equal(file_open(&whole, path, &e), 0); /* the slot is as good as new */
    assert_false(file_damaged(&whole));
    file_close(&whole);
}

static void file_damage_is_counted_for_the_right_file(void **state)
{
    take_sigbus_back(state);
    struct file a, b;
    struct err e = {0};
    char other[128];
    snprintf(other, sizeof other, "%s/g", dir);
    write_file(4 * PAGE, 'b');
    assert_int_equal(rename(path, other), 0);
    write_file(4 * PAGE, 'a');
    assert_int_equal(file_open(&a, path, &e), 0);
    assert_int_equal(file_open(&b, other, &e), 0);
    assert_int_equal(truncate(other, 0), 0);
    assert_int_equal(b.data[PAGE], 0);
    assert_true(file_damaged(&b));
    assert_int_equal(a.data[PAGE], 'a');
    assert_false(file_damaged(&a));
    file_close(&a);
    file_close(&b);
    unlink(other);
}

static void *read_all(void *arg)
{
    const struct file *f = arg;
    size_t sum = 0;
    for (size_t i = 0; i < f->size; i += 64)
        sum += (unsigned char)f->data[i];
    return (void *)(uintptr_t)sum;
}

static void file_survives_truncation_under_many_threads(void **state)
{
    take_sigbus_back(state);
    enum { THREADS = 8 };
    struct err e = {0};
    for (int round = 0; round < 20; round++) {
        struct file f;
        pthread_t threads[THREADS];
        write_file(64 * PAGE, 'x');
        assert_int_equal(file_open(&f, path, &e), 0);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, read_all, &f), 0);
        assert_int_equal(truncate(path, 0), 0);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(f.data[f.size - 1], 0);
        assert_true(file_damaged(&f));
        file_close(&f);
    }
}

/* What the child does with a SIGBUS that is none of ours must still end it. */
static int status_of_child(void (*f)(void))
{
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO); /* a sanitizer reports it there */
        f();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void raise_bus(void)
{
    raise(SIGBUS);
}

static void fault_elsewhere(void)
{
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return;
    const volatile char *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fileno(f), 0);
    fclose(f);
    if (p == MAP_FAILED || truncate(path, 0) != 0)
        return;
    (void)p[0];
}

static void file_leaves_foreign_bus_errors_alone(void **state)
{
    take_sigbus_back(state);
    struct file f;
    struct err e = {0};
    write_file(PAGE, 'x');
    assert_int_equal(file_open(&f, path, &e), 0); /* the handler is installed */
    assert_int_not_equal(status_of_child(raise_bus), 0);
    assert_int_not_equal(status_of_child(fault_elsewhere), 0);
    file_close(&f);
}

static void file_slots_run_out_and_come_back(void **state)
{
    (void)state;
    enum { MANY = 1100 };
    static struct file files[MANY];
    struct err e = {0};
    int n = 0;
    write_file(1, 'x');
    while (n < MANY && file_open(&files[n], path, &e) == 0)
        n++;
    assert_int_equal(n, 1024);
    assert_int_equal(e.code, ERR_NOMEM);
    file_close(&files[500]);
    assert_int_equal(file_open(&files[500], path, &e), 0);
    for (int i = 0; i < n; i++)
        file_close(&files[i]);
}

static void file_forget_ignores_ranges_outside_the_file(void **state)
{
    (void)state;
    struct file f;
    struct err e = {0};
    write_file(3 * PAGE + 100, 'x');
    assert_int_equal(file_open(&f, path, &e), 0);
    file_forget(&f, 10, 20);
    file_forget(&f, 100, SIZE_MAX);
    file_forget(&f, SIZE_MAX, SIZE_MAX);
    file_forget(&f, f.size, 1);
    file_forget(&f, 0, 0);
    for (size_t i = 0; i < f.size; i++)
        assert_int_equal(f.data[i], 'x');
    assert_false(file_damaged(&f));
    file_close(&f);
}

static void file_read_reads_it_all_within_the_limit(void **state)
{
    (void)state;
    struct buf b;
    struct err e = {0};
    write_file(50000, 'y');
    buf_init(&b, 50000);
    buf_adds(&b, "old");
    assert_int_equal(file_read(&b, path, &e), 0);
    assert_int_equal(b.len, 50000);
    assert_int_equal(b.data[0], 'y');
    buf_free(&b);
    buf_init(&b, 49999);
    assert_int_equal(file_read(&b, path, &e), ERR_TOOBIG);
    assert_int_equal(file_read(&b, "/nonexistent/x", &e), ERR_NOTFOUND);
    assert_int_equal(file_read(&b, dir, &e), ERR_IO);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_open_maps_the_whole_file),
        cmocka_unit_test(file_open_accepts_an_empty_file),
        cmocka_unit_test(file_open_says_what_is_wrong),
        cmocka_unit_test(file_reads_zeros_where_it_was_truncated),
        cmocka_unit_test(file_damage_is_counted_for_the_right_file),
        cmocka_unit_test(file_survives_truncation_under_many_threads),
        cmocka_unit_test(file_leaves_foreign_bus_errors_alone),
        cmocka_unit_test(file_slots_run_out_and_come_back),
        cmocka_unit_test(file_forget_ignores_ranges_outside_the_file),
        cmocka_unit_test(file_read_reads_it_all_within_the_limit),
    };
    struct file f;
    file_open(&f, "/dev/null", NULL);
    sigaction(SIGBUS, NULL, &handler);
    return cmocka_run_group_tests_name("base/file", tests, make_dir, remove_dir);
}
