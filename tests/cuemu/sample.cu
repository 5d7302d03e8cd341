/* cuda_sample.cu against sampling as one would write it: sort, cut, walk; penalties by counting.
 *
 *     sample      on the emulated device */
#include "kernels/cuda/cuda_sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

static int passed, failed;

static void told(const char *what, int n_vocab, bool ok)
{
    passed += ok;
    failed += !ok;
    if (!ok)
        printf("FAIL %s, %d tokens\n", what, n_vocab);
}

static float number(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / (float)(1 << 24);
}

static void edit(std::vector<float> &x, const choose_row &r, const int32_t *ids)
{
    for (int id = 0; id < (int)x.size(); id++) {
        int all = 0, late = 0;
        for (int i = 0; i < r.n_ids; i++) {
            all += ids[i] == id;
            late += ids[i] == id && i >= r.n_prompt;
        }
        if (all)
            x[id] = x[id] > 0 ? x[id] / r.repetition : x[id] * r.repetition;
        if (late)
            x[id] = x[id] - r.presence - r.frequency * (float)late;
    }
}

/* May the token have been drawn, but for rounding of u by `slack` of the whole? */
static bool fits(const std::vector<float> &x, const choose_row &r, int got, double slack)
{
    const int n = (int)x.size();
    std::vector<int> order(n);
    std::vector<double> w(n);
    double top = -INFINITY, total = 0;
    for (int i = 0; i < n; i++)
        top = x[i] > top ? x[i] : top;
    for (int i = 0; i < n; i++) {
        order[i] = i;
        w[i] = exp((x[i] - top) / r.temperature);
    }
    std::sort(order.begin(), order.end(), [&](int a, int b) { return w[a] > w[b]; });
    const int most = r.top_k > 0 && r.top_k < n ? r.top_k : n;
    for (int i = 0; i < most; i++)
        total += w[order[i]];
    std::vector<bool> kept(n);
    double mass = 0;
    for (int i = 0; i < most && (i == 0 || mass < r.top_p * total); i++) {
        kept[order[i]] = true;
        mass += w[order[i]];
    }
    double before = 0;
    for (int i = 0; i < n && i != got; i++)
        before += kept[i] ? w[i] : 0;
    return got >= 0 && kept[got] && r.u * mass >= before - slack * mass &&
           r.u * mass < before + w[got] + slack * mass;
}

static void check(int n_vocab)
{
    enum { ROWS = 7, IDS = 200 /* tokens come again in other warps */ };
    unsigned seed = 7;
    std::vector<std::vector<float>> x(ROWS, std::vector<float>(n_vocab));
    std::vector<int32_t> ids(ROWS * IDS), out(ROWS);
    choose_row rows[ROWS];
    for (int r = 0; r < ROWS; r++) {
        for (float &v : x[r])
            v = 12 * number(&seed) - 6;
        for (int i = 0; i < IDS; i++)
            ids[r * IDS + i] = (int32_t)(number(&seed) * (float)(n_vocab < 20 ? n_vocab : 20));
        rows[r] = {0.8f,      r % 2 ? 0.9f : 1.0f,    r % 3 ? 0 : 5, r > 2 ? 1.3f : 1.0f, r * 0.1f,
                   r * 0.05f, number(&seed) * 0.999f, r * IDS,       r ? IDS : 0,         IDS / 2};
    }
    rows[ROWS - 1].temperature = 0;
    char *device;
    const size_t floats = (size_t)ROWS * n_vocab, work = cuda_sample_work_bytes(ROWS, n_vocab);
    const size_t params = sizeof rows + ids.size() * 4 + out.size() * 4;
    if (cudaMalloc(reinterpret_cast<void **>(&device), work + floats * 4 + params + 512))
        exit(1);
    char *logits = device + work, *at = logits + (floats * 4 + 255) / 256 * 256;
    for (int r = 0; r < ROWS; r++)
        cudaMemcpyAsync(logits + (size_t)r * n_vocab * 4, x[r].data(), (size_t)n_vocab * 4,
                        cudaMemcpyHostToDevice, 0);
    cudaMemcpyAsync(at, rows, sizeof rows, cudaMemcpyHostToDevice, 0);
    cudaMemcpyAsync(at + sizeof rows, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice, 0);
    char *to = at + sizeof rows + ids.size() * 4;
    cuda_sample_call c = {(float *)logits,
                          (const choose_row *)at,
                          (const int32_t *)(at + sizeof rows),
                          (int32_t *)to,
                          ROWS,
                          n_vocab,
                          device};
    cuda_sample_launch(&c, 0);
    cudaMemcpyAsync(out.data(), to, out.size() * 4, cudaMemcpyDeviceToHost, 0);
    std::vector<float> edited(floats);
    cudaMemcpyAsync(edited.data(), logits, floats * 4, cudaMemcpyDeviceToHost, 0);
    told("no error", n_vocab, cudaStreamSynchronize(0) == cudaSuccess);
    for (int r = 0; r < ROWS; r++) {
        edit(x[r], rows[r], &ids[r * IDS]);
        bool same = true;
        for (int i = 0; i < n_vocab; i++)
            same &= fabsf(edited[(size_t)r * n_vocab + i] - x[r][i]) <= 1e-5f;
        told("penalties", n_vocab, same);
        if (rows[r].temperature > 0)
            told("a token", n_vocab, fits(x[r], rows[r], out[r], 1e-5));
        else
            told("the best", n_vocab,
                 out[r] == std::max_element(x[r].begin(), x[r].end()) - x[r].begin());
    }
    cudaFree(device);
}

int main()
{
    static const int sizes[] = {1, 2, 33, 511, 513, 5000};
    for (int n : sizes)
        check(n);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
