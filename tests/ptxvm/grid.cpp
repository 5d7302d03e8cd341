/* Runs the kernels of kernels/cuda as PTX where tests/cuemu would run them as host code: the launchers,
 * the backend, the streams and the device's memory are the same, so every kcheck can be asked twice.
 *
 * PTXVM_PTX: the folder with one .ptx a .cu.  PTXVM_SEED: the order of warps.  PTXVM_REPORT: a line for
 * each kernel at the end.  PTXVM_ACCESSES: a file for what its accesses cost (tools/cuda_accesses.py). */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <dirent.h>

#include "tests/cuemu/cuemu_int.h"
extern "C" {
#include "tests/ptxvm/ptxvm.h"
}
#include "tests/ptxvm/symbol.h"

namespace
{

struct piece {
    const void *p;
    size_t bytes;
    bool operator==(const piece &o) const { return p == o.p && bytes == o.bytes; }
};

ptxvm *vm;
std::vector<piece> mapped;

cudaError_t died(const char *kernel, const char *why, cudaError_t error)
{
    cuemu_set_report((std::string(kernel) + " as PTX: " + why).c_str());
    return error;
}

void write_accesses()
{
    if (FILE *f = fopen(getenv("PTXVM_ACCESSES"), "w")) {
        ptxvm_accesses(vm, f);
        fclose(f);
    }
}

bool open_vm(err *e)
{
    const char *folder = getenv("PTXVM_PTX"), *seed = getenv("PTXVM_SEED");
    ptxvm_options o = {};
    o.seed = seed ? strtoull(seed, nullptr, 10) : 0;
    o.races = true;
    o.accesses = getenv("PTXVM_ACCESSES") != nullptr;
    if (ptxvm_open(&vm, &o, e) != 0)
        return false;
    if (folder == nullptr)
        folder = "build/ptxvm/kernels/cuda";
    DIR *d = opendir(folder);
    if (d == nullptr) {
        err_set(e, ERR_IO, "there is no folder %.200s", folder);
        return false;
    }
    bool ok = true;
    for (dirent *f; ok && (f = readdir(d)) != nullptr;) {
        const std::string name = f->d_name;
        if (name.size() > 4 && name.compare(name.size() - 4, 4, ".ptx") == 0)
            ok = ptxvm_load(vm, (std::string(folder) + "/" + name).c_str(), e) == 0;
    }
    closedir(d);
    if (ok && getenv("PTXVM_REPORT"))
        atexit([] { ptxvm_report(vm, stdout); });
    if (ok && getenv("PTXVM_ACCESSES"))
        atexit(write_accesses);
    return ok;
}

/* The machine sees what is allocated now, and nothing else. */
bool share_memory(err *e)
{
    std::vector<piece> now;
    cuemu_each_allocation(
        [](void *list, const void *p, size_t bytes) {
            if (bytes)
                static_cast<std::vector<piece> *>(list)->push_back({p, bytes});
        },
        &now);
    if (now == mapped)
        return true;
    for (const piece &m : mapped)
        ptxvm_unmap(vm, m.p, nullptr);
    mapped.clear();
    for (const piece &m : now) {
        if (ptxvm_map(vm, m.p, m.bytes, "an allocation", e) != 0)
            return false;
        mapped.push_back(m);
    }
    return true;
}

} // namespace

cudaError_t cuemu_ptx_run(const cuemu_grid *g)
{
    err e = {};
    static bool ready = open_vm(&e);
    if (!ready || !share_memory(&e))
        return died(g->name, e.msg, cudaErrorUnknown);
    const char *symbol = symbol_name(g->kernel->function());
    if (symbol == nullptr)
        return died(g->name, "its function has no name", cudaErrorUnknown);
    void *args[32];
    g->kernel->arguments(args);
    struct ptxvm_launch l = {};
    l.kernel = symbol;
    l.grid[0] = g->grid.x, l.grid[1] = g->grid.y, l.grid[2] = g->grid.z;
    l.block[0] = g->block.x, l.block[1] = g->block.y, l.block[2] = g->block.z;
    l.shared_bytes = (uint32_t)g->shared_bytes;
    l.args = args;
    if (ptxvm_launch(vm, &l, &e) != 0)
        return died(g->name, e.msg, cudaErrorLaunchFailure);
    cuemu_counts *c = cuemu_counter(g->name);
    c->launches++;
    return cudaSuccess;
}
