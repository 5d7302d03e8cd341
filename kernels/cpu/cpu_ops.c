/* Which instruction levels this machine has, and the table of a level: its own entries over those of
 * the levels below. */
#include "kernels/cpu/cpu_ops.h"

#include <cpuid.h>

const char *cpu_isa_name(enum cpu_isa isa)
{
    static const char *const names[CPU_ISA_N] = {"scalar", "avx2", "avx512", "avx512vnni"};
    return names[isa];
}

enum cpu_isa cpu_isa_detect(void)
{
    unsigned eax, ebx, ecx, edx;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return CPU_SCALAR;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_F16C))
        return CPU_SCALAR;
#if defined(DUETTO_SIMDE) /* the levels above are emulated with AVX2 */
    return CPU_AVX512VNNI;
#else
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return CPU_AVX2;
    if (!__builtin_cpu_supports("avx512vnni"))
        return CPU_AVX512;
    return CPU_AVX512VNNI;
#endif
}

/* clang-format off */
void cpu_ops_init(struct cpu_ops *ops, enum cpu_isa isa)
{
    static const struct cpu_ops *const tables[CPU_ISA_N] = {
        &cpu_ops_scalar, &cpu_ops_avx2, &cpu_ops_avx512, &cpu_ops_avx512vnni};
    *ops = *tables[CPU_SCALAR];
    for (int i = CPU_AVX2; i <= (int)isa; i++) {
#define X(ret, name, params) if (tables[i]->name) ops->name = tables[i]->name;
        CPU_OPS(X)
#undef X
    }
}
/* clang-format on */
