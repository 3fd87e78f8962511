/* The system's clock goes back an hour once the file $CLOCK_BACK exists: cc -shared -fPIC clock_shim.c -o shim.so */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int shifted(void) {
    const char *file = getenv("CLOCK_BACK");
    return file && access(file, F_OK) == 0 ? 3600 : 0;
}

/* MONOTONIC_TOO: what the test must notice, a program that measures durations with a clock that people can set. */
int clock_gettime(clockid_t id, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (id == CLOCK_REALTIME || (id == CLOCK_MONOTONIC && getenv("MONOTONIC_TOO"))) now->tv_sec -= shifted();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    now->tv_sec -= shifted();
    return result;
}

time_t time(time_t *out) {
    time_t (*real)(time_t *) = dlsym(RTLD_NEXT, "time");
    time_t now = real(NULL) - shifted();
    if (out) *out = now;
    return now;
}
