/* What threads do together: shuffles, votes, matrices, barriers; and that what is wrong with it is found:
 * missing barriers and syncwarps, cp.async read early, divergent barriers, lanes that are not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/quant.h"
#include "tests/ptxvm/ptxvm.h"

#define MAX_THREADS 256

/* Thread t: %r1 = t, %r2 = in[t], %r3 = lane; it stores %r0 to out[t].  Shared memory: s[4096]. */
static const char before[] =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry t(.param .u64 in, .param .u64 out)\n{\n"
    ".reg .b64 %rd<20>; .reg .b32 %r<40>; .reg .b16 %h<8>; .reg .f32 %f<20>; .reg .pred %p<8>;\n"
    ".shared .align 16 .b8 s[4096];\n"
    "ld.param.u64 %rd10, [in]; ld.param.u64 %rd11, [out];\n"
    "mov.u32 %r1, %tid.x; mov.u32 %r3, %laneid; mul.wide.u32 %rd1, %r1, 4;\n"
    "add.u64 %rd12, %rd10, %rd1; add.u64 %rd13, %rd11, %rd1; ld.global.u32 %r2, [%rd12];\n"
    "shl.b32 %r4, %r1, 2; mov.u32 %r5, s; add.u32 %r6, %r5, %r4; mov.u32 %r0, 0;\n";
static const char after[] = "\nst.global.u32 [%rd13], %r0;\nret;\n}\n";

struct run {
    uint32_t in[4 * MAX_THREADS], out[4 * MAX_THREADS];
    struct err e;
    struct ptxvm_stats stats;
};
static struct run run;

/* Whatever the order of warps; seed 0: one after the other. */
static int launch(const char *body, uint32_t threads, uint64_t seed)
{
    static char text[1 << 16];
    struct ptxvm *vm;
    void *in = run.in, *out = run.out;
    run.e = (struct err){0};
    memset(run.out, 0, sizeof run.out);
    snprintf(text, sizeof text, "%s%s%s", before, body, after);
    const struct ptxvm_options o = {.seed = seed, .races = true, .max_instructions = 1 << 22};
    assert_int_equal(ptxvm_open(&vm, &o, &run.e), 0);
    int rc = ptxvm_load_text(vm, "test.ptx", text, strlen(text), &run.e);
    if (rc == 0) {
        ptxvm_map(vm, run.in, sizeof run.in, "in", &run.e);
        ptxvm_map(vm, run.out, sizeof run.out, "out", &run.e);
        const struct ptxvm_launch l = {.kernel = "t",
                                       .grid = {1, 1, 1},
                                       .block = {threads, 1, 1},
                                       .args = (void *[]){&in, &out}};
        rc = ptxvm_launch(vm, &l, &run.e);
        run.stats = ptxvm_stats(vm, "t");
    }
    ptxvm_close(vm);
    return rc;
}

static void good(const char *body, uint32_t threads)
{
    for (uint64_t seed = 0; seed < 4; seed++)
        if (launch(body, threads, seed) != 0)
            fail_msg("%s: %s", body, run.e.msg);
}

static void bad(const char *body, uint32_t threads, const char *part)
{
    for (uint64_t seed = 0; seed < 4; seed++) {
        if (launch(body, threads, seed) == 0)
            fail_msg("%s: it ran", body);
        if (strstr(run.e.msg, part) == NULL)
            fail_msg("%s: says '%s'", body, run.e.msg);
    }
}

static int set_up(void **state)
{
    (void)state;
    for (uint32_t n = 0; n < 4 * MAX_THREADS; n++)
        run.in[n] = n * 7 + 1;
    return 0;
}

#define EACH(threads, want)                  \
    for (uint32_t t = 0; t < (threads); t++) \
    assert_int_equal(run.out[t], (uint32_t)(want))

static void shuffles_read_the_lane_they_name(void **state)
{
    (void)state;
    good("shfl.sync.bfly.b32 %r0, %r2, 5, 31, -1;", 64);
    EACH(64, run.in[t ^ 5]);
    good("shfl.sync.up.b32 %r0|%p1, %r2, 3, 0, -1;", 32);
    EACH(32, run.in[t < 3 ? t : t - 3]);
    good("shfl.sync.down.b32 %r0|%p1, %r2, 3, 31, -1; @!%p1 mov.u32 %r0, 0;", 32);
    EACH(32, t + 3 < 32 ? run.in[t + 3] : 0);
    good("shfl.sync.idx.b32 %r0, %r2, 9, 0x1807, -1;", 32); /* in groups of 8 */
    EACH(32, run.in[(t & 24) + 1]);
    /* Half of the warp, on its own way. */
    good("setp.lt.u32 %p1, %r3, 16; @!%p1 bra ELSE;\nshfl.sync.bfly.b32 %r0, %r2, 1, 31, 0xffff; "
         "bra END;\n"
         "ELSE: mov.u32 %r0, 5;\nEND:",
         32);
    EACH(32, t < 16 ? run.in[t ^ 1] : 5);
}

static void votes_matches_and_sums_cover_their_members(void **state)
{
    (void)state;
    good("setp.lt.u32 %p1, %r3, 5; vote.sync.ballot.b32 %r0, %p1, -1;", 32);
    EACH(32, 31);
    good("setp.lt.u32 %p1, %r3, 5; vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, !%p1, "
         "-1;\n"
         "selp.u32 %r0, 1, 0, %p2; selp.u32 %r7, 2, 0, %p3; or.b32 %r0, %r0, %r7;",
         32);
    EACH(32, 1);
    good("redux.sync.add.u32 %r0, %r3, -1;", 32);
    EACH(32, 496);
    good("sub.u32 %r7, %r3, 16; redux.sync.min.s32 %r0, %r7, -1;", 32);
    EACH(32, -16);
    good("and.b32 %r7, %r3, 3; match.any.sync.b32 %r0, %r7, -1;", 32);
    EACH(32, 0x11111111u << (t & 3));
    good("activemask.b32 %r0;", 32);
    EACH(32, 0xffffffff);
}

static void lanes_that_part_meet_again(void **state)
{
    (void)state;
    /* Lane l goes round l times; then all of them vote. */
    good("mov.u32 %r7, %r3;\nLOOP: setp.eq.u32 %p1, %r7, 0; @%p1 bra END; add.u32 %r7, %r7, -1; "
         "add.u32 %r8, %r8, 1;\n"
         "bra LOOP;\nEND: activemask.b32 %r9; mov.u32 %r0, %r9;",
         32);
    EACH(32, 0xffffffff);
    good("setp.lt.u32 %p1, %r3, 20; @%p1 bra A; setp.lt.u32 %p2, %r3, 25; @%p2 bra B; mov.u32 %r0, "
         "3; bra END;\n"
         "A: mov.u32 %r0, 1; bra END;\nB: mov.u32 %r0, 2;\nEND: bar.warp.sync -1;",
         32);
    EACH(32, t < 20 ? 1 : t < 25 ? 2 : 3);
    /* Those who leave early do not keep the others waiting. */
    good("setp.ge.u32 %p1, %r3, 16; @%p1 ret; bar.warp.sync -1; redux.sync.add.u32 %r0, 1, 0xffff;",
         32);
    EACH(32, t < 16 ? 16 : 0);
}

static void barriers_bring_writes_to_other_warps(void **state)
{
    (void)state;
    good("st.shared.u32 [%r6], %r2; bar.sync 0; xor.b32 %r7, %r4, 512; add.u32 %r7, %r7, %r5;\n"
         "ld.shared.u32 %r0, [%r7];",
         256);
    EACH(256, run.in[t ^ 128]);
    good("setp.lt.u32 %p1, %r1, 70; barrier.sync.aligned 0; bar.red.popc.u32 %r0, 1, %p1;", 96);
    EACH(96, 70);
    good("setp.lt.u32 %p1, %r1, 70; bar.red.and.pred %p2, 0, %p1; selp.u32 %r0, 1, 2, %p2;", 96);
    EACH(96, 2);
    /* A warp brings, another fetches; the third has no part in it. */
    good("setp.lt.u32 %p1, %r1, 32; @%p1 bra BRING; setp.ge.u32 %p1, %r1, 64; @%p1 bra END; "
         "bar.sync 1, 64;\n"
         "ld.shared.u32 %r0, [%r6+-128]; bra END;\nBRING: st.shared.u32 [%r6], %r2; bar.arrive 1, "
         "64;\nEND:",
         96);
    EACH(96, t >= 32 && t < 64 ? run.in[t - 32] : 0);
    /* A sum in shared memory by atomics, in any order. */
    good("setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [%r5], 0; bar.sync 0; atom.shared.add.u32 "
         "%r7, [%r5], %r1;\n"
         "bar.sync 0; ld.shared.u32 %r0, [%r5];",
         256);
    EACH(256, 255 * 128);
}

/* in as 16 x 16 and 16 x 8 halves, out[row][col] in the accumulators' order. */
static void mma_is_the_product_of_its_matrices(void **state)
{
    (void)state;
    uint16_t a[16][16], b[16][8];
    for (int n = 0; n < 256; n++)
        a[n / 16][n % 16] = f32_to_f16((float)(n * 37 % 64 - 32) / 8);
    for (int n = 0; n < 128; n++)
        b[n / 8][n % 8] = f32_to_f16((float)(n * 29 % 64 - 30) / 4);
    memcpy(run.in, a, sizeof a);
    memcpy(run.in + 128, b, sizeof b);
    /* Both to shared memory, A by ldmatrix, B by ldmatrix.trans. */
    good("mov.u32 %r7, 0;\nCOPY: shl.b32 %r8, %r3, 2; mad.lo.u32 %r8, %r7, 128, %r8; cvt.u64.u32 "
         "%rd2, %r8; add.u64 %rd2, %rd2, %rd10;\n"
         "ld.global.u32 %r9, [%rd2]; add.u32 %r8, %r8, %r5; st.shared.u32 [%r8], %r9; add.u32 %r7, "
         "%r7, 1;\n"
         "setp.lt.u32 %p1, %r7, 6; @%p1 bra COPY; bar.warp.sync -1;\n"
         "and.b32 %r7, %r3, 15; shr.u32 %r8, %r3, 4; shl.b32 %r7, %r7, 5; shl.b32 %r8, %r8, 4; "
         "add.u32 %r7, %r7, %r8; add.u32 %r7, %r7, %r5;\n"
         "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r7];\n"
         "and.b32 %r7, %r3, 15; shl.b32 %r7, %r7, 4; add.u32 %r7, %r7, %r5;\n"
         "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r14, %r15}, [%r7+512];\n"
         "mov.f32 %f1, 0f3F800000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;\n"
         "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r10, %r11, "
         "%r12, %r13}, {%r14, %r15}, {%f1, %f2, %f3, %f4};\n"
         "shl.b32 %r7, %r3, 4; cvt.u64.u32 %rd2, %r7; add.u64 %rd2, %rd2, %rd11; st.global.v4.f32 "
         "[%rd2], {%f1, %f2, %f3, %f4}; ret;",
         32);
    for (int l = 0; l < 32; l++)
        for (int r = 0; r < 4; r++) {
            int row = l / 4 + (r & 2) * 4, col = l % 4 * 2 + (r & 1);
            float want = 1, have;
            for (int k = 0; k < 16; k++)
                want += f16_to_f32(a[row][k]) * f16_to_f32(b[k][col]);
            memcpy(&have, &run.out[4 * l + r], sizeof have);
            assert_true(have == want);
        }
    assert_int_equal(run.stats.mma, 1);
    set_up(NULL);
}

/* Bytes: every element of A is its row, of B its column, so the sums tell where each came from. */
static void mma_of_bytes_is_exact(void **state)
{
    (void)state;
    good("shr.u32 %r7, %r3, 2; mul.lo.u32 %r8, %r7, 0x01010101; add.u32 %r9, %r8, 0x08080808;\n"
         "mov.u32 %r20, 1; mov.u32 %r21, 2; mov.u32 %r22, 3; mov.u32 %r23, 4;\n"
         "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r20, %r21, %r22, %r23}, {%r8, %r9, "
         "%r8, %r9}, {%r8, %r8}, {%r20, %r21, %r22, %r23};\n"
         "shl.b32 %r7, %r3, 4; cvt.u64.u32 %rd2, %r7; add.u64 %rd2, %rd2, %rd11; st.global.v4.u32 "
         "[%rd2], {%r20, %r21, %r22, %r23}; ret;",
         32);
    for (int l = 0; l < 32; l++)
        for (int r = 0; r < 4; r++) {
            int row = l / 4 + (r & 2) * 4, col = l % 4 * 2 + (r & 1);
            assert_int_equal(run.out[4 * l + r], 32 * row * col + r + 1);
        }
}

static void copies_land_at_their_wait(void **state)
{
    (void)state;
    good("shl.b32 %r7, %r1, 4; add.u32 %r8, %r5, %r7; cvt.u64.u32 %rd2, %r7; add.u64 %rd3, %rd10, "
         "%rd2;\n"
         "cp.async.cg.shared.global [%r8], [%rd3], 16; cp.async.commit_group;\n"
         "cp.async.wait_group 0; bar.sync 0; ld.shared.u32 %r0, [%r6];",
         256);
    EACH(256, run.in[t]);
    /* The second of two groups may be on its way. */
    good("shl.b32 %r7, %r1, 2; cvt.u64.u32 %rd2, %r7; add.u64 %rd3, %rd10, %rd2;\n"
         "cp.async.ca.shared.global [%r6], [%rd3], 4; cp.async.commit_group;\n"
         "cp.async.ca.shared.global [%r6+2048], [%rd3], 4; cp.async.commit_group;\n"
         "cp.async.wait_group 1; ld.shared.u32 %r0, [%r6];",
         128);
    EACH(128, run.in[t]);
    bad("shl.b32 %r7, %r1, 2; cvt.u64.u32 %rd2, %r7; add.u64 %rd3, %rd10, %rd2;\n"
        "cp.async.ca.shared.global [%r6], [%rd3], 4; cp.async.commit_group;\n"
        "cp.async.ca.shared.global [%r6+2048], [%rd3], 4; cp.async.commit_group;\n"
        "cp.async.wait_group 1; ld.shared.u32 %r0, [%r6+2048];",
        128, "where a cp.async has not been waited for");
    /* Waited for, but by the thread that copied alone. */
    bad("shl.b32 %r7, %r1, 2; cvt.u64.u32 %rd2, %r7; add.u64 %rd3, %rd10, %rd2;\n"
        "cp.async.ca.shared.global [%r6], [%rd3], 4; cp.async.wait_all; xor.b32 %r7, %r6, 64; "
        "ld.shared.u32 %r0, [%r7];",
        64, "no syncwarp between");
    bad("cp.async.cg.shared.global [%r6], [%rd10], 16;", 32, "not aligned to 16");
}

static void a_missing_barrier_is_found(void **state)
{
    (void)state;
    bad("st.shared.u32 [%r6], %r2; xor.b32 %r7, %r4, 128; add.u32 %r7, %r7, %r5; ld.shared.u32 "
        "%r0, [%r7];",
        64, "no barrier between");
    /* The second round overwrites what others still read. */
    bad("st.shared.u32 [%r6], %r2; bar.sync 0; xor.b32 %r7, %r4, 128; add.u32 %r7, %r7, %r5;\n"
        "ld.shared.u32 %r0, [%r7]; st.shared.u32 [%r6], %r0;",
        64, "no barrier between");
    bad("st.shared.u32 [%r5], %r2;", 64, "writes shared byte 0 that thread");
    bad("bar.warp.sync -1; st.shared.u32 [%r6], %r2; bar.warp.sync -1; xor.b32 %r7, %r4, 128; "
        "add.u32 %r7, %r7, %r5;\n"
        "ld.shared.u32 %r0, [%r7];",
        64, "no barrier between");
}

/* Thread 0 tells other blocks that all threads have stored. */
static void a_release_without_its_barriers_is_found(void **state)
{
    (void)state;
    good("st.global.u32 [%rd13], %r1; bar.sync 0; setp.eq.u32 %p1, %r1, 0;\n"
         "@%p1 atom.acq_rel.gpu.add.u32 %r7, [%rd11+4000], 1; bar.sync 0;",
         64);
    good("st.global.u32 [%rd13], %r1; setp.eq.u32 %p1, %r1, 0;\n"
         "@%p1 atom.add.u32 %r7, [%rd11+4000], 1;", /* it tells nothing but itself */
         64);
    bad("st.global.u32 [%rd13], %r1; setp.eq.u32 %p1, %r1, 0;\n"
        "@%p1 atom.acq_rel.gpu.add.u32 %r7, [%rd11+4000], 1; bar.sync 0;",
        64, "no barrier between");
    bad("st.global.u32 [%rd13], %r1; bar.sync 0; setp.eq.u32 %p1, %r1, 0;\n"
        "@%p1 atom.acq_rel.gpu.add.u32 %r7, [%rd11+4000], 1;",
        64, "no barrier between");
}

static void a_missing_syncwarp_is_found(void **state)
{
    (void)state;
    bad("st.shared.u32 [%r6], %r2; xor.b32 %r7, %r4, 4; add.u32 %r7, %r7, %r5; ld.shared.u32 %r0, "
        "[%r7];",
        32, "no syncwarp between");
    good("st.shared.u32 [%r6], %r2; bar.warp.sync -1; xor.b32 %r7, %r4, 4; add.u32 %r7, %r7, %r5; "
         "ld.shared.u32 %r0, [%r7];",
         32);
    EACH(32, run.in[t ^ 1]);
    bad("st.shared.u32 [%r6], %r2; bar.sync 0; xor.b32 %r7, %r4, 4; add.u32 %r7, %r7, %r5; "
        "ld.shared.u32 %r0, [%r7];\n"
        "st.shared.u32 [%r6], %r0;",
        32, "no syncwarp between");
    bad("st.shared.u32 [%r6], %r2; shl.b32 %r7, %r3, 4; add.u32 %r7, %r5, %r7;\n"
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r7];",
        32, "no syncwarp between");
}

