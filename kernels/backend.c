/* Finds the device that a name means. */
#include "kernels/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/quant.h"
#ifdef DUETTO_CUDA
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_team.h"
#endif

/* "cpu, cpu/scalar, cpu/avx2, cuda:0": what this machine has. */
static void backend_list(char *text, size_t size)
{
    int at = snprintf(text, size, "cpu");
    for (int isa = 0; isa <= (int)cpu_isa_detect() && at < (int)size; isa++)
        at += snprintf(text + at, size - (size_t)at, ", cpu/%s", cpu_isa_name((enum cpu_isa)isa));
#ifdef DUETTO_CUDA
    for (int i = 0; i < cuda_backend_count() && at < (int)size; i++)
        at += snprintf(text + at, size - (size_t)at, ", cuda:%d", i);
#endif
}

/* "cuda", "cuda:1" */
static int open_cuda(struct backend **out, const char *name, const char *have, struct err *e)
{
    char *end = NULL;
    long device = name[4] ? strtol(name + 5, &end, 10) : 0;
    if (name[4] && (name[5] < '0' || name[5] > '9' || *end || device > 1023))
        return err_set(e, ERR_UNSUPPORTED, "no device is named '%.40s'; there is: %s", name, have);
#ifdef DUETTO_CUDA
    return cuda_backend_open(out, (int)device, e);
#else
    (void)out;
    return err_set(e, ERR_UNSUPPORTED, "%.40s: CUDA is not built in; there is: %s", name, have);
#endif
}

/* "cuda:0+cuda:1" */
static int open_team(struct backend **out, const char *names, struct err *e)
{
#ifdef DUETTO_CUDA
    struct backend *members[TEAM_MAX];
    int n = 0, rc = 0;
    for (const char *at = names; at && rc == 0; at = strchr(at, '+') ? strchr(at, '+') + 1 : NULL) {
        char name[24];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(at, "+"), at);
        if (n == TEAM_MAX)
            rc = err_set(e, ERR_INVALID, "at most %d devices compute together", TEAM_MAX);
        else if (strncmp(name, "cuda", 4) != 0)
            rc = err_set(e, ERR_UNSUPPORTED, "%s: only CUDA devices compute together", name);
        else
            rc = backend_open(&members[n], name, 0, e);
        n += rc == 0;
    }
    if (rc == 0)
        rc = cuda_team_open(members, n, e);
    for (int i = 0; i < n && rc; i++)
        members[i]->close(members[i]);
    if (rc == 0)
        *out = members[0];
    return rc;
#else
    (void)out;
    return err_set(e, ERR_UNSUPPORTED,
                   "%.80s: only CUDA devices compute together, and CUDA is not built in", names);
#endif
}

int backend_open(struct backend **out, const char *name, int n_threads, struct err *e)
{
    if (strchr(name, '+'))
        return open_team(out, name, e);
    if (strcmp(name, "cpu") == 0)
        return cpu_backend_open(out, cpu_isa_detect(), n_threads, e);
    char have[256];
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
        return open_cuda(out, name, have, e);
    return err_set(e, ERR_UNSUPPORTED, "no device is named '%.40s'; there is: %s", name, have);
}

/* ---- memory of both sides ---- */

void *backend_floats(struct backend *be, enum dtype type, const void *raw, int64_t n, struct err *e)
{
    const size_t bytes = (size_t)n * sizeof(float);
    void *p = be->alloc(be, bytes, e);
    if (!p || be->host_memory) {
        if (p)
            quant_unpack(type, p, raw, n);
        return p;
    }
    float *host = mem_try((size_t)n, sizeof *host);
    if (!host) {
        be->free(be, p);
        err_set(e, ERR_NOMEM, "no memory for %zu MiB", bytes >> 20);
        return NULL;
    }
    quant_unpack(type, host, raw, n);
    be->upload(be, p, host, bytes);
    free(host);
    return p;
}

int backend_mirror_open(struct backend_mirror *m, struct backend *be, size_t bytes, struct err *e)
{
    *m = (struct backend_mirror){.be = be, .device = be->alloc(be, bytes, e)};
    if (!m->device)
        return ERR_NOMEM;
    m->host = be->host_memory ? m->device : be->host_alloc(be, bytes, e);
    if (m->host)
        return 0;
    backend_mirror_close(m);
    return ERR_NOMEM;
}

void backend_mirror_close(struct backend_mirror *m)
{
    if (m->be && m->host != m->device && m->host)
        m->be->host_free(m->be, m->host);
    if (m->be)
        m->be->free(m->be, m->device);
    *m = (struct backend_mirror){.be = NULL};
}

void backend_mirror_push(const struct backend_mirror *m, size_t at, size_t bytes)
{
    if (m->host != m->device)
        m->be->upload(m->be, (char *)m->device + at, (char *)m->host + at, bytes);
}

void backend_mirror_pull(const struct backend_mirror *m, size_t at, size_t bytes)
{
    if (m->host != m->device)
        m->be->download(m->be, (char *)m->host + at, (char *)m->device + at, bytes);
}
