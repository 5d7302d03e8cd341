/* Graphs: what is put into a stream that is captured is kept, in its order, and put into a stream again at each
 * launch.  As on a device, a capture is spoilt by calls that do not belong there, a graph is updated
 * only from one with the same nodes, and a copy reads host memory anew every time. */
#include <stdio.h>

#include "tests/cuemu/cuemu_int.h"

struct CUgraph_st {
    std::vector<cuemu_work> items;
    bool spoilt;
};
struct CUgraphExec_st {
    std::vector<cuemu_work> items;
};

namespace
{

thread_local std::vector<CUstream_st *> captured; /* at most a few */
struct {
    unsigned long long captures, nodes, instantiated, updated, refused, launched;
} counts;

bool same_node(const cuemu_work &a, const cuemu_work &b)
{
    return a.kind == b.kind &&
           (a.kind != cuemu_work::KERNEL || a.grid.kernel->function() == b.grid.kernel->function());
}

} // namespace

bool cuemu_spoils_capture(void)
{
    for (CUstream_st *s : captured)
        s->capture->spoilt = true;
    return !captured.empty();
}

void cuemu_capture_add(CUgraph_st *graph, cuemu_work w)
{
    if (w.kind == cuemu_work::RECORD || w.kind == cuemu_work::WAIT)
        graph->spoilt = true; /* branches: nobody needs them yet */
    graph->items.push_back(std::move(w));
}

void cuemu_graph_counts_print(void)
{
    fprintf(stderr,
            "graphs: %llu captured (%llu nodes), %llu instantiated, %llu updated, %llu updates "
            "refused, "
            "%llu launched\n",
            counts.captures, counts.nodes, counts.instantiated, counts.updated, counts.refused,
            counts.launched);
}

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    cuemu_guard g(cuemu_lock);
    if (cuemu_injected(CUEMU_GRAPH) || !stream || stream->capture)
        return cuemu_failed(cudaErrorStreamCaptureUnsupported);
    stream->capture = new CUgraph_st();
    captured.push_back(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    cuemu_guard g(cuemu_lock);
    *graph = nullptr;
    if (!stream->capture)
        return cuemu_failed(cudaErrorStreamCaptureInvalidated);
    CUgraph_st *made = stream->capture;
    stream->capture = nullptr;
    for (size_t i = 0; i < captured.size(); i++)
        if (captured[i] == stream)
            captured.erase(captured.begin() + (long)i);
    if (cuemu_injected(CUEMU_GRAPH) || made->spoilt) {
        delete made;
        return cuemu_failed(cudaErrorStreamCaptureInvalidated);
    }
    counts.captures++;
    counts.nodes += made->items.size();
    *graph = made;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    cuemu_guard g(cuemu_lock);
    if (cuemu_injected(CUEMU_GRAPH))
        return cuemu_failed(cudaErrorMemoryAllocation);
    counts.instantiated++;
    *exec = new CUgraphExec_st{graph->items};
    return cudaSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *info)
{
    cuemu_guard g(cuemu_lock);
    *info = {};
    bool same = exec->items.size() == graph->items.size() && !cuemu_injected(CUEMU_GRAPH);
    for (size_t i = 0; same && i < exec->items.size(); i++)
        same = same_node(exec->items[i], graph->items[i]);
    if (!same) {
        counts.refused++;
        info->result = 1;
        return cuemu_failed(cudaErrorGraphExecUpdateFailure);
    }
    counts.updated++;
    exec->items = graph->items;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    cuemu_guard g(cuemu_lock);
    if (cuemu_injected(CUEMU_LAUNCH) || stream->capture)
        return cuemu_failed(cudaErrorLaunchFailure);
    counts.launched++;
    cudaError_t rc = cudaSuccess;
    for (const cuemu_work &w : exec->items)
        rc = cuemu_enqueue(stream, w);
    return rc;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

} // extern "C"
