#!/usr/bin/env python3
"""Writes tests/fixtures/quant_blocks.bin: random packed blocks of every weight type and the floats
that the reference reader of GGUF files (the `gguf` package) makes of them.  test_quant.c compares
quant_unpack with it bit by bit.

    pip install gguf numpy && tools/make_quant_fixture.py

Records, little-endian: u32 type, u32 n_elements, u32 n_bytes, packed bytes, n_elements f32."""
import os
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# type: (number of blocks, byte offsets of its f16 scales in a block)
TYPES = {
    T.F16: (64, [0]), T.BF16: (64, []),
    T.Q4_0: (5, [0]), T.Q4_1: (5, [0, 2]), T.Q5_0: (5, [0]), T.Q5_1: (5, [0, 2]), T.Q8_0: (5, [0]),
    T.Q2_K: (2, [80, 82]), T.Q3_K: (2, [108]), T.Q4_K: (2, [0, 2]), T.Q5_K: (2, [0, 2]),
    T.Q6_K: (2, [208]), T.IQ4_NL: (5, [0]), T.MXFP4: (12, []),
}


def main():
    rng = np.random.default_rng(20240607)
    path = os.path.join(os.path.dirname(__file__), "../tests/fixtures/quant_blocks.bin")
    with open(path, "wb") as out:
        for t, (n_blocks, halves) in TYPES.items():
            block, size = GGML_QUANT_SIZES[t]
            raw = rng.integers(0, 256, (n_blocks, size), dtype=np.uint8)
            for at in halves:
                scales = rng.normal(0, 0.1, n_blocks).astype(np.float16)
                scales[0] = np.float16(3e-7)  # a subnormal half
                raw[:, at:at + 2] = scales.reshape(-1, 1).view(np.uint8)
            if t == T.MXFP4:  # every special exponent; 255 is not a number in E8M0 but has bits
                raw[:8, 0] = [0, 1, 2, 3, 127, 128, 200, 254]
            if t == T.BF16:  # no NaN: its payload is nobody's contract
                raw[:, 1] &= 0xBF
            floats = dequantize(raw, t).astype("<f4").ravel()
            assert floats.size == n_blocks * block
            out.write(struct.pack("<III", int(t), floats.size, raw.size))
            out.write(raw.tobytes() + floats.tobytes())
    print(os.path.normpath(path), os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
