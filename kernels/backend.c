/* Finds the device that a name means. */
#include "kernels/backend.h"

#include <stdio.h>
#include <string.h>

#include "kernels/cpu/cpu_backend.h"

/* "cpu, cpu/scalar, cpu/avx2": what this machine has. */
static void backend_list(char *text, size_t size)
{
    int at = snprintf(text, size, "cpu");
    for (int isa = 0; isa <= (int)cpu_isa_detect() && at < (int)size; isa++)
        at += snprintf(text + at, size - (size_t)at, ", cpu/%s", cpu_isa_name((enum cpu_isa)isa));
}

int backend_open(struct backend **out, const char *name, int n_threads, struct err *e)
{
    if (strcmp(name, "cpu") == 0)
        return cpu_backend_open(out, cpu_isa_detect(), n_threads, e);
    char have[96];
    backend_list(have, sizeof(have));
    if (strncmp(name, "cpu/", 4) == 0) {
        for (int isa = 0; isa < CPU_ISA_N; isa++) {
            if (strcmp(name + 4, cpu_isa_name((enum cpu_isa)isa)) != 0)
                continue;
            if (isa <= (int)cpu_isa_detect())
                return cpu_backend_open(out, (enum cpu_isa)isa, n_threads, e);
            return err_set(e, ERR_UNSUPPORTED, "this machine has no %s; there is: %s", name + 4,
                           have);
        }
    }
    if (strcmp(name, "cuda") == 0 || strncmp(name, "cuda:", 5) == 0)
        return err_set(e, ERR_UNSUPPORTED, "%.40s: CUDA is not built in; there is: %s", name, have);
    return err_set(e, ERR_UNSUPPORTED, "no device is named '%.40s'; there is: %s", name, have);
}
