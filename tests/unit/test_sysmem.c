/* base/sysmem: what is free, over directories that stand for /proc and /sys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <sys/resource.h>

#include "base/sysmem.h"
#include "tests/temp_dir.h"

#define MIB ((size_t)1 << 20)

static void put(const char *path, const char *text)
{
    char folder[512];
    snprintf(folder, sizeof folder, "%s", temp_dir_path(path));
    for (char *at = folder + strlen(temp_dir) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        mkdir(folder, 0700);
        *at = '/';
    }
    temp_dir_put_text(path, text);
}

static size_t free_mib(void)
{
    return sysmem_free(temp_dir) / MIB;
}

static void sysmem_without_anything_is_a_careful_guess(void **state)
{
    (void)state;
    temp_dir_clear();
    assert_int_equal(free_mib(), 1024);
    assert_in_range(sysmem_free(""), 1, (size_t)1 << 50);
}

static void sysmem_has_limits_of_all_groups_around(void **state)
{
    (void)state;
    temp_dir_clear();
    put("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable: 4096000 kB\n");
    assert_int_equal(free_mib(), 4000);
    put("proc/self/cgroup", "0::/pod/box\n");
    put("sys/fs/cgroup/pod/box/memory.max", "max\n");
    put("sys/fs/cgroup/pod/box/memory.current", "1048576\n");
    assert_int_equal(free_mib(), 4000);
    put("sys/fs/cgroup/pod/memory.max", "104857600\n");
    put("sys/fs/cgroup/pod/memory.current", "10485760\n");
    assert_int_equal(free_mib(), 90);
    put("sys/fs/cgroup/pod/box/memory.max", "11534336\n");
    assert_int_equal(free_mib(), 10);
    put("sys/fs/cgroup/memory.max", "2097152\n"); /* a container's own */
    put("sys/fs/cgroup/memory.current", "4194304\n");
    assert_int_equal(free_mib(), 0);
}

static void sysmem_counts_cached_files_as_free(void **state)
{
    (void)state;
    temp_dir_clear();
    put("proc/meminfo", "MemAvailable: 4096000 kB\n");
    put("proc/self/cgroup", "9:name=systemd:/\n4:memory:/a\n0::/\n");
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "104857600\n");
    put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "104857600\n");
    assert_int_equal(free_mib(), 0);
    put("sys/fs/cgroup/memory/a/memory.stat",
        "cache 1\ninactive_file 1\ntotal_inactive_file 20971520\ntotal_active_file 10485760\n");
    assert_int_equal(free_mib(), 30);
    temp_dir_clear();
    put("proc/meminfo", "MemAvailable: 4096000 kB\n");
    put("sys/fs/cgroup/memory.max", "104857600\n");
    put("sys/fs/cgroup/memory.current", "94371840\n");
    put("sys/fs/cgroup/memory.stat", "file 9\ninactive_file 20971520\nactive_file 0\n");
    assert_int_equal(free_mib(), 30);
    put("sys/fs/cgroup/memory.stat", "inactive_file 209715200\n"); /* read later than the use */
    assert_int_equal(free_mib(), 100);
}

static void sysmem_stays_within_the_address_space(void **state)
{
    (void)state;
    struct rlimit before, limit;
    temp_dir_clear();
    put("proc/meminfo", "MemAvailable: 999999999999 kB\n");
    put("proc/self/statm", "1024 9 9 9 0 9 0\n");
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    limit = before;
    limit.rlim_cur = (rlim_t)1 << 46; /* sanitizers have much of it */
    if (limit.rlim_cur > limit.rlim_max)
        skip();
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    const size_t left = sysmem_free(temp_dir);
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_int_equal(left, ((size_t)1 << 46) - 1024 * (size_t)sysconf(_SC_PAGESIZE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sysmem_without_anything_is_a_careful_guess),
        cmocka_unit_test(sysmem_has_limits_of_all_groups_around),
        cmocka_unit_test(sysmem_counts_cached_files_as_free),
        cmocka_unit_test(sysmem_stays_within_the_address_space),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
