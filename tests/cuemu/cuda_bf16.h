/* __nv_bfloat16 stands beside __half. */
#ifndef TESTS_CUEMU_CUDA_BF16_H
#define TESTS_CUEMU_CUDA_BF16_H
#include "tests/cuemu/cuda_fp16.h"
#endif
