/* The avx512 level: the templates in the words of vec_avx512.h. */
#include "kernels/cpu/cpu_ops.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/quant_avx512.h"
#ifndef DUETTO_SIMDE /* else inherited */
#include "kernels/cpu/round_avx512.h"
#endif

/* The templates, written in the words of the header above. */
#include "kernels/cpu/math_tmpl.h"

#include "kernels/cpu/elem_tmpl.h"

#include "kernels/cpu/attn_q8_tmpl.h"
#include "kernels/cpu/attn_tmpl.h"
#include "kernels/cpu/conv_win_tmpl.h"
#include "kernels/cpu/linear_tmpl.h"
#include "kernels/cpu/norm_tmpl.h"
#include "kernels/cpu/peak_tmpl.h"
#include "kernels/cpu/rope_tmpl.h"
#include "kernels/cpu/sgemm_tmpl.h"

#include "kernels/cpu/attn_dense_tmpl.h"

const struct cpu_ops cpu_ops_avx512 = {
    .rmsnorm_row = rmsnorm_row,
    .rope_pair_row = rope_pair_row,
    .rope_half_row = rope_half_row,
    .add = add,
    .glu = glu,
    .act = act_all,
    .prelu = prelu,
    .layernorm_row = layernorm_row,
    .group_sums = group_sums,
    .group_scale = group_scale,
    .f16_pack = f16_pack,
    .f16_unpack = f16_unpack,
    .exp_all = exp_all,
    .attn_tile = attn_tile,
    .attn_tile_q8 = attn_tile_q8,
    .attn_merge = attn_merge,
#ifndef DUETTO_SIMDE
    .linear_quant = linear_quant,
#endif
    .linear_dot = linear_dot,
    .linear_expand = linear_expand,
    .linear_expand_rows = linear_expand_rows,
    .linear_gemm = linear_gemm,
    .linear_plain = linear_plain,
    .sgemm_rows = sgemm_rows,
    .sgemm_cols = sgemm_cols,
    .sgemm_expand = sgemm_expand,
    .conv_win_input = conv_win_input,
    .conv_win_weights = conv_win_weights,
    .conv_win_output = conv_win_output,
    .attn_dense_chunk = attn_dense_chunk,
    .peak_int8 = peak_int8,
    .peak_f32 = peak_f32,
};
