/* What a warp's access costs: sectors of 32 bytes of global memory, and turns of the 32 banks of shared memory,
 * by the addresses of its lanes.  Beside each stands the least that the same bytes could do with, so
 * what is above it is waste: strides, or lanes that meet in a bank. */
#include "tests/ptxvm/vm.h"

#define SECTOR      32
#define BANKS       32
#define PHASE_BYTES 128 /* of shared memory at a time */

void access_add(struct access *a, int lane, uint64_t at, uint32_t bytes)
{
    if (bytes == 0)
        return;
    a->mask |= 1u << lane;
    a->at[lane] = at;
    a->bytes[lane] = (uint8_t)bytes;
}

/* Different ones of n numbers; leaves them in order. */
static uint32_t different(uint64_t *x, uint32_t n)
{
    uint32_t found = 0;
    for (uint32_t i = 1; i < n; i++) { /* mostly in order already */
        const uint64_t v = x[i];
        uint32_t k = i;
        for (; k > 0 && x[k - 1] > v; k--)
            x[k] = x[k - 1];
        x[k] = v;
    }
    for (uint32_t i = 0; i < n; i++)
        found += i == 0 || x[i] != x[i - 1];
    return found;
}

void access_global(struct ptxvm_stats *s, const struct access *a)
{
    uint64_t places[VM_LANES], sectors[VM_LANES]; /* an access is aligned: one sector a lane */
    uint32_t n = 0, widest = 0;
    if (a->mask == 0)
        return;
    for (uint32_t rest = a->mask; rest; rest &= rest - 1) {
        const int l = __builtin_ctz(rest);
        places[n] = a->at[l];
        sectors[n++] = a->at[l] / SECTOR;
        widest = a->bytes[l] > widest ? a->bytes[l] : widest;
    }
    s->global_accesses++;
    s->global_sectors += different(sectors, n);
    s->global_least += (different(places, n) * widest + SECTOR - 1) / SECTOR;
}

/* Lanes [first, first + n): the fullest bank decides; lanes that read the same word share a turn. */
static uint32_t turns(const struct access *a, int first, int n)
{
    uint64_t seen[BANKS][VM_LANES];
    uint32_t count[BANKS] = {0}, most = 0;
    for (int l = first; l < first + n; l++)
        for (uint32_t b = 0; (a->mask >> l & 1) && b < a->bytes[l]; b += 4) {
            const uint64_t word = (a->at[l] + b) / 4;
            const uint32_t bank = word % BANKS;
            uint32_t k = 0;
            while (k < count[bank] && seen[bank][k] != word)
                k++;
            if (k == count[bank])
                seen[bank][count[bank]++] = word;
            most = count[bank] > most ? count[bank] : most;
        }
    return most;
}

void access_shared(struct ptxvm_stats *s, const struct access *a)
{
    uint32_t widest = 4;
    for (uint32_t rest = a->mask; rest; rest &= rest - 1) {
        const uint32_t bytes = a->bytes[__builtin_ctz(rest)];
        widest = bytes > widest ? bytes : widest;
    }
    const int lanes = (int)(PHASE_BYTES / (widest < 16 ? widest : 16));
    for (int first = 0; first < VM_LANES; first += lanes) {
        const uint32_t n = turns(a, first, lanes);
        s->shared_turns += n;
        s->shared_least += n > 0;
    }
}
