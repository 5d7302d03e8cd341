/* Addresses without memory, and memory that is mapped into them piece by piece, as CUDA's driver has it.  Each
 * piece is an allocation of its own for the checks of copies; what is not mapped traps. */
#include <string.h>

#include <map>

#include "tests/cuemu/cuda.h"
#include "tests/cuemu/cuemu_int.h"

namespace
{

enum { GRANULARITY = 64 << 10 }; /* a device's is 2 MiB: small models must do here */

struct handle {
    size_t bytes;
    int device;
    char *at; /* NULL: not mapped */
};
std::map<CUmemGenericAllocationHandle, handle> handles;
CUmemGenericAllocationHandle last;

char *address(CUdeviceptr p)
{
    return reinterpret_cast<char *>(static_cast<uintptr_t>(p));
}

CUresult reserve(CUdeviceptr *p, size_t bytes, size_t, CUdeviceptr, unsigned long long)
{
    cuemu_guard g(cuemu_lock);
    char *at = bytes % GRANULARITY == 0 ? cuemu_addresses(bytes) : nullptr;
    *p = reinterpret_cast<uintptr_t>(at);
    return at ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult give_addresses_back(CUdeviceptr p, size_t bytes)
{
    cuemu_guard g(cuemu_lock);
    for (auto &h : handles)
        if (h.second.at >= address(p) && h.second.at < address(p) + bytes && h.second.at)
            return CUDA_ERROR_INVALID_VALUE; /* something is mapped there */
    return CUDA_SUCCESS;
}

CUresult create(CUmemGenericAllocationHandle *h, size_t bytes, const CUmemAllocationProp *prop,
                unsigned long long)
{
    cuemu_guard g(cuemu_lock);
    const int device = prop->location.id;
    if (bytes % GRANULARITY || bytes == 0 || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (cuemu_injected(CUEMU_MALLOC) ||
        bytes > cuemu_devices.memory_total[device] - cuemu_devices.memory_used[device])
        return CUDA_ERROR_OUT_OF_MEMORY;
    cuemu_devices.memory_used[device] += bytes;
    handles[ *h = ++last] = {bytes, device, nullptr};
    return CUDA_SUCCESS;
}

CUresult map(CUdeviceptr p, size_t bytes, size_t offset, CUmemGenericAllocationHandle h,
             unsigned long long)
{
    cuemu_guard g(cuemu_lock);
    auto it = handles.find(h);
    if (it == handles.end() || it->second.at || it->second.bytes != bytes || offset)
        return CUDA_ERROR_INVALID_VALUE;
    it->second.at = address(p);
    return CUDA_SUCCESS;
}

CUresult set_access(CUdeviceptr p, size_t bytes, const CUmemAccessDesc *d, size_t n)
{
    cuemu_guard g(cuemu_lock);
    if (n != 1 || d->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
        return CUDA_ERROR_INVALID_VALUE;
    return cuemu_map(address(p), bytes, d->location.id) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult unmap(CUdeviceptr p, size_t)
{
    cuemu_guard g(cuemu_lock);
    for (auto &h : handles)
        if (h.second.at == address(p)) {
            h.second.at = nullptr;
            return cuemu_unmap(address(p)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
        }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult release(CUmemGenericAllocationHandle h)
{
    cuemu_guard g(cuemu_lock);
    auto it = handles.find(h);
    if (it == handles.end() || it->second.at)
        return CUDA_ERROR_INVALID_VALUE;
    cuemu_devices.memory_used[it->second.device] -= it->second.bytes;
    handles.erase(it);
    return CUDA_SUCCESS;
}

CUresult granularity(size_t *bytes, const CUmemAllocationProp *, CUmemAllocationGranularity_flags)
{
    *bytes = GRANULARITY;
    return CUDA_SUCCESS;
}

const struct {
    const char *name;
    void *fn;
} entries[] = {
    {"cuMemAddressReserve", reinterpret_cast<void *>(reserve)},
    {"cuMemAddressFree", reinterpret_cast<void *>(give_addresses_back)},
    {"cuMemCreate", reinterpret_cast<void *>(create)},
    {"cuMemRelease", reinterpret_cast<void *>(release)},
    {"cuMemMap", reinterpret_cast<void *>(map)},
    {"cuMemUnmap", reinterpret_cast<void *>(unmap)},
    {"cuMemSetAccess", reinterpret_cast<void *>(set_access)},
    {"cuMemGetAllocationGranularity", reinterpret_cast<void *>(granularity)},
};

} // namespace

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **fn, unsigned,
                                                        unsigned long long,
                                                        enum cudaDriverEntryPointQueryResult *found)
{
    *fn = nullptr;
    *found = cudaDriverEntryPointSymbolNotFound;
    for (auto &e : entries)
        if (strcmp(e.name, symbol) == 0) {
            *fn = e.fn;
            *found = cudaDriverEntryPointSuccess;
        }
    return cudaSuccess;
}
