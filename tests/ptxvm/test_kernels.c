/* The product's kernels as nvcc compiled them (build/ptxvm/kernels/cuda; `make ptxvm` makes them): every
 * one is translated whole, so that an instruction which the machine does not know is seen even where no
 * kcheck comes by.  What the kernels compute is kcheck's business (grid.cpp). */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/ptxvm/ptxvm.h"

static const char *folder(void)
{
    const char *f = getenv("PTXVM_PTX");
    return f ? f : "build/ptxvm/kernels/cuda";
}

static void every_kernel_translates(void **state)
{
    (void)state;
    struct ptxvm *vm;
    struct err e = {0};
    DIR *d = opendir(folder());
    if (d == NULL) {
        print_message("no PTX in %s (it takes nvcc to make it)\n", folder());
        skip();
    }
    assert_int_equal(ptxvm_open(&vm, &(struct ptxvm_options){0}, &e), 0);
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        char path[512];
        size_t n = strlen(f->d_name);
        if (n < 4 || strcmp(f->d_name + n - 4, ".ptx") != 0)
            continue;
        snprintf(path, sizeof path, "%.250s/%.255s", folder(), f->d_name);
        if (ptxvm_load(vm, path, &e) != 0)
            fail_msg("%s", e.msg);
    }
    closedir(d);
    int n = 0, failed = 0;
    for (; ptxvm_kernel(vm, n); n++)
        if (ptxvm_prepare(vm, ptxvm_kernel(vm, n), &e) != 0) {
            print_error("%s: %s\n", ptxvm_kernel(vm, n), e.msg);
            failed++;
        }
    print_message("%d kernels\n", n);
    assert_int_equal(failed, 0);
    assert_true(n > 0);
    ptxvm_close(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_translates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