static void divergent_barriers_are_found(void **state)
{
    (void)state;
    bad("setp.lt.u32 %p1, %r1, 40; @!%p1 bra END; bar.sync 0;\nEND:", 64, "divergent barrier");
    bad("setp.lt.u32 %p1, %r1, 32; @!%p1 bra END; bar.sync 0;\nEND:", 64, "divergent barrier");
    bad("setp.lt.u32 %p1, %r1, 32; @!%p1 bra A; bar.sync 0; bra END;\nA: bar.sync 0;\nEND:", 64,
        "divergent barrier");
    bad("setp.ge.u32 %p1, %r1, 50; @%p1 ret; bar.sync 0;", 64, "divergent barrier");
    bad("setp.lt.u32 %p1, %r1, 32; @!%p1 bra A; bar.sync 1; bra END;\nA: bar.sync 2;\nEND:", 64,
        "divergent barrier");
    bad("bar.sync 1, 96;", 64, "has ended");
    bad("bar.sync 17;", 64, "barrier 17");
}

static void lanes_that_are_missing_are_found(void **state)
{
    (void)state;
    bad("setp.lt.u32 %p1, %r3, 16; @!%p1 bra A; shfl.sync.bfly.b32 %r0, %r2, 1, 31, -1; bra END;\n"
        "A: vote.sync.any.pred %p1, %p1, -1;\nEND:",
        32, "deadlock");
    bad("shfl.sync.bfly.b32 %r0, %r2, 1, 31, 0xffff;", 32, "not in its member mask");
    bad("shfl.sync.bfly.b32 %r0, %r2, 1, 31, %r3;", 32, "different member masks");
    bad("movmatrix.sync.aligned.m8n8.trans.b16 %r0, %r2;", 16, "all 32 lanes");
    bad("LOOP: bra LOOP;", 32, "it has run for");
}

