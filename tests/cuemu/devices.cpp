/* The devices: which there are, whose turn it is in a thread, who may touch whose memory. */
#include <stdio.h>
#include <string.h>

#include "tests/cuemu/cuemu_int.h"

static bool exists(int device)
{
    cuemu_set_up();
    return device >= 0 && device < cuemu_devices.n;
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count)
{
    cuemu_guard g(cuemu_lock);
    cuemu_set_up();
    *count = cuemu_devices.n;
    return cuemu_devices.n ? cudaSuccess : cuemu_failed(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    cuemu_guard g(cuemu_lock);
    if (!exists(device))
        return cuemu_failed(cudaErrorInvalidDevice);
    cuemu_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = cuemu_device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    if (!exists(device))
        return cuemu_failed(cudaErrorInvalidDevice);
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "emulated device %d", device);
    prop->totalGlobalMem = cuemu_devices.memory_total[device];
    prop->sharedMemPerBlock = 48 * 1024;
    prop->sharedMemPerBlockOptin = 227 * 1024;
    prop->major = 8;
    prop->multiProcessorCount = cuemu_devices.multiprocessors;
    prop->maxThreadsPerBlock = 1024;
    prop->warpSize = 32;
    prop->l2CacheSize = 1 << 20;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    cuemu_guard g(cuemu_lock);
    cuemu_set_up();
    *total = cuemu_devices.memory_total[cuemu_device];
    *free_bytes =
        cuemu_devices.memory_total[cuemu_device] - cuemu_devices.memory_used[cuemu_device];
    return cuemu_dead();
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    cuemu_guard g(cuemu_lock);
    if (!exists(device) || !exists(peer))
        return cuemu_failed(cudaErrorInvalidDevice);
    *can = device != peer;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned)
{
    cuemu_guard g(cuemu_lock);
    if (!exists(peer) || peer == cuemu_device)
        return cuemu_failed(cudaErrorInvalidDevice);
    if (cuemu_devices.peers[cuemu_device] >> peer & 1)
        return cuemu_failed(cudaErrorPeerAccessAlreadyEnabled);
    cuemu_devices.peers[cuemu_device] |= 1u << peer;
    return cudaSuccess;
}

cudaError_t cudaDeviceDisablePeerAccess(int peer)
{
    cuemu_guard g(cuemu_lock);
    if (!exists(peer))
        return cuemu_failed(cudaErrorInvalidDevice);
    if (!(cuemu_devices.peers[cuemu_device] >> peer & 1))
        return cuemu_failed(cudaErrorPeerAccessNotEnabled);
    cuemu_devices.peers[cuemu_device] &= ~(1u << peer);
    return cudaSuccess;
}

} // extern "C"
