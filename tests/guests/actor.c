/* A guest that does what its arguments say, one after the other:
 *
 *   say TEXT          print a line
 *   stderr TEXT       print a line on standard error
 *   print N           print N numbered lines
 *   tick MS           print a numbered line every MS milliseconds, for ever
 *   args              print argv, one line each
 *   env               print the environment, one line each
 *   alloc MB          allocate memory, and write to all of it
 *   sleep S           sleep
 *   wait              read standard input to its end
 *   key               read one byte of standard input, and print its number
 *   spin              never end, never yield
 *   compute N         do N million steps of arithmetic
 *   race FROM TO      compute from one time to another (seconds since 1970), and print how far it came
 *   trap              trap
 *   exit N            exit
 *   time              print the microseconds since the last `time`, or since the start
 *   try               the next verb may fail: the reason is printed, and the guest goes on
 *
 * With files; a failure ends the guest with 1 and the reason on standard error:
 *
 *   cat FILE              print a file
 *   write FILE TEXT       write a file
 *   append FILE TEXT      write at its end
 *   same FILE TEXT        the file must hold exactly this
 *   ls DIR                print the names in a directory, sorted
 *   stat PATH             print what is there: `file SIZE`, `directory`, `link TARGET`, `other`
 *   mkdir, rmdir, rm PATH
 *   rename, link OLD NEW
 *   symlink TARGET PATH
 *   cd DIR                change the directory that relative names begin at
 *   pwd                   print it
 *   files DIR N           write, read and remove N small files
 *   deep DIR N            make N directories, each in the one before
 *   flood FILE MB         write a file of so many MiB, in blocks of 64 KiB
 *   drain FILE            read a file, in blocks of 64 KiB, and print its size
 *
 * It exits with 0 at the end of its arguments, and with 64 when it does not understand one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* Whether the verb at work may fail. */
static int lenient;

static char block[64 << 10];

