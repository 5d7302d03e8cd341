/* What a kernel that begins early (LAUNCH_EARLY) does before its cuda_grid_wait: on a device the kernel before it may still
 * be running, so it may not read what that one writes, and may write nothing.
 *
 * Nothing overlaps here.  But while the kernel before runs, memory can only be read: a page's first write faults, and
 * is noted with what stood there.  Then one block of the early kernel comes to its wait, all threads, with memory that
 * cannot be written, and without those pages.  A page has more than one tensor: bytes that are what they were may be
 * read.  Built without sanitizers. */
#include <stdint.h>
#include <sys/mman.h>

#include <map>

#include "tests/cuemu/cuemu_int.h"

namespace
{

enum { PAGE = 4096, PAGES = 1024, LOOKED_AT = 16, THEN_ONE_OF = 32, NEAR = 16 };

char *written[PAGES];      /* by the kernel before; */
char before[PAGES][PAGE];  /* what they were */
int n_written;             /* -1: more than there is room for; nothing is known */
const cuemu_kernel *early; /* whom that is kept for */
bool watching;
std::map<const void *, int> looked_at; /* launches of each early kernel */

char *page_of(const void *p)
{
    return reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(p) / PAGE * PAGE);
}

void protect_one(void *context, const void *p, size_t bytes)
{
    char *from = page_of(p);
    const size_t all = (size_t)(static_cast<const char *>(p) + bytes - from);
    mprotect(from, (all + PAGE - 1) / PAGE * PAGE, *static_cast<int *>(context));
}

void protect_all(int how)
{
    cuemu_each_allocation(protect_one, &how);
}

/* Which of the pages; -1: none. */
int find(const char *page)
{
    for (int i = 0; i < n_written; i++)
        if (written[i] == page)
            return i;
    return -1;
}

/* These two are no memcpy and memcmp, which sanitizers see in any file: kernels' memory is looked at while they run. */
void copy_page(char *to, const volatile char *page)
{
    for (int i = 0; i < PAGE; i++)
        to[i] = page[i];
}

bool same_bytes(const volatile char *a, const volatile char *b, int n)
{
    for (int i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

} // namespace

bool cuemu_early_guarded;

void cuemu_early_watch(const cuemu_grid *next)
{
    int &n = looked_at[next->kernel->function()];
    if (cuemu_ptx_run || (n++ >= LOOKED_AT && cuemu_random() % THEN_ONE_OF))
        return;
    early = next->kernel.get();
    n_written = 0;
    watching = true;
    protect_all(PROT_READ);
}

void cuemu_early_guard(const cuemu_grid *g)
{
    if (early != g->kernel.get())
        return;
    early = nullptr;
    if (n_written < 0)
        return;
    cuemu_early_guarded = true;
    protect_all(PROT_READ);
    for (int i = 0; i < n_written; i++)
        mprotect(written[i], PAGE, PROT_NONE);
}

void cuemu_early_open()
{
    if (watching || cuemu_early_guarded)
        protect_all(PROT_READ | PROT_WRITE);
    watching = cuemu_early_guarded = false;
}

cuemu_early_verdict cuemu_early_fault(const void *at, bool write)
{
    char *page = page_of(at);
    if ((!watching && !cuemu_early_guarded) || !cuemu_is_allocated(at))
        return CUEMU_NOT_EARLY;
    if (watching && n_written == PAGES) {
        n_written = -1;
        cuemu_early_open();
    } else if (watching) {
        copy_page(before[n_written], page);
        written[n_written++] = page;
        mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    } else {
        const int i = find(page);
        const size_t offset = (size_t)(static_cast<const char *>(at) - page) / NEAR * NEAR;
        if (write || i < 0)
            return CUEMU_TOO_EARLY;
        mprotect(page, PAGE, PROT_READ);
        if (!same_bytes(before[i] + offset, page + offset, NEAR))
            return CUEMU_TOO_EARLY;
    }
    return CUEMU_GO_ON;
}
