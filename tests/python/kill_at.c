/* Preloaded into an agent (LD_PRELOAD): counts the calls that change what is on disk, and kills the process with SIGKILL before the one numbered KILL_AT (from 1;
 * never, if 0). The count is kept in the eight bytes of the file KILL_COUNT, which outlives the process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static _Atomic uint64_t *count;
static uint64_t kill_at;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("KILL_COUNT"), *at = getenv("KILL_AT");
    if (!path || !at) return;
    kill_at = strtoull(at, NULL, 10);
    int file = openat(AT_FDCWD, path, O_RDWR | O_CREAT, 0600);
    if (file < 0) return;
    void *page = MAP_FAILED;
    /* Not through our own ftruncate: nothing is counted yet. */
    if (posix_fallocate(file, 0, sizeof *count) == 0)
        page = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) count = page;
}

static void step(void) {
    if (!count) return;
    if (atomic_fetch_add(count, 1) + 1 == kill_at) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

#define STEP(type, name, declared, given)                                   \
    type name declared {                                                    \
        static type(*next) declared;                                        \
        if (!next) next = (type(*) declared)dlsym(RTLD_NEXT, #name);        \
        step();                                                             \
        return next given;                                                  \
    }

STEP(int, rename, (const char *from, const char *to), (from, to))
STEP(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
STEP(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
STEP(int, link, (const char *from, const char *to), (from, to))
STEP(int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
STEP(int, unlink, (const char *path), (path))
STEP(int, unlinkat, (int directory, const char *path, int flags), (directory, path, flags))
STEP(int, mkdir, (const char *path, mode_t mode), (path, mode))
STEP(int, mkdirat, (int directory, const char *path, mode_t mode), (directory, path, mode))
STEP(int, fsync, (int file), (file))
STEP(int, fdatasync, (int file), (file))
STEP(int, rmdir, (const char *path), (path))
STEP(int, ftruncate, (int file, off_t bytes), (file, bytes))
STEP(int, ftruncate64, (int file, off64_t bytes), (file, bytes))
STEP(ssize_t, pwrite, (int file, const void *from, size_t bytes, off_t at), (file, from, bytes, at))
STEP(ssize_t, pwrite64, (int file, const void *from, size_t bytes, off64_t at), (file, from, bytes, at))

/* Those that make a file, or empty one. */
#define OPEN(name)                                                          \
    int name(const char *path, int flags, ...) {                            \
        static int (*next)(const char *, int, ...);                         \
        if (!next) next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        if (!(flags & O_CREAT) && (flags & O_TMPFILE) != O_TMPFILE) {       \
            if (flags & O_TRUNC) step();                                    \
            return next(path, flags);                                       \
        }                                                                   \
        va_list more;                                                       \
        va_start(more, flags);                                              \
        mode_t mode = va_arg(more, mode_t);                                 \
        va_end(more);                                                       \
        step();                                                             \
        return next(path, flags, mode);                                     \
    }
OPEN(open)
OPEN(open64)

/* Files alone: not the log (1 and 2), no socket, no pipe. */
ssize_t write(int file, const void *from, size_t bytes) {
    static ssize_t (*next)(int, const void *, size_t);
    struct stat found;
    if (!next) next = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (file > 2 && count && fstat(file, &found) == 0 && S_ISREG(found.st_mode)) step();
    return next(file, from, bytes);
}