static void pause_for(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static void give_up(const char *what, const char *name) {
    fprintf(lenient ? stdout : stderr, "cannot %s %s: %s\n", what, name, strerror(errno));
    if (!lenient)
        exit(1);
}

/* A call that says -1 when it fails. */
static void check(int result, const char *what, const char *name) {
    if (result == -1)
        give_up(what, name);
}

static void show(const char *name) {
    FILE *file = fopen(name, "r");
    size_t size;
    if (!file) {
        give_up("open", name);
        return;
    }
    while ((size = fread(block, 1, sizeof block, file)) > 0)
        fwrite(block, 1, size, stdout);
    if (ferror(file))
        give_up("read", name);
    fclose(file);
}

static void put(const char *name, const char *mode, const char *text) {
    FILE *file = fopen(name, mode);
    if (!file) {
        give_up("open", name);
        return;
    }
    int failed = fputs(text, file) == EOF;
    if (fclose(file) == EOF || failed)
        give_up("write", name);
}

static void compare(const char *name, const char *text) {
    FILE *file = fopen(name, "r");
    if (!file) {
        give_up("open", name);
        return;
    }
    size_t size = fread(block, 1, sizeof block, file);
    fclose(file);
    if (size != strlen(text) || memcmp(block, text, size)) {
        fprintf(stderr, "%s holds: %.*s\n", name, (int)size, block);
        exit(1);
    }
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_listed(const struct dirent *entry) {
    return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

static void list(const char *name) {
    struct dirent **entries;
    int count = scandir(name, &entries, is_listed, by_name);
    check(count, "list", name);
    for (int n = 0; n < count; n++)
        puts(entries[n]->d_name);
}

static void tell(const char *name) {
    struct stat status;
    if (lstat(name, &status) == -1) {
        give_up("stat", name);
    } else if (S_ISREG(status.st_mode)) {
        printf("file %lld\n", (long long)status.st_size);
    } else if (S_ISDIR(status.st_mode)) {
        puts("directory");
    } else if (S_ISLNK(status.st_mode)) {
        ssize_t size = readlink(name, block, sizeof block);
        check((int)size, "read the link", name);
        printf("link %.*s\n", size < 0 ? 0 : (int)size, block);
    } else {
        puts("other");
    }
}

static void small_files(const char *directory, long count) {
    char name[256];
    for (int round = 0; round < 3; round++) {
        for (long n = 0; n < count; n++) {
            snprintf(name, sizeof name, "%s/small-%ld", directory, n);
            if (round == 2) {
                check(unlink(name), "remove", name);
                continue;
            }
            int file = round == 0 ? open(name, O_CREAT | O_WRONLY, 0644) : open(name, O_RDONLY);
            check(file, "open", name);
            check(round == 0 ? (int)write(file, block, 1024) : (int)read(file, block, 1024), "use", name);
            check(close(file), "close", name);
        }
    }
}

static void deep(const char *name, long depth) {
    int dir = open(name, O_RDONLY | O_DIRECTORY);
    check(dir, "open", name);
    for (long i = 0; i < depth; i++) {
        check(mkdirat(dir, "d", 0777), "mkdir", name);
        int inner = openat(dir, "d", O_RDONLY | O_DIRECTORY);
        check(inner, "open", name);
        close(dir);
        dir = inner;
    }
    close(dir);
}

static void flood(const char *name, long megabytes) {
    int file = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    check(file, "open", name);
    for (long n = 0; n < megabytes << 4; n++) {
        if (write(file, block, sizeof block) != sizeof block) {
            give_up("write", name);
            break;
        }
    }
    check(close(file), "close", name);
}

static void drain(const char *name) {
    int file = open(name, O_RDONLY);
    long long total = 0;
    ssize_t size;
    check(file, "open", name);
    while ((size = read(file, block, sizeof block)) > 0)
        total += size;
    check((int)size, "read", name);
    close(file);
    printf("%lld bytes\n", total);
}

static void take(long megabytes) {
    for (long i = 0; i < megabytes; i++) {
        volatile char *memory = malloc(1 << 20);
        if (!memory)
            give_up("allocate", "memory");
        for (size_t at = 0; at < 1 << 20; at += 4096)
            memory[at] = 1;
    }
    printf("allocated %ld MiB\n", megabytes);
}

/* Arithmetic that no compiler can do beforehand, and that needs nothing but a processor. */
static unsigned long long mixed = 88172645463325252ULL;

static void compute(long steps) {
    for (long n = 0; n < steps; n++) {
        mixed ^= mixed << 13;
        mixed ^= mixed >> 7;
        mixed ^= mixed << 17;
    }
}

static void race(long from, long to) {
    struct timespec now;
    long long rounds = 0;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec < from)
        pause_for((from - now.tv_sec) * 1000 - now.tv_nsec / 1000000);
    do {
        compute(100000);
        rounds++;
        clock_gettime(CLOCK_REALTIME, &now);
    } while (now.tv_sec < to);
    printf("counted %lld\n", rounds);
}

static void tell_time(void) {
    static struct timespec last;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long passed = (now.tv_sec - last.tv_sec) * 1000000LL + (now.tv_nsec - last.tv_nsec) / 1000;
    if (last.tv_sec || last.tv_nsec)
        printf("%lld us\n", passed);
    last = now;
}

/* Verbs without arguments. False for others. */
static int alone(const char *verb, int argc, char **argv) {
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
    } else if (!strcmp(verb, "key")) {
        unsigned char key;
        fflush(NULL);
        if (read(0, &key, 1) != 1)
            give_up("read", "a key");
        printf("key %d\n", key);
    } else if (!strcmp(verb, "trap")) {
        fflush(NULL);
        __builtin_trap();
    } else if (!strcmp(verb, "time")) {
        tell_time();
    } else if (!strcmp(verb, "pwd")) {
        if (getcwd(block, sizeof block))
            puts(block);
        else
            give_up("tell", "the directory");
    } else {
        return 0;
    }
    return 1;
}

/* Verbs with one argument. */
static int with_one(const char *verb, const char *arg) {
    if (!strcmp(verb, "say")) {
        puts(arg);
    } else if (!strcmp(verb, "stderr")) {
        fprintf(stderr, "%s\n", arg);
    } else if (!strcmp(verb, "print")) {
        long lines = atol(arg);
        for (long n = 1; n <= lines; n++)
            printf("line %ld\n", n);
    } else if (!strcmp(verb, "tick")) {
        long pause = atol(arg);
        for (long n = 1;; n++) {
            printf("tick %ld\n", n);
            pause_for(pause);
        }
    } else if (!strcmp(verb, "alloc")) {
        take(atol(arg));
    } else if (!strcmp(verb, "compute")) {
        compute(atol(arg) * 1000000);
        fprintf(stderr, "mixed %llx\n", mixed);
    } else if (!strcmp(verb, "sleep")) {
        pause_for(atol(arg) * 1000);
    } else if (!strcmp(verb, "exit")) {
        exit(atoi(arg));
    } else if (!strcmp(verb, "cat")) {
        show(arg);
    } else if (!strcmp(verb, "ls")) {
        list(arg);
    } else if (!strcmp(verb, "stat")) {
        tell(arg);
    } else if (!strcmp(verb, "drain")) {
        drain(arg);
    } else if (!strcmp(verb, "mkdir")) {
        check(mkdir(arg, 0755), verb, arg);
    } else if (!strcmp(verb, "rmdir")) {
        check(rmdir(arg), verb, arg);
    } else if (!strcmp(verb, "rm")) {
        check(unlink(arg), verb, arg);
    } else if (!strcmp(verb, "cd")) {
        check(chdir(arg), verb, arg);
    } else {
        return 0;
    }
    return 1;
}

/* Verbs with two arguments. */
static int with_two(const char *verb, const char *first, const char *second) {
    if (!strcmp(verb, "write")) {
        put(first, "w", second);
    } else if (!strcmp(verb, "append")) {
        put(first, "a", second);
    } else if (!strcmp(verb, "same")) {
        compare(first, second);
    } else if (!strcmp(verb, "rename")) {
        check(rename(first, second), verb, first);
    } else if (!strcmp(verb, "link")) {
        check(link(first, second), verb, first);
    } else if (!strcmp(verb, "symlink")) {
        check(symlink(first, second), verb, second);
    } else if (!strcmp(verb, "files")) {
        small_files(first, atol(second));
    } else if (!strcmp(verb, "race")) {
        race(atol(first), atol(second));
    } else if (!strcmp(verb, "deep")) {
        deep(first, atol(second));
    } else if (!strcmp(verb, "flood")) {
        flood(first, atol(second));
    } else {
        return 0;
    }
    return 1;
}

int main(int argc, char **argv) {
    tell_time();
    for (int i = 1; i < argc; i++) {
        lenient = !strcmp(argv[i], "try") && i + 1 < argc;
        i += lenient;
        int left = argc - i - 1;
        if (alone(argv[i], argc, argv))
            continue;
        if (left >= 1 && with_one(argv[i], argv[i + 1])) {
            i += 1;
        } else if (left >= 2 && with_two(argv[i], argv[i + 1], argv[i + 2])) {
            i += 2;
        } else {
            fprintf(stderr, "unknown, or needs arguments: %s\n", argv[i]);
            return 64;
        }
    }
    return 0;
}
