/* Tokens chosen on the device, and their way to the host: in the copy stream, so that what is queued after a
 * choice need not wait for it. */
#include <assert.h>
#include <string.h>

#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/cuda_sample.h"

/* To pinned memory; the event of the slot comes after it. */
static void bring(struct cuda_backend *cb, const struct op_choose *p, size_t bytes)
{
    cudaStream_t copy = cuda_copy_stream(cb);
    if (!cb->dead)
        cuda_check(cb, cudaMemcpyAsync(p->here, p->there, bytes, cudaMemcpyDeviceToHost, copy),
                   "a download");
    if (!cb->dead)
        cuda_check(cb, cudaEventRecord(cb->chosen[p->slot], copy), "recording an event");
}

void cuda_op_choose(struct backend *be, const struct op_choose *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const int n = cuda_op_rows(p->logits), n_vocab = cuda_op_cols(p->logits);
    const size_t row_bytes = (size_t)n * sizeof *p->rows;
    const size_t id_bytes = (size_t)p->n_ids * sizeof *p->ids;
    assert(p->slot >= 0 && p->slot < CHOOSE_SLOTS);
    if (!cuda_param_begin(cb, row_bytes + id_bytes))
        return;
    struct cuda_sample_call c = {
        .logits = p->logits->data, .out = p->there, .n_rows = n, .n_vocab = n_vocab};
    c.rows = cuda_param(cb, p->rows, row_bytes);
    c.ids = id_bytes ? cuda_param(cb, p->ids, id_bytes) : NULL;
    for (int r = 0; r < n && p->before && c.ids; r++)
        if (p->rows[r].n_ids > p->rows[r].n_prompt)
            cuda_copy(cb, (char *)(uintptr_t)(c.ids + p->rows[r].first + p->rows[r].n_prompt),
                      p->before + r, sizeof *p->before, cudaMemcpyDeviceToDevice, "a copy");
    c.work = cuda_scratch(cb, cuda_sample_work_bytes(n, n_vocab));
    if (!cb->dead)
        cuda_sample_launch(&c, cuda_stream(cb));
    bring(cb, p, (size_t)n * sizeof *p->here);
    cuda_param_turn(cb);
}

int cuda_op_chosen(struct backend *be, int slot, struct err *e)
{
    struct cuda_backend *cb = cuda_of(be);
    cuda_check(cb, cudaGetLastError(), "a kernel was not launched");
    if (!cb->dead)
        cuda_check(cb, cudaEventSynchronize(cb->chosen[slot]), "a kernel failed");
    if (cb->dead)
        return err_set(e, ERR_DEVICE, "%s: %s", cb->name, cb->why);
    return 0;
}
