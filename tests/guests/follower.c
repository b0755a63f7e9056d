/* A guest that watches files, doing what its arguments say, one after the other:
 *
 *   until FILE TEXT   read a file until it holds exactly this, and no longer than a minute
 *   gone FILE         wait until there is no such file, no longer than a minute
 *   steady FILE N     read a file N times: each time it must be there, of one size, and all of one letter
 *   write FILE TEXT   write a file
 *   print FILE        print a file
 *   say TEXT          print a line
 *
 * It exits with 0 at the end of its arguments, with 1 and the reason when something is not so, and with 64 when it
 * does not understand one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char text[1 << 20];

/* The size of a file, whose contents are in `text` then; -1 when it is not there. */
static long size_of(const char *name) {
    FILE *file = fopen(name, "r");
    if (!file)
        return -1;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = 0;
    return (long)size;
}

static void give_up(const char *what, const char *name) {
    fprintf(stderr, "%s: %s (%s)\n", name, what, strerror(errno));
    exit(1);
}

static void nap(void) {
    struct timespec time = {0, 10000000L};
    nanosleep(&time, NULL);
}

static void await_text(const char *name, const char *wanted) {
    for (int n = 0; n < 6000; n++) {
        if (size_of(name) >= 0 && !strcmp(text, wanted))
            return;
        nap();
    }
    give_up("does not hold the text", name);
}

static void await_end(const char *name) {
    for (int n = 0; n < 6000; n++) {
        if (size_of(name) < 0)
            return;
        nap();
    }
    give_up("is still there", name);
}

static void read_again(const char *name, long times) {
    long expected = size_of(name), changes = 0;
    char letter = text[0];
    for (long n = 0; n < times; n++) {
        long size = size_of(name);
        if (size < 0)
            give_up("is missing", name);
        if (size != expected)
            give_up("has another size", name);
        for (long at = 1; at < size; at++)
            if (text[at] != text[0])
                give_up("is torn", name);
        if (text[0] != letter)
            changes++;
        letter = text[0];
    }
    printf("%ld reads, %s\n", times, changes ? "some changes" : "no change");
}

static void put(const char *name, const char *contents) {
    FILE *file = fopen(name, "w");
    if (!file || fputs(contents, file) == EOF || fclose(file) == EOF)
        give_up("cannot be written", name);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *verb = argv[i];
        int left = argc - i - 1;
        if (!strcmp(verb, "gone") && left >= 1) {
            await_end(argv[++i]);
        } else if (!strcmp(verb, "print") && left >= 1) {
            if (size_of(argv[++i]) < 0)
                give_up("cannot be read", argv[i]);
            fputs(text, stdout);
        } else if (!strcmp(verb, "say") && left >= 1) {
            puts(argv[++i]);
        } else if (!strcmp(verb, "until") && left >= 2) {
            await_text(argv[i + 1], argv[i + 2]);
            i += 2;
        } else if (!strcmp(verb, "steady") && left >= 2) {
            read_again(argv[i + 1], atol(argv[i + 2]));
            i += 2;
        } else if (!strcmp(verb, "write") && left >= 2) {
            put(argv[i + 1], argv[i + 2]);
            i += 2;
        } else {
            fprintf(stderr, "unknown: %s\n", verb);
            return 64;
        }
    }
    return 0;
}
