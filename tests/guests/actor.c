/* A guest that does what its arguments say, one after the other:
 *
 *   say TEXT          print a line
 *   stderr TEXT       print a line on standard error
 *   print N           print N numbered lines
 *   tick MS           print a numbered line every MS milliseconds, for ever
 *   args              print argv, one line each
 *   env               print the environment, one line each
 *   cat FILE          print a file
 *   write FILE TEXT   write a file
 *   alloc MB          allocate memory, and write to all of it
 *   sleep S           sleep
 *   wait              read standard input to its end
 *   spin              never end, never yield
 *   trap              trap
 *   exit N            exit
 *
 * It exits with 0 at the end of its arguments, and with 64 when it does not understand one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

extern char **environ;

static void pause_for(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static void give_up(const char *what, const char *name) {
    fprintf(stderr, "cannot %s %s: %s\n", what, name, strerror(errno));
    exit(1);
}

static void show(const char *name) {
    FILE *file = fopen(name, "r");
    char block[4096];
    size_t size;
    if (!file)
        give_up("open", name);
    while ((size = fread(block, 1, sizeof block, file)) > 0)
        fwrite(block, 1, size, stdout);
    fclose(file);
}

static void put(const char *name, const char *text) {
    FILE *file = fopen(name, "w");
    if (!file)
        give_up("open", name);
    if (fputs(text, file) == EOF || fclose(file) == EOF)
        give_up("write", name);
}

static void take(long megabytes) {
    for (long i = 0; i < megabytes; i++) {
        volatile char *block = malloc(1 << 20);
        if (!block)
            give_up("allocate", "memory");
        for (size_t at = 0; at < 1 << 20; at += 4096)
            block[at] = 1;
    }
    printf("allocated %ld MiB\n", megabytes);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *verb = argv[i];
        /* The verbs that stand alone. */
        if (!strcmp(verb, "args")) {
            for (int n = 0; n < argc; n++)
                puts(argv[n]);
        } else if (!strcmp(verb, "env")) {
            for (char **entry = environ; *entry; entry++)
                puts(*entry);
        } else if (!strcmp(verb, "spin")) {
            for (volatile unsigned long n = 0;; n++)
                ;
        } else if (!strcmp(verb, "wait")) {
            while (getchar() != EOF)
                ;
        } else if (!strcmp(verb, "trap")) {
            fflush(NULL);
            __builtin_trap();
        } else if (i + 1 >= argc) {
            fprintf(stderr, "%s needs an argument, or is unknown\n", verb);
            return 64;
            /* Those with an argument. */
        } else if (!strcmp(verb, "say")) {
            puts(argv[++i]);
        } else if (!strcmp(verb, "stderr")) {
            fprintf(stderr, "%s\n", argv[++i]);
        } else if (!strcmp(verb, "print")) {
            long lines = atol(argv[++i]);
            for (long n = 1; n <= lines; n++)
                printf("line %ld\n", n);
        } else if (!strcmp(verb, "tick")) {
            long pause = atol(argv[++i]);
            for (long n = 1;; n++) {
                printf("tick %ld\n", n);
                pause_for(pause);
            }
        } else if (!strcmp(verb, "cat")) {
            show(argv[++i]);
        } else if (!strcmp(verb, "write") && i + 2 < argc) {
            put(argv[i + 1], argv[i + 2]);
            i += 2;
        } else if (!strcmp(verb, "alloc")) {
            take(atol(argv[++i]));
        } else if (!strcmp(verb, "sleep")) {
            pause_for(atol(argv[++i]) * 1000);
        } else if (!strcmp(verb, "exit")) {
            exit(atoi(argv[++i]));
        } else {
            fprintf(stderr, "unknown: %s\n", verb);
            return 64;
        }
    }
    return 0;
}
