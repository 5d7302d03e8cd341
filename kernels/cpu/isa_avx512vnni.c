/* The avx512vnni level: what differs from avx512 is the integer dot product. */
#include "kernels/cpu/cpu_ops.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/vec_avx512.h"

#define QUANT_VNNI 1
#include "kernels/cpu/quant_avx512.h"

#include "kernels/cpu/math_tmpl.h"

#include "kernels/cpu/attn_q8_tmpl.h"
#include "kernels/cpu/linear_tmpl.h"
#include "kernels/cpu/peak_tmpl.h"

const struct cpu_ops cpu_ops_avx512vnni = {
    .exp_all = exp_all,
    .attn_tile_q8 = attn_tile_q8,
    .linear_dot = linear_dot,
    .linear_expand = linear_expand,
    .linear_expand_rows = linear_expand_rows,
    .linear_gemm = linear_gemm,
    .peak_int8 = peak_int8,
    .peak_f32 = peak_f32,
};
