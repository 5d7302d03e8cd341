/* PTX of any bytes: what is read is translated, and what is translated may be run by one small block over
 * a page of memory. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "tests/ptxvm/ptxvm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t memory[512] __attribute__((aligned(4096)));
    static uint64_t args[4096]; /* whatever a kernel calls its parameters */
    static void *list[256];
    struct ptxvm *vm;
    struct err e = {0};
    if (ptxvm_open(&vm, &(struct ptxvm_options){.races = true, .max_instructions = 20000}, &e) != 0)
        return 0;
    for (int n = 0; n < 256; n++)
        list[n] = args;
    args[0] = (uint64_t)(uintptr_t)memory;
    if (ptxvm_map(vm, memory, sizeof memory, "memory", &e) == 0 &&
        ptxvm_load_text(vm, "fuzz.ptx", (const char *)data, size, &e) == 0) {
        for (int n = 0; ptxvm_kernel(vm, n) && n < 4; n++) {
            const struct ptxvm_launch l = {.kernel = ptxvm_kernel(vm, n),
                                           .grid = {2, 1, 1},
                                           .block = {40, 1, 1},
                                           .shared_bytes = 64,
                                           .args = list};
            ptxvm_launch(vm, &l, &e);
        }
    }
    ptxvm_close(vm);
    return 0;
}
