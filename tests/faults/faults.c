/* Stands between a program and the C library (LD_PRELOAD) and makes its n-th change to a folder fail.
 *
 * What counts as a change is a call that writes, truncates, syncs, renames, removes or makes something below the folder,
 * whoever makes it: Python, SQLite, HDF5, Annoy. Kinds of faults: the process dies before the call; the call, and every
 * later one that takes space, fails with ENOSPC; the call alone fails with EIO.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { NONE, KILL, FULL, BROKEN };

static char folder[PATH_MAX];
static size_t folder_length;
static long target, count;
static int kind;

void faults_arm(const char *path, long n, int what)
{
    strncpy(folder, path, sizeof folder - 1);
    folder_length = strlen(folder);
    target = n;
    kind = what;
    count = 0;
}

long faults_count(void) { return count; }

/* For a program that knows nothing of this: armed by the environment. */
__attribute__((constructor)) static void arm_by_environment(void)
{
    const char *path = getenv("FAULTS_FOLDER"), *n = getenv("FAULTS_AT"), *what = getenv("FAULTS_KIND");
    if (path && n && what)
        faults_arm(path, atol(n), atoi(what));
}

static int below(const char *path)
{
    return folder_length && path && strncmp(path, folder, folder_length) == 0;
}

static int below_descriptor(int descriptor)
{
    char link[64], path[PATH_MAX];
    if (!folder_length)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return below(path);
}

/* Count one change; say whether it must fail, with errno set. */
static int fails(int takes_space)
{
    count++;
    if (kind == KILL && count == target)
        kill(getpid(), SIGKILL);
    if (kind == FULL && count >= target && takes_space) {
        errno = ENOSPC;
        return 1;
    }
    if (kind == BROKEN && count == target) {
        errno = EIO;
        return 1;
    }
    return 0;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define ON_DESCRIPTOR(result, name, space, parameters, arguments) \
    result name parameters \
    { \
        REAL(name); \
        if (below_descriptor(descriptor) && fails(space)) \
            return -1; \
        return real arguments; \
    }

ON_DESCRIPTOR(ssize_t, write, 1, (int descriptor, const void *data, size_t size), (descriptor, data, size))
ON_DESCRIPTOR(ssize_t, pwrite, 1, (int descriptor, const void *data, size_t size, off_t at), (descriptor, data, size, at))
ON_DESCRIPTOR(ssize_t, pwrite64, 1, (int descriptor, const void *data, size_t size, off64_t at), (descriptor, data, size, at))
ON_DESCRIPTOR(int, fsync, 0, (int descriptor), (descriptor))
ON_DESCRIPTOR(int, fdatasync, 0, (int descriptor), (descriptor))
ON_DESCRIPTOR(int, ftruncate, 1, (int descriptor, off_t size), (descriptor, size))
ON_DESCRIPTOR(int, ftruncate64, 1, (int descriptor, off64_t size), (descriptor, size))

#define ON_PATH(name, space, parameters, arguments) \
    int name parameters \
    { \
        REAL(name); \
        if (below(path) && fails(space)) \
            return -1; \
        return real arguments; \
    }

ON_PATH(rename, 0, (const char *path, const char *to), (path, to))
ON_PATH(unlink, 0, (const char *path), (path))
ON_PATH(rmdir, 0, (const char *path), (path))
ON_PATH(mkdir, 1, (const char *path, mode_t mode), (path, mode))
