/* A guest that tells how it is served: again and again it sleeps for 10 ms, does a step of arithmetic, and prints how many
 * microseconds too late it was woken, and how many the step took. Its arguments are of no account.
 */
#include <stdio.h>
#include <time.h>

#define NAP_NS 10000000L

/* Some 200 us of a processor of today. */
#define STEPS 100000

static long long microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

int main(void) {
    const struct timespec nap = {0, NAP_NS};
    unsigned long long mixed = 88172645463325252ULL;
    for (;;) {
        long long before = microseconds();
        nanosleep(&nap, NULL);
        long long woken = microseconds();
        for (long n = 0; n < STEPS; n++) {
            mixed ^= mixed << 13;
            mixed ^= mixed >> 7;
            mixed ^= mixed << 17;
        }
        long long done = microseconds();
        /* What was computed is printed, so that the compiler cannot leave it out. */
        printf("late %lld us, step %lld us, %llx\n", woken - before - NAP_NS / 1000, done - woken, mixed & 15);
        fflush(stdout);
    }
}
