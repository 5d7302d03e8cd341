/* What accesses cost, counted on kernels where one can tell it by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/ptxvm/ptxvm.h"

/* Lane i copies word i * stride of x to word i * stride of shared memory. */
static const char words[] = ".version 8.0\n.target sm_80\n.address_size 64\n"
                            ".visible .entry words(.param .u64 x, .param .u32 stride)\n{\n"
                            ".reg .b32 %r<8>;\n.reg .b64 %rd<8>;\n"
                            ".shared .align 16 .b8 tile[8192];\n"
                            "ld.param.u64 %rd1, [x];\nld.param.u32 %r1, [stride];\n"
                            "mov.u32 %r2, %tid.x;\nmul.lo.s32 %r3, %r2, %r1;\n"
                            "mul.wide.u32 %rd2, %r3, 4;\nadd.s64 %rd3, %rd1, %rd2;\n"
                            "ld.global.u32 %r4, [%rd3];\n"
                            "mov.u32 %r5, tile;\nshl.b32 %r6, %r3, 2;\nadd.s32 %r7, %r5, %r6;\n"
                            "st.shared.u32 [%r7], %r4;\nret;\n}\n";

/* Lane i copies 16 bytes by cp.async to shared memory at 16 * i * stride. */
static const char quads[] = ".version 8.0\n.target sm_80\n.address_size 64\n"
                            ".visible .entry quads(.param .u64 x, .param .u32 stride)\n{\n"
                            ".reg .b32 %r<8>;\n.reg .b64 %rd<8>;\n"
                            ".shared .align 16 .b8 tile[8192];\n"
                            "ld.param.u64 %rd1, [x];\nld.param.u32 %r1, [stride];\n"
                            "mov.u32 %r2, %tid.x;\nmul.wide.u32 %rd2, %r2, 16;\n"
                            "add.s64 %rd3, %rd1, %rd2;\nmul.lo.s32 %r3, %r2, %r1;\n"
                            "mov.u32 %r5, tile;\nshl.b32 %r6, %r3, 4;\nadd.s32 %r7, %r5, %r6;\n"
                            "cp.async.cg.shared.global [%r7], [%rd3], 16;\n"
                            "cp.async.commit_group;\ncp.async.wait_group 0;\nret;\n}\n";

static struct ptxvm_stats run(const char *name, const char *text, uint32_t stride)
{
    static _Alignas(128) uint32_t x[2048];
    struct ptxvm *vm;
    struct err e = {0};
    void *px = x;
    assert_int_equal(ptxvm_open(&vm, &(struct ptxvm_options){.accesses = true}, &e), 0);
    if (ptxvm_load_text(vm, name, text, strlen(text), &e) != 0 ||
        ptxvm_map(vm, x, sizeof x, "x", &e) != 0 ||
        ptxvm_launch(vm,
                     &(struct ptxvm_launch){.kernel = name,
                                            .grid = {1, 1, 1},
                                            .block = {32, 1, 1},
                                            .args = (void *[]){&px, &stride}},
                     &e) != 0)
        fail_msg("%s", e.msg);
    const struct ptxvm_stats s = ptxvm_stats(vm, name);
    ptxvm_close(vm);
    return s;
}

static void strides_cost_sectors_and_turns_of_banks(void **state)
{
    static const struct {
        uint32_t stride, sectors, turns;
    } cases[] = {{0, 1, 1},  {1, 4, 1},    {2, 8, 2},  {4, 16, 4},
                 {8, 32, 8}, {32, 32, 32}, {33, 32, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct ptxvm_stats s = run("words", words, cases[i].stride);
        assert_int_equal(s.global_accesses, 1);
        assert_int_equal(s.global_sectors, cases[i].sectors);
        assert_int_equal(s.global_least, cases[i].stride ? 4 : 1);
        assert_int_equal(s.shared_turns, cases[i].turns);
        assert_int_equal(s.shared_least, 1);
    }
}

static void sixteen_bytes_a_lane_take_four_turns_of_eight_lanes(void **state)
{
    (void)state;
    for (uint32_t stride = 1; stride <= 8; stride++) {
        const struct ptxvm_stats s = run("quads", quads, stride);
        const uint32_t together = stride % 8 == 0 ? 8 : stride % 4 == 0 ? 4 : stride % 2 ? 1 : 2;
        assert_int_equal(s.global_sectors, 16);
        assert_int_equal(s.global_least, 16);
        assert_int_equal(s.shared_least, 4);
        assert_int_equal(s.shared_turns, 4 * together);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strides_cost_sectors_and_turns_of_banks),
        cmocka_unit_test(sixteen_bytes_a_lane_take_four_turns_of_eight_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
