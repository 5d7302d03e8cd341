/* Kernels that the emulation knows, what a launch may ask of them, and launches. */
#include <stdio.h>

#include <map>

#include "tests/cuemu/cuemu_int.h"

namespace
{

struct known_kernel {
    const char *name;
    cuemu_make_fn *make;
    /* Dynamic bytes that a launch may have, until told otherwise: 48 KiB less the static ones, which are not known
     * here. */
    int shared_max = 47 * 1024;
};
std::map<const void *, known_kernel> kernels;

} // namespace

void cuemu_known(const char *name, const void *function, cuemu_make_fn *make)
{
    cuemu_guard g(cuemu_lock);
    kernels[function].name = name;
    kernels[function].make = make;
}

extern "C" {

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *function)
{
    cuemu_guard g(cuemu_lock);
    auto known = kernels.find(function);
    if (known == kernels.end())
        return cuemu_failed(cudaErrorInvalidValue);
    a->maxDynamicSharedSizeBytes = known->second.shared_max;
    a->ptxVersion = 90;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute, int value)
{
    cuemu_guard g(cuemu_lock);
    auto known = kernels.find(function);
    if (known == kernels.end() || value < 0 || value > 227 * 1024)
        return cuemu_failed(cudaErrorInvalidValue);
    known->second.shared_max = value;
    return cudaSuccess;
}

#undef gridDim /* kernels' words, here members' */
#undef blockDim
/* A kernel that may begin early begins as late as any other; but fiber.cpp sees whether it waits. */
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function, void **args)
{
    cuemu_guard g(cuemu_lock);
    const dim3 grid = config->gridDim, block = config->blockDim;
    const size_t shared_bytes = config->dynamicSmemBytes;
    const cudaStream_t stream = config->stream;
    const bool early =
        config->numAttrs > 0 && config->attrs->val.programmaticStreamSerializationAllowed;
    auto known = kernels.find(function);
    if (known == kernels.end())
        return cuemu_failed(cudaErrorInvalidValue);
    if (cuemu_injected(CUEMU_LAUNCH))
        return cuemu_failed(cudaErrorLaunchFailure);
    const char *name = known->second.name;
    if (cuemu_stream_device(stream) != cuemu_device) {
        cuemu_set_report("a launch in a stream of another device");
        return cuemu_failed(cudaErrorInvalidResourceHandle);
    }
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 ||
        grid.z == 0 || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535 ||
        shared_bytes > (size_t)known->second.shared_max) {
        char text[200];
        snprintf(text, sizeof text,
                 "%s: a launch of (%u, %u, %u) blocks of %llu threads, %zu bytes", name, grid.x,
                 grid.y, grid.z, (unsigned long long)threads, shared_bytes);
        cuemu_set_report(text);
        return cuemu_failed(cudaErrorInvalidConfiguration);
    }
    cuemu_work w = {};
    w.kind = cuemu_work::KERNEL;
    w.grid = {name,         grid, block, shared_bytes, known->second.make(function, args),
              cuemu_device, early};
    return cuemu_enqueue(stream, std::move(w));
}

} // extern "C"