/* Blocks of a grid that wait for each other's flags still end. */
static void blocks_take_turns(void **state)
{
    (void)state;
    static const char text[] =
        ".version 8.0\n.target sm_80\n.address_size 64\n.global .align 4 .u32 flag;\n"
        ".visible .entry t(.param .u64 out) {\n.reg .b64 %rd<4>; .reg .b32 %r<4>; .reg .pred "
        "%p<2>;\n"
        "ld.param.u64 %rd1, [out]; mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra "
        "RAISE;\n"
        "WAIT: ld.volatile.global.u32 %r2, [flag]; setp.ne.u32 %p1, %r2, 3; @%p1 bra WAIT;\n"
        "st.global.u32 [%rd1], %r2; ret;\nRAISE: red.global.add.u32 [flag], 1; ret;\n}\n";
    struct ptxvm *vm;
    struct err e = {0};
    size_t bytes = 0;
    uint32_t *flag, out = 0;
    void *p = &out;
    assert_int_equal(ptxvm_open(&vm, &(struct ptxvm_options){.races = true}, &e), 0);
    assert_int_equal(ptxvm_load_text(vm, "t.ptx", text, strlen(text), &e), 0);
    ptxvm_map(vm, &out, sizeof out, "out", &e);
    const struct ptxvm_launch l = {
        .kernel = "t", .grid = {4, 1, 1}, .block = {1, 1, 1}, .args = (void *[]){&p}};
    if (ptxvm_launch(vm, &l, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(out, 3);
    flag = ptxvm_global(vm, "flag", &bytes);
    assert_true(flag != NULL && *flag == 3 && bytes == 4);
    ptxvm_close(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(shuffles_read_the_lane_they_name, set_up),
        cmocka_unit_test_setup(votes_matches_and_sums_cover_their_members, set_up),
        cmocka_unit_test_setup(lanes_that_part_meet_again, set_up),
        cmocka_unit_test_setup(barriers_bring_writes_to_other_warps, set_up),
        cmocka_unit_test_setup(mma_is_the_product_of_its_matrices, set_up),
        cmocka_unit_test_setup(mma_of_bytes_is_exact, set_up),
        cmocka_unit_test_setup(copies_land_at_their_wait, set_up),
        cmocka_unit_test_setup(a_missing_barrier_is_found, set_up),
        cmocka_unit_test_setup(a_release_without_its_barriers_is_found, set_up),
        cmocka_unit_test_setup(a_missing_syncwarp_is_found, set_up),
        cmocka_unit_test_setup(divergent_barriers_are_found, set_up),
        cmocka_unit_test_setup(lanes_that_are_missing_are_found, set_up),
        cmocka_unit_test(blocks_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
