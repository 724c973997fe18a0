/* Lets one call of the system fail: preloaded by scripts/io_faults.py.
 *
 * Calls count that concern files below a folder. The n-th fails alone, or, with `full`, every call
 * from the n-th on that needs space. Reads of mapped memory are no calls and cannot fail here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN_READ, OPEN_WRITE, READ, WRITE, FSYNC, RENAME, MKDIR, UNLINK, CHMOD, MAP, KINDS };

static const int fault_errno[KINDS] = {EIO, ENOSPC, EIO, ENOSPC, EIO, ENOSPC, ENOSPC, EIO, EIO, EIO};
static const int needs_space[KINDS] = {0, 1, 0, 1, 0, 1, 1, 0, 0, 0};

static char root[PATH_MAX];
static long counts[KINDS], total, target;
static int full, hit = -1;

/* Called by ctypes in the process that is to be hurt. */
void fault_arm(const char *folder, long n, int everything_after) {
    snprintf(root, sizeof root, "%s/", folder);
    memset(counts, 0, sizeof counts);
    total = 0, target = n, full = everything_after, hit = -1;
}

/* The number of calls so far, and what kind of call was hit; -1 if none was. */
long fault_total(void) { return total; }
int fault_hit(void) { return hit; }
void fault_disarm(void) { root[0] = 0; }

static int below(const char *path) {
    char whole[PATH_MAX];
    if (!root[0] || !path) return 0;
    if (path[0] != '/') {
        if (!getcwd(whole, sizeof whole)) return 0;
        strncat(whole, "/", sizeof whole - strlen(whole) - 1);
        strncat(whole, path, sizeof whole - strlen(whole) - 1);
        path = whole;
    }
    return strncmp(path, root, strlen(root)) == 0;
}

static int below_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path) || strncmp(path, root, strlen(root) - 1) == 0;
}

/* Whether this call is the one, or one of those, that fails. */
static int fails(enum kind kind) {
    long number = __sync_add_and_fetch(&total, 1);
    __sync_add_and_fetch(&counts[kind], 1);
    int now = number == target || (full && target && number > target && needs_space[kind]);
    if (!now) return 0;
    if (hit < 0) hit = kind;
    errno = fault_errno[kind];
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int written(int flags) { return (flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)) != 0; }

#define OPENED(name, path, flags, call) \
    va_list list; \
    va_start(list, flags); \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(list, mode_t) : 0; \
    va_end(list); \
    if (below(path) && fails(written(flags) ? OPEN_WRITE : OPEN_READ)) return -1; \
    return call

int open(const char *path, int flags, ...) {
    REAL(open);
    OPENED(open, path, flags, real(path, flags, mode));
}
int open64(const char *path, int flags, ...) {
    REAL(open64);
    OPENED(open64, path, flags, real(path, flags, mode));
}
int openat(int at, const char *path, int flags, ...) {
    REAL(openat);
    OPENED(openat, path, flags, real(at, path, flags, mode));
}
int openat64(int at, const char *path, int flags, ...) {
    REAL(openat64);
    OPENED(openat64, path, flags, real(at, path, flags, mode));
}
FILE *fopen(const char *path, const char *mode) {
    REAL(fopen);
    if (below(path) && fails(mode[0] == 'r' ? OPEN_READ : OPEN_WRITE)) return NULL;
    return real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    if (below(path) && fails(mode[0] == 'r' ? OPEN_READ : OPEN_WRITE)) return NULL;
    return real(path, mode);
}
ssize_t read(int fd, void *to, size_t n) {
    REAL(read);
    if (below_fd(fd) && fails(READ)) return -1;
    return real(fd, to, n);
}
ssize_t pread64(int fd, void *to, size_t n, off64_t at) {
    REAL(pread64);
    if (below_fd(fd) && fails(READ)) return -1;
    return real(fd, to, n, at);
}
ssize_t write(int fd, const void *from, size_t n) {
    REAL(write);
    if (below_fd(fd) && fails(WRITE)) return -1;
    return real(fd, from, n);
}
ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at) {
    REAL(pwrite64);
    if (below_fd(fd) && fails(WRITE)) return -1;
    return real(fd, from, n, at);
}
ssize_t writev(int fd, const struct iovec *from, int n) {
    REAL(writev);
    if (below_fd(fd) && fails(WRITE)) return -1;
    return real(fd, from, n);
}
int ftruncate64(int fd, off64_t n) {
    REAL(ftruncate64);
    if (below_fd(fd) && fails(WRITE)) return -1;
    return real(fd, n);
}
int fsync(int fd) {
    REAL(fsync);
    if (below_fd(fd) && fails(FSYNC)) return -1;
    return real(fd);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    if (below(to) && fails(RENAME)) return -1;
    return real(from, to);
}
int renameat(int from_at, const char *from, int to_at, const char *to) {
    REAL(renameat);
    if (below(to) && fails(RENAME)) return -1;
    return real(from_at, from, to_at, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (below(path) && fails(MKDIR)) return -1;
    return real(path, mode);
}
int unlink(const char *path) {
    REAL(unlink);
    if (below(path) && fails(UNLINK)) return -1;
    return real(path);
}
int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    if (below_fd(at) && fails(UNLINK)) return -1;
    return real(at, path, flags);
}
int rmdir(const char *path) {
    REAL(rmdir);
    if (below(path) && fails(UNLINK)) return -1;
    return real(path);
}
int chmod(const char *path, mode_t mode) {
    REAL(chmod);
    if (below(path) && fails(CHMOD)) return -1;
    return real(path, mode);
}
void *mmap64(void *at, size_t n, int protection, int flags, int fd, off64_t offset) {
    REAL(mmap64);
    if (fd >= 0 && below_fd(fd) && fails(MAP)) return MAP_FAILED;
    return real(at, n, protection, flags, fd, offset);
}
