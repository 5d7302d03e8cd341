/* Read-only mappings that survive their file being cut short: the SIGBUS handler puts zeros where
 * pages went missing.  The handler reads only the table below, and only through atomics. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SLOTS = 1024,
    NO_SLOT = -1,
    TAIL_MAX = 120, /* an error has 255 bytes */
};

struct range {
    atomic_bool taken, damaged;
    _Atomic uintptr_t start; /* 0: nothing mapped; written after size, cleared before munmap */
    _Atomic size_t size;
};

static struct range table[SLOTS];
static struct sigaction previous;
static pthread_once_t handler_once = PTHREAD_ONCE_INIT;
static uintptr_t page; /* bytes */

/* The missing part of a file is its end, so zeros replace all from the faulting page on: one fault
 * instead of one for each of millions of pages. */
static bool patch(uintptr_t at)
{
    for (int i = 0; i < SLOTS; i++) {
        uintptr_t start = atomic_load(&table[i].start);
        size_t size = atomic_load(&table[i].size);
        if (start == 0 || at < start || at - start >= size)
            continue;
        uintptr_t from = at & ~(page - 1);
        void *p = mmap((void *)from, start + size - from, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            return false;
        atomic_store(&table[i].damaged, true);
        return true;
    }
    return false;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    (void)context;
    int saved = errno;
    bool fault = info->si_code > 0; /* else sent with kill() */
    if (!fault || !patch((uintptr_t)info->si_addr)) {
        sigaction(SIGBUS, &previous, NULL); /* a fault happens again on return */
        if (!fault)
            raise(sig);
    }
    errno = saved;
}

static void install_handler(void)
{
    page = (uintptr_t)sysconf(_SC_PAGESIZE);
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

static int take_slot(void)
{
    for (int i = 0; i < SLOTS; i++) {
        if (!atomic_exchange(&table[i].taken, true)) {
            atomic_store(&table[i].damaged, false);
            return i;
        }
    }
    return NO_SLOT;
}

static int open_error(const char *path, struct err *e)
{
    int code = errno == ENOENT || errno == ENOTDIR ? ERR_NOTFOUND : ERR_IO;
    return err_set(e, code, "cannot read %s: %m", path);
}

static int map_fd(struct file *f, int fd, const char *path, struct err *e)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return open_error(path, e);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_IO, "%s is not a regular file", path);
    if (st.st_size == 0)
        return 0;
    int slot = take_slot();
    if (slot == NO_SLOT)
        return err_set(e, ERR_NOMEM, "more than %d files are open", SLOTS);
    size_t size = (size_t)st.st_size;
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        atomic_store(&table[slot].taken, false);
        return err_set(e, ERR_IO, "cannot map %s: %m", path);
    }
    atomic_store(&table[slot].size, size);
    atomic_store(&table[slot].start, (uintptr_t)p);
    *f = (struct file){.data = p, .size = size, .slot = slot};
    return 0;
}

int file_open(struct file *f, const char *path, struct err *e)
{
    *f = (struct file){.slot = NO_SLOT};
    pthread_once(&handler_once, install_handler);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */
    if (fd < 0)
        return open_error(path, e);
    int rc = map_fd(f, fd, path, e);
    close(fd);
    return rc;
}

void file_close(struct file *f)
{
    if (f->data != NULL) {
        struct range *r = &table[f->slot];
        atomic_store(&r->start, 0);
        munmap((void *)(uintptr_t)f->data, f->size);
        atomic_store(&r->taken, false);
    }
    *f = (struct file){.slot = NO_SLOT};
}

bool file_damaged(const struct file *f)
{
    return f->data != NULL && atomic_load(&table[f->slot].damaged);
}

void file_forget(struct file *f, size_t offset, size_t len)
{
    if (offset >= f->size || len == 0)
        return;
    if (len > f->size - offset)
        len = f->size - offset;
    /* Whole pages only; the last page of the file counts as whole. */
    uintptr_t start = (uintptr_t)f->data;
    uintptr_t from = (start + offset + page - 1) & ~(page - 1);
    uintptr_t to = start + offset + len;
    if (offset + len < f->size)
        to &= ~(page - 1);
    if (from < to)
        madvise((void *)from, to - from, MADV_DONTNEED);
}

const char *file_tail(const char *path)
{
    const size_t n = strlen(path);
    return n > TAIL_MAX ? path + n - TAIL_MAX : path;
}

int file_read(struct buf *b, const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return open_error(path, e);
    buf_clear(b);
    char part[16384];
    int rc = 0;
    for (;;) {
        ssize_t n = read(fd, part, sizeof part);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_set(e, ERR_IO, "cannot read %s: %m", path);
        else if (n > 0 && buf_add(b, part, (size_t)n) != 0)
            rc = err_set(e, ERR_TOOBIG, "%s is larger than %zu bytes", path, b->max);
        if (n <= 0 || rc != 0)
            break;
    }
    close(fd);
    return rc;
}
