/* What was counted of each kernel. */
#include <stdio.h>

#include <map>
#include <string>

#include "tests/cuemu/cuemu_int.h"

static std::map<std::string, cuemu_counts> counters;

cuemu_counts *cuemu_counter(const char *kernel)
{
    return &counters[kernel];
}

extern "C" {

struct cuemu_counts cuemu_counted(const char *kernel)
{
    struct cuemu_counts all = {};
    for (auto &c : counters) {
        if (kernel && c.first.find(kernel) == std::string::npos)
            continue;
        all.launches += c.second.launches;
        all.blocks += c.second.blocks;
        all.threads += c.second.threads;
        all.barriers += c.second.barriers;
        all.warp_ops += c.second.warp_ops;
        all.mma += c.second.mma;
        all.cp_async_bytes += c.second.cp_async_bytes;
    }
    return all;
}

void cuemu_counts_print(void)
{
    fprintf(stderr, "%-48s %9s %10s %12s %10s %12s %10s %12s %10s\n", "kernel", "launches",
            "blocks", "threads", "barriers", "warp ops", "mma", "async bytes", "host us");
    cuemu_graph_counts_print();
    for (auto &c : counters)
        fprintf(stderr, "%-48s %9llu %10llu %12llu %10llu %12llu %10llu %12llu %10llu\n",
                c.first.c_str(), (unsigned long long)c.second.launches,
                (unsigned long long)c.second.blocks, (unsigned long long)c.second.threads,
                (unsigned long long)c.second.barriers, (unsigned long long)c.second.warp_ops,
                (unsigned long long)c.second.mma, (unsigned long long)c.second.cp_async_bytes,
                (unsigned long long)c.second.host_us);
}

} // extern "C"
