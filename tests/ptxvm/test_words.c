/* Every instruction class against values computed by hand or by C, one PTX text each; no nvcc needed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/ptxvm/ptxvm.h"

/* A thread with its operands a, b, c in registers 1 to 3 of every kind and its result in register 0. */
static const char before[] =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry t(.param .u64 in, .param .u64 out)\n{\n"
    ".reg .b64 %rd<20>; .reg .b32 %r<20>; .reg .b16 %h<8>; .reg .f32 %f<8>; .reg .f64 %fd<8>;\n"
    ".reg .pred %p<8>;\n"
    "ld.param.u64 %rd10, [in]; ld.param.u64 %rd11, [out];\n"
    "ld.global.v2.u64 {%rd1, %rd2}, [%rd10]; ld.global.u64 %rd3, [%rd10+16];\n"
    "cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3;\n"
    "cvt.u16.u64 %h1, %rd1; cvt.u16.u64 %h2, %rd2; cvt.u16.u64 %h3, %rd3;\n"
    "mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b32 %f3, %r3;\n"
    "mov.b64 %fd1, %rd1; mov.b64 %fd2, %rd2; mov.b64 %fd3, %rd3;\n"
    "setp.ne.u64 %p1, %rd1, 0; setp.ne.u64 %p2, %rd2, 0; setp.ne.u64 %p3, %rd3, 0;\n"
    "mov.u64 %rd0, 0; mov.u32 %r0, 0; mov.u16 %h0, 0; setp.ne.u32 %p0, 0, 0; mov.f32 %f0, "
    "0f00000000;\n";

static const char *const after[128] = {
    ['r'] = "cvt.u64.u32 %rd9, %r0; st.global.u64 [%rd11], %rd9;\n}\n",
    ['d'] = "st.global.u64 [%rd11], %rd0;\n}\n",
    ['h'] = "cvt.u64.u16 %rd9, %h0; st.global.u64 [%rd11], %rd9;\n}\n",
    ['p'] = "selp.u64 %rd9, 1, 0, %p0; st.global.u64 [%rd11], %rd9;\n}\n",
    ['f'] = "mov.b32 %r0, %f0; cvt.u64.u32 %rd9, %r0; st.global.u64 [%rd11], %rd9;\n}\n",
    ['D'] = "mov.b64 %rd9, %fd0; st.global.u64 [%rd11], %rd9;\n}\n",
};

/* Apart, so that what lies behind one is not the other. */
struct memory {
    uint64_t in[4] __attribute__((aligned(16))), gap[4], out[4];
};

struct word {
    const char *body;
    char result;
    uint64_t a, b, c, want;
};

static int run_text(const char *text, void *in, void *out, size_t bytes, struct err *e)
{
    struct ptxvm *vm;
    assert_int_equal(
        ptxvm_open(&vm, &(struct ptxvm_options){.races = true, .max_instructions = 1000000}, e), 0);
    int rc = ptxvm_load_text(vm, "test.ptx", text, strlen(text), e);
    if (rc == 0) {
        assert_int_equal(ptxvm_map(vm, in, bytes, "in", e), 0);
        assert_int_equal(ptxvm_map(vm, out, bytes, "out", e), 0);
        rc = ptxvm_launch(vm,
                          &(struct ptxvm_launch){.kernel = "t",
                                                 .grid = {1, 1, 1},
                                                 .block = {1, 1, 1},
                                                 .args = (void *[]){&in, &out}},
                          e);
    }
    ptxvm_close(vm);
    return rc;
}

static void check_words(const struct word *w, size_t n)
{
    char text[4096];
    for (; n-- > 0; w++) {
        struct memory m = {.in = {w->a, w->b, w->c}};
        struct err e = {0};
        snprintf(text, sizeof text, "%s%s\n%s", before, w->body, after[(int)w->result]);
        if (run_text(text, m.in, m.out, sizeof m.in, &e) != 0)
            fail_msg("%s: %s", w->body, e.msg);
        if (m.out[0] != w->want)
            fail_msg("%s: %llx, not %llx", w->body, (unsigned long long)m.out[0],
                     (unsigned long long)w->want);
    }
}
#define CHECK(...)                                       \
    do {                                                 \
        static const struct word list[] = {__VA_ARGS__}; \
        check_words(list, sizeof list / sizeof list[0]); \
    } while (0)

#define ALL1 0xffffffffull
#define ALL2 0xffffffffffffffffull

static void integers_wrap_and_keep_their_width(void **state)
{
    (void)state;
    CHECK(
        {"add.s32 %r0, %r1, %r2;", 'r', ALL1, 2, 0, 1},
        {"add.u64 %rd0, %rd1, %rd2;", 'd', ALL2, 2, 0, 1},
        {"add.u16 %h0, %h1, %h2;", 'h', 0xffff, 3, 0, 2},
        {"add.sat.s32 %r0, %r1, %r2;", 'r', 0x7fffffff, 1, 0, 0x7fffffff},
        {"sub.s32 %r0, %r1, %r2;", 'r', 1, 2, 0, ALL1}, {"add.s32 %r0, %r1, -5;", 'r', 7, 0, 0, 2},
        {"mul.lo.s32 %r0, %r1, %r2;", 'r', 0x10001, 0x10001, 0, 0x20001},
        {"mul.hi.u32 %r0, %r1, %r2;", 'r', ALL1, ALL1, 0, 0xfffffffe},
        {"mul.hi.s32 %r0, %r1, %r2;", 'r', ALL1, 5, 0, ALL1},
        {"mul.hi.u64 %rd0, %rd1, %rd2;", 'd', ALL2, ALL2, 0, 0xfffffffffffffffe},
        {"mul.wide.u32 %rd0, %r1, %r2;", 'd', ALL1, ALL1, 0, 0xfffffffe00000001},
        {"mul.wide.s32 %rd0, %r1, %r2;", 'd', ALL1, 3, 0, 0xfffffffffffffffd},
        {"mul.wide.s16 %r0, %h1, %h2;", 'r', 0xffff, 4, 0, 0xfffffffc},
        {"mad.lo.s32 %r0, %r1, %r2, %r3;", 'r', 3, 4, 5, 17},
        {"mad.wide.s32 %rd0, %r1, %r2, %rd3;", 'd', ALL1, 4, 10, 6},
        {"mad.hi.u32 %r0, %r1, %r2, %r3;", 'r', ALL1, 2, 7, 8},
        {"div.s32 %r0, %r1, %r2;", 'r', 0xfffffff9, 2, 0, 0xfffffffd},
        {"div.u32 %r0, %r1, 7;", 'r', 100, 0, 0, 14},
        {"rem.s32 %r0, %r1, %r2;", 'r', 0xfffffff9, 2, 0, ALL1},
        {"rem.u64 %rd0, %rd1, %rd2;", 'd', 1000000000007, 1000, 0, 7},
        {"min.s32 %r0, %r1, %r2;", 'r', ALL1, 2, 0, ALL1},
        {"min.u32 %r0, %r1, %r2;", 'r', ALL1, 2, 0, 2},
        {"max.s64 %rd0, %rd1, %rd2;", 'd', ALL2, 2, 0, 2},
        {"max.s16 %h0, %h1, %h2;", 'h', 0x8000, 2, 0, 2},
        {"abs.s32 %r0, %r1;", 'r', 0xfffffffb, 0, 0, 5},
        {"neg.s32 %r0, %r1;", 'r', 5, 0, 0, 0xfffffffb},
        {"sad.u32 %r0, %r1, %r2;", 'r', 3, 10, 0, 7},
        {"add.cc.u32 %r0, %r1, %r2; addc.u32 %r0, %r3, 0;", 'r', ALL1, 1, 9, 10},
        {"sub.cc.u32 %r0, %r1, %r2; subc.u32 %r0, %r3, 0;", 'r', 0, 1, 9, 8},
        {"mad.lo.cc.u32 %r0, %r1, %r2, %r3; madc.hi.u32 %r0, %r1, %r2, 0;", 'r', ALL1, 2, ALL1, 2});
}

static void bits_are_moved_counted_and_mixed(void **state)
{
    (void)state;
    CHECK(
        {"and.b32 %r0, %r1, %r2;", 'r', 0xff0, 0x0ff, 0, 0x0f0},
        {"or.b64 %rd0, %rd1, %rd2;", 'd', 0xff0, 0x0ff, 0, 0xfff},
        {"xor.b16 %h0, %h1, %h2;", 'h', 0xff0, 0x0ff, 0, 0xf0f},
        {"not.b16 %h0, %h1;", 'h', 1, 0, 0, 0xfffe},
        {"not.b32 %r0, %r1;", 'r', 1, 0, 0, 0xfffffffe}, {"cnot.b32 %r0, %r1;", 'r', 0, 0, 0, 1},
        {"shl.b32 %r0, %r1, %r2;", 'r', 1, 31, 0, 0x80000000},
        {"shl.b32 %r0, %r1, %r2;", 'r', 1, 32, 0, 0},
        {"shr.s32 %r0, %r1, %r2;", 'r', 0x80000000, 40, 0, ALL1},
        {"shr.u32 %r0, %r1, 4;", 'r', 0x80000000, 0, 0, 0x08000000},
        {"shr.s16 %h0, %h1, %r2;", 'h', 0x8000, 3, 0, 0xf000},
        {"shr.u64 %rd0, %rd1, 33;", 'd', 1ull << 40, 0, 0, 128},
        {"shf.l.wrap.b32 %r0, %r1, %r2, 8;", 'r', 0x11223344, 0x55667788, 0, 0x66778811},
        {"shf.r.wrap.b32 %r0, %r1, %r2, 8;", 'r', 0x11223344, 0x55667788, 0, 0x88112233},
        {"shf.r.clamp.b32 %r0, %r1, %r2, 40;", 'r', 0x11223344, 0x55667788, 0, 0x55667788},
        {"popc.b32 %r0, %r1;", 'r', 0xf0f0, 0, 0, 8}, {"popc.b64 %r0, %rd1;", 'r', ALL2, 0, 0, 64},
        {"clz.b32 %r0, %r1;", 'r', 0x00010000, 0, 0, 15}, {"clz.b32 %r0, %r1;", 'r', 0, 0, 0, 32},
        {"brev.b32 %r0, %r1;", 'r', 0x1, 0, 0, 0x80000000},
        {"bfind.u32 %r0, %r1;", 'r', 0x00018000, 0, 0, 16},
        {"bfind.s32 %r0, %r1;", 'r', ALL1, 0, 0, ALL1},
        {"bfe.u32 %r0, %r1, 4, 8;", 'r', 0xabcdef12, 0, 0, 0xf1},
        {"bfe.s32 %r0, %r1, 4, 8;", 'r', 0xabcdef12, 0, 0, 0xfffffff1},
        {"bfe.s32 %r0, %r1, 28, 8;", 'r', 0xabcdef12, 0, 0, 0xfffffffa},
        {"bfe.u64 %rd0, %rd1, 32, 16;", 'd', 0x123456789abcdef0, 0, 0, 0x5678},
        {"bfi.b32 %r0, %r1, %r2, 8, 4;", 'r', 0xf5, 0xabcdef12, 0, 0xabcde512},
        {"bfi.b64 %rd0, %rd1, %rd2, 32, 32;", 'd', 0x11, 0x22, 0, 0x1100000022},
        {"lop3.b32 %r0, %r1, %r2, %r3, 0xe8;", 'r', 0xc, 0xa, 0x6, 0xe},
        {"prmt.b32 %r0, %r1, %r2, 0x5410;", 'r', 0x11223344, 0x55667788, 0, 0x77883344},
        {"prmt.b32 %r0, %r1, %r2, 0x000f;", 'r', 0x11223344, 0x95667788, 0, 0x444444ff},
        {"prmt.b32.rc16 %r0, %r1, %r2, 1;", 'r', 0x11223344, 0, 0, 0x11221122},
        {"dp4a.s32.s32 %r0, %r1, %r2, %r3;", 'r', 0xff020304, 0x05060708, 1,
         (uint32_t)(-5 + 12 + 21 + 32 + 1)},
        {"dp4a.u32.s32 %r0, %r1, %r2, %r3;", 'r', 0xff000000, 0xff000000, 0, (uint32_t)-255},
        {"dp2a.lo.s32.s32 %r0, %r1, %r2, %r3;", 'r', 0x00020003, 0x05060708, 1, 2 * 7 + 3 * 8 + 1},
        {"dp2a.hi.s32.s32 %r0, %r1, %r2, %r3;", 'r', 0x00020003, 0x05060708, 1, 2 * 5 + 3 * 6 + 1},
        {"mov.b32 {%h0, %h4}, %r1; mov.b32 %r0, {%h4, %h0};", 'r', 0x12345678, 0, 0, 0x56781234},
        {"mov.b64 {%r4, %r5}, %rd1; mov.b64 %rd0, {%r5, %r4};", 'd', 0x1122334455667788, 0, 0,
         0x5566778811223344});
}

static void comparisons_know_order_and_nan(void **state)
{
    (void)state;
    CHECK({"setp.lt.s32 %p0, %r1, %r2;", 'p', ALL1, 0, 0, 1},
          {"setp.lt.u32 %p0, %r1, %r2;", 'p', ALL1, 0, 0, 0},
          {"setp.hs.u64 %p0, %rd1, %rd2;", 'p', ALL2, 1, 0, 1},
          {"setp.ge.s16 %p0, %h1, %h2;", 'p', 0x8000, 0, 0, 0},
          {"setp.eq.f32 %p0, %f1, %f2;", 'p', 0x80000000, 0, 0, 1},
          {"setp.lt.f32 %p0, %f1, %f2;", 'p', 0x7fc00000, 0, 0, 0},
          {"setp.ltu.f32 %p0, %f1, %f2;", 'p', 0x7fc00000, 0, 0, 1},
          {"setp.ne.f32 %p0, %f1, %f1;", 'p', 0x7fc00000, 0, 0, 0},
          {"setp.neu.f32 %p0, %f1, %f1;", 'p', 0x7fc00000, 0, 0, 1},
          {"setp.nan.f32 %p0, %f1, %f2;", 'p', 0x7fc00000, 0, 0, 1},
          {"setp.num.f32 %p0, %f1, %f2;", 'p', 0x3f800000, 0, 0, 1},
          {"setp.gt.f16 %p0, %h1, %h2;", 'p', 0x3c00, 0xbc00, 0, 1},
          {"setp.lt.and.s32 %p0, %r1, %r2, %p3;", 'p', 1, 2, 0, 0},
          {"setp.lt.and.s32 %p0, %r1, %r2, !%p3;", 'p', 1, 2, 0, 1},
          {"setp.eq.s32 %p4|%p0, %r1, %r2;", 'p', 1, 2, 0, 1},
          {"set.lt.u32.f32 %r0, %f1, %f2;", 'r', 0, 0x3f800000, 0, ALL1},
          {"set.gt.f32.s32 %f0, %r1, %r2;", 'f', 5, 3, 0, 0x3f800000},
          {"selp.b32 %r0, %r2, %r3, %p1;", 'r', 0, 5, 6, 6},
          {"selp.f32 %f0, %f2, 0f40000000, %p1;", 'f', 1, 5, 6, 5},
          {"slct.b32.s32 %r0, %r1, %r2, %r3;", 'r', 5, 6, ALL1, 6},
          {"and.pred %p0, %p1, %p2;", 'p', 1, 0, 0, 0}, {"not.pred %p0, %p1;", 'p', 0, 0, 0, 1},
          {"@%p1 mov.u32 %r0, 7;", 'r', 0, 0, 0, 0}, {"@!%p1 mov.u32 %r0, 7;", 'r', 0, 0, 0, 7},
          {"testp.notanumber.f32 %p0, %f1;", 'p', 0x7fc00000, 0, 0, 1},
          {"testp.subnormal.f32 %p0, %f1;", 'p', 1, 0, 0, 1});
}

static void floats_round_as_asked(void **state)
{
    (void)state;
    CHECK({"add.f32 %f0, %f1, %f2;", 'f', 0x3f800000, 0x40000000, 0, 0x40400000},
          {"add.rz.f32 %f0, %f1, %f2;", 'f', 0x3f800000, 0xb3000000, 0, 0x3f7fffff},
          {"add.rp.f32 %f0, %f1, %f2;", 'f', 0x3f800000, 0x33000000, 0, 0x3f800001},
          {"add.rm.f32 %f0, %f1, %f2;", 'f', 0x3f800000, 0x33000000, 0, 0x3f800000},
          {"add.ftz.f32 %f0, %f1, %f2;", 'f', 1, 0, 0, 0},
          {"add.sat.f32 %f0, %f1, %f2;", 'f', 0x3f800000, 0x3f800000, 0, 0x3f800000},
          {"sub.f32 %f0, %f1, %f2;", 'f', 0x3f800000, 0x40000000, 0, 0xbf800000},
          {"mul.f32 %f0, %f1, 0f40400000;", 'f', 0x40000000, 0, 0, 0x40c00000},
          {"mul.f32 %f0, %f1, 1.5;", 'f', 0x40000000, 0, 0, 0x40400000},
          /* (1 + 2^-12)^2 - (1 + 2^-11) is 2^-24: lost where the product is rounded first. */
          {"fma.rn.f32 %f0, %f1, %f1, %f2;", 'f', 0x3f800800, 0xbf801000, 0, 0x33800000},
          {"mul.f32 %f0, %f1, %f1; add.f32 %f0, %f0, %f2;", 'f', 0x3f800800, 0xbf801000, 0, 0},
          {"fma.rz.f32 %f0, %f1, %f2, %f3;", 'f', 0x3f800000, 0x3f800000, 0xb3000000, 0x3f7fffff},
          {"div.rn.f32 %f0, %f1, %f2;", 'f', 0x3f800000, 0x40400000, 0, 0x3eaaaaab},
          {"div.rz.f32 %f0, %f1, %f2;", 'f', 0x3f800000, 0x40400000, 0, 0x3eaaaaaa},
          {"rcp.rn.f32 %f0, %f1;", 'f', 0x40800000, 0, 0, 0x3e800000},
          {"sqrt.rn.f32 %f0, %f1;", 'f', 0x40800000, 0, 0, 0x40000000},
          {"sqrt.approx.ftz.f32 %f0, %f1;", 'f', 0x40800000, 0, 0, 0x40000000},
          {"rsqrt.approx.f32 %f0, %f1;", 'f', 0x40800000, 0, 0, 0x3f000000},
          {"ex2.approx.ftz.f32 %f0, %f1;", 'f', 0x40400000, 0, 0, 0x41000000},
          {"lg2.approx.f32 %f0, %f1;", 'f', 0x41000000, 0, 0, 0x40400000},
          {"sin.approx.f32 %f0, %f1;", 'f', 0, 0, 0, 0},
          {"cos.approx.f32 %f0, %f1;", 'f', 0, 0, 0, 0x3f800000},
          {"tanh.approx.f32 %f0, %f1;", 'f', 0x42c80000, 0, 0, 0x3f800000},
          {"min.f32 %f0, %f1, %f2;", 'f', 0x7fc00000, 0x40000000, 0, 0x40000000},
          {"min.f32 %f0, %f1, %f2;", 'f', 0, 0x80000000, 0, 0x80000000},
          {"max.NaN.f32 %f0, %f1, %f2;", 'f', 0x7fc00000, 0x40000000, 0, 0x7fffffff},
          {"abs.f32 %f0, %f1;", 'f', 0xc0000000, 0, 0, 0x40000000},
          {"neg.f32 %f0, %f1;", 'f', 0xc0000000, 0, 0, 0x40000000},
          {"copysign.f32 %f0, %f1, %f2;", 'f', 0x80000000, 0x40000000, 0, 0xc0000000},
          {"fma.rn.f64 %fd0, %fd1, %fd2, %fd3;", 'D', 0x4000000000000000, 0x4008000000000000,
           0x3ff0000000000000, 0x401c000000000000});
}

static void halves_are_rounded_once(void **state)
{
    (void)state;
    CHECK(
        {"add.f16 %h0, %h1, %h2;", 'h', 0x3c00, 0x4000, 0, 0x4200},
        {"add.f16x2 %r0, %r1, %r2;", 'r', 0x3c004000, 0x3c003c00, 0, 0x40004200},
        {"sub.f16 %h0, %h1, %h2;", 'h', 0x3c00, 0x4000, 0, 0xbc00},
        {"mul.rn.f16x2 %r0, %r1, %r2;", 'r', 0x40004200, 0x40004200, 0, 0x44004880},
        /* 1 + 2^-11 is a tie, the 2^-24 beyond it decides. */
        {"fma.rn.f16 %h0, %h1, %h2, %h3;", 'h', 0x1000, 0x3c00, 0x3c00, 0x3c00},
        {"fma.rn.f16 %h0, %h1, %h2, %h3;", 'h', 0x1001, 0x3c00, 0x3c00, 0x3c01},
        {"fma.rn.relu.f16 %h0, %h1, %h2, %h3;", 'h', 0xbc00, 0x3c00, 0, 0},
        {"fma.rn.bf16 %h0, %h1, %h2, %h3;", 'h', 0x3f80, 0x3f80, 0x4000, 0x4040},
        {"fma.rn.bf16x2 %r0, %r1, %r2, %r3;", 'r', 0x3f804000, 0x3f803f80, 0x40004000, 0x40404080},
        {"max.f16 %h0, %h1, %h2;", 'h', 0xfc00, 0x3c00, 0, 0x3c00},
        {"neg.bf16 %h0, %h1;", 'h', 0x3f80, 0, 0, 0xbf80},
        {"ex2.approx.f16 %h0, %h1;", 'h', 0x4000, 0, 0, 0x4400},
        {"tanh.approx.f16x2 %r0, %r1;", 'r', 0x0000fc00, 0, 0, 0x0000bc00},
        {"add.f16 %h0, %h1, %h2;", 'h', 0x7bff, 0x7bff, 0, 0x7c00});
}

static void conversions_round_clamp_and_extend(void **state)
{
    (void)state;
    CHECK({"cvt.u64.u32 %rd0, %r1;", 'd', ALL1, 0, 0, ALL1},
          {"cvt.s64.s32 %rd0, %r1;", 'd', ALL1, 0, 0, ALL2},
          {"cvt.s32.s8 %r0, %r1;", 'r', 0x80, 0, 0, 0xffffff80},
          {"cvt.u32.u8 %r0, %r1;", 'r', 0x1ff, 0, 0, 0xff},
          {"cvt.s16.s8 %h0, %h1;", 'h', 0x80, 0, 0, 0xff80},
          {"cvt.u16.u32 %h0, %r1;", 'h', 0x12345, 0, 0, 0x2345},
          {"cvt.sat.s8.s32 %r0, %r1;", 'r', 0x1000, 0, 0, 0x7f},
          {"cvt.sat.u8.s32 %r0, %r1;", 'r', ALL1, 0, 0, 0},
          {"cvt.rn.f32.s32 %f0, %r1;", 'f', ALL1, 0, 0, 0xbf800000},
          {"cvt.rn.f32.u64 %f0, %rd1;", 'f', 1ull << 63, 0, 0, 0x5f000000},
          {"cvt.rz.f32.u32 %f0, %r1;", 'f', ALL1, 0, 0, 0x4f7fffff},
          {"cvt.rzi.s32.f32 %r0, %f1;", 'r', 0xc0600000, 0, 0, (uint32_t)-3},
          {"cvt.rni.s32.f32 %r0, %f1;", 'r', 0x40200000, 0, 0, 2},
          {"cvt.rni.s32.f32 %r0, %f1;", 'r', 0x40600000, 0, 0, 4},
          {"cvt.rmi.s32.f32 %r0, %f1;", 'r', 0xc0200000, 0, 0, (uint32_t)-3},
          {"cvt.rpi.f32.f32 %f0, %f1;", 'f', 0x40200000, 0, 0, 0x40400000},
          {"cvt.rzi.s32.f32 %r0, %f1;", 'r', 0x7f800000, 0, 0, 0x7fffffff},
          {"cvt.rzi.s32.f32 %r0, %f1;", 'r', 0x7fc00000, 0, 0, 0},
          {"cvt.rzi.u32.f32 %r0, %f1;", 'r', 0xbf800000, 0, 0, 0},
          {"cvt.rni.sat.s8.f32 %r0, %f1;", 'r', 0x43960000, 0, 0, 127},
          {"cvt.sat.f32.f32 %f0, %f1;", 'f', 0x40000000, 0, 0, 0x3f800000},
          {"cvt.f32.f16 %f0, %h1;", 'f', 0x0001, 0, 0, 0x33800000},
          {"cvt.f32.bf16 %f0, %h1;", 'f', 0x3f80, 0, 0, 0x3f800000},
          {"cvt.rn.f16.f32 %h0, %f1;", 'h', 0x3f801000, 0, 0, 0x3c00},
          {"cvt.rn.f16.f32 %h0, %f1;", 'h', 0x3f801001, 0, 0, 0x3c01},
          {"cvt.rz.f16.f32 %h0, %f1;", 'h', 0x477fffff, 0, 0, 0x7bff},
          {"cvt.rn.f16.f32 %h0, %f1;", 'h', 0x477ff000, 0, 0, 0x7c00},
          {"cvt.rn.f16.f32 %h0, %f1;", 'h', 0x33000001, 0, 0, 1},
          {"cvt.rn.f16.f32 %h0, %f1;", 'h', 0x33000000, 0, 0, 0},
          {"cvt.rn.bf16.f32 %h0, %f1;", 'h', 0x3f808000, 0, 0, 0x3f80},
          {"cvt.rn.f16x2.f32 %r0, %f1, %f2;", 'r', 0x3f800000, 0x40000000, 0, 0x3c004000},
          {"cvt.rz.bf16x2.f32 %r0, %f1, %f2;", 'r', 0x3f80ffff, 0x40000000, 0, 0x3f804000},
          {"cvt.rn.f32.f64 %f0, %fd1;", 'f', 0x3ff0000010000000, 0, 0, 0x3f800000},
          {"cvt.f64.f32 %fd0, %f1;", 'D', 0x3f800000, 0, 0, 0x3ff0000000000000},
          {"cvt.rn.f16.s32 %h0, %r1;", 'h', 2049, 0, 0, 0x6800},
          {"cvt.rna.tf32.f32 %r0, %f1;", 'r', 0x3f801000, 0, 0, 0x3f802000},
          {"cvt.rn.f64.s64 %fd0, %rd1;", 'D', 1ull << 62, 0, 0, 0x43d0000000000000});
}

static void memory_has_all_widths_and_spaces(void **state)
{
    (void)state;
    CHECK({"ld.global.u8 %r0, [%rd10];", 'r', 0x81, 0, 0, 0x81},
          {"ld.global.s8 %r0, [%rd10];", 'r', 0x81, 0, 0, 0xffffff81},
          {"ld.global.s16 %rd0, [%rd10];", 'd', 0x8001, 0, 0, 0xffffffffffff8001},
          {"ld.u32 %r0, [%rd10+8];", 'r', 0, 77, 0, 77},
          {"ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%r4, %r5, %r0, %r6}, [%rd10];", 'r', 0,
           42, 0, 42},
          {"st.global.v2.u16 [%rd11+8], {%h1, %h2}; ld.global.u32 %r0, [%rd11+8];", 'r', 0x1111,
           0x2222, 0, 0x22221111},
          {".local .align 8 .b8 depot[16]; mov.u64 %rd4, depot; st.local.u64 [%rd4+8], %rd1; "
           "cvta.local.u64 %rd4, %rd4;\n"
           "ld.u64 %rd0, [%rd4+8];",
           'd', 0x1234567890, 0, 0, 0x1234567890},
          {".shared .align 8 .b8 s[16]; mov.u32 %r4, s; st.shared.u32 [%r4+4], %r1; mov.u64 %rd4, "
           "s; cvta.shared.u64 %rd4, %rd4;\n"
           "isspacep.shared %p4, %rd4; @%p4 ld.u32 %r0, [%rd4+4];",
           'r', 5, 0, 0, 5},
          {".shared .align 8 .b8 s[32]; mov.u32 %r4, s; st.shared.u32 [%r4+8], %r1; add.u32 %r4, "
           "%r4, -16; "
           "ld.shared.u32 %r0, [%r4+24];", /* below 0 without the offset */
           'r', 5, 0, 0, 5},
          {".shared .u32 s; atom.shared.exch.b32 %r4, [s], 5; atom.shared.add.u32 %r4, [s], %r1; "
           "ld.shared.u32 %r0, [s];",
           'r', 6, 0, 0, 11},
          {"atom.global.add.f32 %f4, [%rd10], %f2; ld.global.f32 %f0, [%rd10];", 'f', 0x3f800000,
           0x3f800000, 0, 0x40000000},
          {"atom.global.max.s32 %r0, [%rd10], %r2;", 'r', ALL1, 3, 0, ALL1},
          {"red.global.max.s32 [%rd10], %r2; ld.global.u32 %r0, [%rd10];", 'r', ALL1, 3, 0, 3},
          {"atom.global.cas.b64 %rd4, [%rd10], %rd1, %rd2; ld.global.u64 %rd0, [%rd10];", 'd', 9, 8,
           0, 8},
          {"atom.global.inc.u32 %r4, [%rd10], 3; ld.global.u32 %r0, [%rd10];", 'r', 3, 0, 0, 0},
          {"red.global.add.noftz.f16x2 [%rd10], %r2; ld.global.u32 %r0, [%rd10];", 'r', 0x3c003c00,
           0x3c004000, 0, 0x40004200},
          {".shared .align 16 .b8 s[16]; mov.u32 %r4, s; cp.async.cg.shared.global [%r4], [%rd10], "
           "16; cp.async.commit_group;\n"
           "cp.async.wait_group 0; ld.shared.u64 %rd0, [%r4+8];",
           'd', 1, 2, 0, 2},
          {".shared .align 16 .b8 s[16]; mov.u32 %r4, s; mov.u32 %r5, 4; "
           "cp.async.ca.shared.global.L2::128B [%r4], [%rd10], 8, %r5;\n"
           "cp.async.wait_all; ld.shared.u64 %rd0, [%r4];",
           'd', 0x1122334455667788, 2, 0, 0x55667788});
}

static void functions_labels_and_tables_are_followed(void **state)
{
    (void)state;
    CHECK({"mov.u32 %r4, 0;\nLOOP: add.u32 %r0, %r0, %r4; add.u32 %r4, %r4, 1; setp.lt.u32 %p4, "
           "%r4, %r1; @%p4 bra LOOP;",
           'r', 10, 0, 0, 45},
          {"{ .reg .pred %p1; .reg .b32 x; setp.eq.u32 %p1, 1, 1; mov.u32 x, 3; @%p1 bra IN; "
           "mov.u32 x, 4;\nIN: mov.u32 %r0, x; }\n",
           'r', 0, 0, 0, 3},
          {"brx.idx %r1, TABLE;\nTABLE: .branchtargets A, B, C;\nA: mov.u32 %r0, 1; bra END;\nB: "
           "mov.u32 %r0, 2; bra END;\nC: mov.u32 %r0, 3;\nEND:",
           'r', 1, 0, 0, 2});
    char text[4096];
    struct memory m = {.in = {5, 6}};
    struct err e = {0};
    snprintf(text, sizeof text, "%s%s%s%s",
             ".version 8.0\n.target sm_80\n.address_size 64\n.func (.param .b32 r) twice(.param "
             ".b32 x)\n"
             "{ .reg .b32 %r<3>; ld.param.u32 %r1, [x]; add.u32 %r2, %r1, %r1; st.param.b32 [r+0], "
             "%r2; ret; }\n",
             strstr(before, ".visible"),
             "{ .param .b32 p0; st.param.b32 [p0+0], %r1; .param .b32 q; call.uni (q), twice, "
             "(p0); ld.param.b32 %r0, [q+0]; }\n"
             "{ .param .b32 p0; st.param.b32 [p0+0], %r0; .param .b32 q; call.uni (q), twice, "
             "(p0); ld.param.b32 %r0, [q+0]; }\n",
             after['r']);
    if (run_text(text, m.in, m.out, sizeof m.in, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(m.out[0], 20);
}

static void says(const char *body, const char *part)
{
    char text[4096];
    struct memory m = {.in = {5, 6}};
    struct err e = {0};
    snprintf(text, sizeof text, "%s%s\n}\n", before, body);
    if (run_text(text, m.in, m.out, sizeof m.in, &e) == 0)
        fail_msg("%s: it ran", body);
    if (strstr(e.msg, part) == NULL || strstr(e.msg, "test.ptx:") == NULL)
        fail_msg("%s: says '%s'", body, e.msg);
}

static void what_is_not_known_is_named_with_its_line(void **state)
{
    (void)state;
    says("wgmma.fence.sync.aligned;", "test.ptx:16: wgmma.fence.sync.aligned: unknown instruction");
    says("add.f32.quickly %f0, %f1, %f2;", "unknown qualifier .quickly");
    says("add.f32 %f0, %f1;", "it has 2 operands, not 3");
    says("add.u32 %r0, %rd1, %r2;", "another width");
    says("mov.u32 %r0, %nosuch;", "unknown name %nosuch");
    says("bra NOWHERE;", "there is no label NOWHERE");
    says("add.u32 5, %r1, %r2;", "must go to a register");
    says("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 %r0, %r1, %r2, %r3;", "not supported");
    says("call nothing;", "no body of nothing");
    says("ld.global.u32 %r0, [%rd10;", "expected ']'");
    says("add.u32 %r0, %r1, 0xfffffffffffffffff;", "expected an operand");
}

static void what_a_thread_does_wrong_is_named(void **state)
{
    (void)state;
    says("ld.global.u32 %r0, [%rd10+32];", "4 bytes at offset 32 of in, which has 32");
    says("st.global.u64 [%rd11+30], %rd1;", "not aligned to 8");
    says("ld.global.v4.u32 {%r0, %r4, %r5, %r6}, [%rd10+8];", "not aligned to 16");
    says("mov.u64 %rd4, 8; ld.global.u32 %r0, [%rd4];", "is not memory");
    says("st.param.u32 [in], %r0;", "parameters are constant");
    says(".shared .u32 s; ld.shared.u32 %r0, [s+4];", "offset 4 of shared memory, which has");
    says("trap;", "trap");
    says("L: bra L;", "it has run for");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_wrap_and_keep_their_width),
        cmocka_unit_test(bits_are_moved_counted_and_mixed),
        cmocka_unit_test(comparisons_know_order_and_nan),
        cmocka_unit_test(floats_round_as_asked),
        cmocka_unit_test(halves_are_rounded_once),
        cmocka_unit_test(conversions_round_clamp_and_extend),
        cmocka_unit_test(memory_has_all_widths_and_spaces),
        cmocka_unit_test(functions_labels_and_tables_are_followed),
        cmocka_unit_test(what_is_not_known_is_named_with_its_line),
        cmocka_unit_test(what_a_thread_does_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
