/* A multi-call program: what it does is said by the name that it is called by, or else by its first argument.
 *
 *   cat               copies standard input to standard output
 *   sh                an interpreter that reads commands line by line, as below, and says "end of input" at its end
 *   tar cf - PATH...  writes an archive of files and directories
 *   tar xmf - -C DIR  takes files and directories out of one, which comes by standard input
 *   test -d PATH      whether that is a directory
 *   yes               writes lines for ever
 *   give MIB          writes so much of them
 *   count             reads standard input to its end, and prints how many bytes there were and a checksum of them
 *
 * Commands of the interpreter:
 *
 *   echo TEXT         prints a line
 *   warn TEXT         prints a line on standard error
 *   next              prints how often it was asked that, which only the same instance knows
 *   terminal          prints whether it has one, and COLUMNS and LINES of its environment
 *   ask               prints "name? " without an end of the line, reads one, and greets
 *   exit N            ends
 *
 * Of tar there is what kubectl uses, in the format ustar with paths of pax.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 512
#define LONGEST 4096

static char buffer[64 << 10];

static int fail(const char *what, const char *name) {
    fprintf(stderr, "%s %s: %s\n", what, name, strerror(errno));
    return 1;
}

/* Writes all of it. */
static int put(const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t written = write(1, bytes, size);
        if (written < 0)
            return -1;
        bytes += written;
        size -= (size_t)written;
    }
    return 0;
}

static int cat(void) {
    ssize_t size;
    while ((size = read(0, buffer, sizeof buffer)) > 0)
        if (put(buffer, (size_t)size))
            return fail("write", "standard output");
    return size < 0 ? fail("read", "standard input") : 0;
}

static int count(void) {
    unsigned long long total = 0, sum = 0;
    ssize_t size;
    while ((size = read(0, buffer, sizeof buffer)) > 0) {
        for (ssize_t n = 0; n < size; n++)
            sum = sum * 31 + (unsigned char)buffer[n];
        total += (unsigned long long)size;
    }
    printf("%llu bytes, %016llx\n", total, sum);
    return size < 0 ? fail("read", "standard input") : 0;
}

/* Writes lines: so many bytes, or, where that is negative, for ever. */
static int give(long long bytes) {
    static const char line[] = "the quick brown fox jumps over the lazy dog, and nobody looks\n";
    size_t size = 0;
    while (size + sizeof line - 1 <= sizeof buffer) {
        memcpy(buffer + size, line, sizeof line - 1);
        size += sizeof line - 1;
    }
    for (long long left = bytes; left != 0;) {
        size_t part = left < 0 || left > (long long)size ? size : (size_t)left;
        if (put(buffer, part))
            return 1;
        left -= left < 0 ? 0 : (long long)part;
    }
    return 0;
}

static int test(int argc, char **argv) {
    struct stat status;
    if (argc != 2 || strcmp(argv[0], "-d"))
        return 2;
    return stat(argv[1], &status) == 0 && S_ISDIR(status.st_mode) ? 0 : 1;
}

/* Reads a line without its end; a carriage return ends one, too. Not at the end of the input. */
static int line(char *text, size_t size) {
    size_t used = 0;
    char byte;
    while (read(0, &byte, 1) == 1) {
        if (byte == '\n' || byte == '\r') {
            text[used] = 0;
            return 1;
        }
        if (used + 1 < size)
            text[used++] = byte;
    }
    text[used] = 0;
    return used > 0;
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "?";
}

static int interpret(void) {
    static char command[LONGEST], name[LONGEST];
    int asked = 0;
    setvbuf(stdout, NULL, _IONBF, 0);
    puts("ready");
    while (line(command, sizeof command)) {
        if (!strncmp(command, "echo ", 5)) {
            puts(command + 5);
        } else if (!strncmp(command, "warn ", 5)) {
            fprintf(stderr, "%s\n", command + 5);
        } else if (!strcmp(command, "next")) {
            printf("next %d\n", ++asked);
        } else if (!strcmp(command, "terminal")) {
            const char *is = isatty(0) ? "a terminal" : "no terminal";
            printf("%s, %s columns, %s lines\n", is, variable("COLUMNS"), variable("LINES"));
        } else if (!strcmp(command, "ask")) {
            printf("name? ");
            if (line(name, sizeof name))
                printf("hello %s\n", name);
        } else if (!strncmp(command, "exit ", 5)) {
            return atoi(command + 5);
        } else if (command[0]) {
            printf("no such command: %s\n", command);
        }
    }
    puts("end of input");
    return 0;
}

/* A header of tar, as ustar has it. */
typedef struct {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[6], version[2], owner[32], group[32], major[8], minor[8], prefix[155], rest[12];
} Header;

static void set_checksum(Header *header) {
    unsigned sum = 0;
    memset(header->checksum, ' ', sizeof header->checksum);
    for (size_t n = 0; n < sizeof *header; n++)
        sum += ((const unsigned char *)header)[n];
    snprintf(header->checksum, sizeof header->checksum, "%06o", sum);
}

static int put_header(const char *path, char type, const struct stat *status, unsigned long long size) {
    Header header;
    memset(&header, 0, sizeof header);
    memcpy(header.name, path, strnlen(path, sizeof header.name));
    snprintf(header.mode, sizeof header.mode, "%07o", type == '5' ? 0755u : 0644u);
    snprintf(header.uid, sizeof header.uid, "%07o", 0u);
    snprintf(header.gid, sizeof header.gid, "%07o", 0u);
    snprintf(header.size, sizeof header.size, "%011llo", size);
    snprintf(header.mtime, sizeof header.mtime, "%011llo", (unsigned long long)status->st_mtime);
    header.type = type;
    memcpy(header.magic, "ustar", 6);
    memcpy(header.version, "00", 2);
    set_checksum(&header);
    return put((const char *)&header, sizeof header);
}

static int pad(unsigned long long size) {
    static const char zeros[BLOCK];
    return size % BLOCK ? put(zeros, BLOCK - size % BLOCK) : 0;
}

/* A record of pax that has the path of the next entry. */
static int put_path(const char *path, const struct stat *status) {
    static char record[LONGEST + 64];
    size_t size = strlen(path) + sizeof " path=\n" - 1, digits = 1;
    for (size_t power = 10; size + digits >= power; power *= 10)
        digits++;
    int written = snprintf(record, sizeof record, "%zu path=%s\n", size + digits, path);
    if (put_header("pax", 'x', status, (unsigned long long)written))
        return -1;
    return put(record, (size_t)written) || pad((unsigned long long)written) ? -1 : 0;
}

static int add(const char *path) {
    struct stat status;
    if (lstat(path, &status))
        return fail("stat", path);
    const char *name = path;
    while (*name == '/')
        name++;
    int is_directory = S_ISDIR(status.st_mode);
    if (!is_directory && !S_ISREG(status.st_mode))
        return 0;
    unsigned long long size = is_directory ? 0 : (unsigned long long)status.st_size;
    if (strlen(name) > sizeof((Header *)0)->name && put_path(name, &status))
        return fail("write", path);
    if (put_header(name, is_directory ? '5' : '0', &status, size))
        return fail("write", path);
    if (is_directory) {
        DIR *directory = opendir(path);
        struct dirent *entry;
        int failed = 0;
        if (!directory)
            return fail("open", path);
        while ((entry = readdir(directory))) {
            char *inner;
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
                continue;
            if (asprintf(&inner, "%s/%s", path, entry->d_name) < 0)
                return fail("add", path);
            failed |= add(inner);
            free(inner);
        }
        closedir(directory);
        return failed;
    }
    int file = open(path, O_RDONLY);
    ssize_t part;
    if (file < 0)
        return fail("open", path);
    while ((part = read(file, buffer, sizeof buffer)) > 0)
        if (put(buffer, (size_t)part))
            return fail("write", path);
    close(file);
    return part < 0 || pad(size) ? fail("read", path) : 0;
}

static int create(int argc, char **argv) {
    static const char end[2 * BLOCK];
    int failed = 0;
    for (int n = 0; n < argc; n++)
        failed |= add(argv[n]);
    return failed | put(end, sizeof end);
}

/* Reads all of it; says how much there was before the end. */
static size_t get(char *bytes, size_t size) {
    size_t got = 0;
    while (got < size) {
        ssize_t part = read(0, bytes + got, size - got);
        if (part <= 0)
            break;
        got += (size_t)part;
    }
    return got;
}

/* Reads what an entry holds, with what fills its last block, into a file or, where it is -1, nowhere. */
static int get_content(unsigned long long size, int file) {
    unsigned long long left = (size + BLOCK - 1) / BLOCK * BLOCK;
    while (left > 0) {
        size_t part = left < sizeof buffer ? (size_t)left : sizeof buffer, real = size < part ? (size_t)size : part;
        if (get(buffer, part) < part)
            return -1;
        if (file >= 0 && write(file, buffer, real) != (ssize_t)real)
            return -1;
        left -= part;
        size -= real;
    }
    return 0;
}

static int make_parents(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int failed = mkdir(path, 0755) && errno != EEXIST;
        *slash = '/';
        if (failed)
            return -1;
    }
    return 0;
}

/* The path in records of pax, if there is one. */
static void find_path(char *records, size_t size, char *path, size_t room) {
    for (char *record = records; record < records + size;) {
        char *text;
        unsigned long length = strtoul(record, &text, 10);
        if (!length || record + length > records + size)
            return;
        if (!strncmp(text, " path=", 6))
            snprintf(path, room, "%.*s", (int)(record + length - 1 - (text + 6)), text + 6);
        record += length;
    }
}

static int extract(const char *root) {
    static char next[LONGEST], path[2 * LONGEST];
    Header header;
    next[0] = 0;
    while (get((char *)&header, sizeof header) == sizeof header && header.name[0]) {
        unsigned long long size = strtoull(header.size, NULL, 8);
        if (header.type == 'x') {
            static char records[LONGEST];
            size_t whole = (size_t)((size + BLOCK - 1) / BLOCK * BLOCK);
            if (whole > sizeof records || get(records, whole) < whole)
                return fail("read", "a header");
            find_path(records, (size_t)size, next, sizeof next);
            continue;
        }
        int used = snprintf(path, sizeof path, "%s/", root);
        if (next[0])
            snprintf(path + used, sizeof path - (size_t)used, "%s", next);
        else if (header.prefix[0])
            snprintf(path + used, sizeof path - (size_t)used, "%.155s/%.100s", header.prefix, header.name);
        else
            snprintf(path + used, sizeof path - (size_t)used, "%.100s", header.name);
        next[0] = 0;
        if (make_parents(path))
            return fail("make directories of", path);
        if (header.type == '5') {
            if (mkdir(path, 0755) && errno != EEXIST)
                return fail("make", path);
        } else if (header.type == '0' || header.type == 0) {
            int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
            if (file < 0)
                return fail("open", path);
            if (get_content(size, file))
                return fail("write", path);
            close(file);
        } else if (get_content(size, -1)) {
            return fail("read", path);
        }
    }
    /* What fills the last record is read, so that whoever writes it is not cut off. */
    while (get(buffer, sizeof buffer) > 0)
        ;
    return 0;
}

static int tar(int argc, char **argv) {
    const char *mode = "", *root = ".";
    int first = argc;
    for (int n = 0; n < argc; n++) {
        if (!strncmp(argv[n], "--no-same-", 10))
            continue;
        if (!mode[0]) {
            mode = argv[n] + (argv[n][0] == '-');
        } else if (!strcmp(argv[n], "-C") && n + 1 < argc) {
            root = argv[++n];
        } else if (strcmp(argv[n], "-")) {
            first = n < first ? n : first;
        }
    }
    if (!strchr(mode, 'f') || strchr(mode, 'z')) {
        fprintf(stderr, "tar: not with %s\n", mode);
        return 64;
    }
    if (mode[0] == 'c')
        return create(argc - first, argv + first);
    return mode[0] == 'x' ? extract(root) : 64;
}

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int call(const char *name, int argc, char **argv) {
    if (!strcmp(name, "cat"))
        return cat();
    if (!strcmp(name, "sh"))
        return interpret();
    if (!strcmp(name, "tar"))
        return tar(argc, argv);
    if (!strcmp(name, "test"))
        return test(argc, argv);
    if (!strcmp(name, "yes"))
        return give(-1);
    if (!strcmp(name, "give"))
        return argc == 1 ? give(atoll(argv[0]) << 20) : 64;
    if (!strcmp(name, "count"))
        return count();
    return -1;
}

int main(int argc, char **argv) {
    const char *name = argc > 0 ? last_part(argv[0]) : "";
    int code = call(name, argc - 1, argv + 1);
    if (code < 0 && argc > 1)
        code = call(argv[1], argc - 2, argv + 2);
    if (code < 0) {
        fprintf(stderr, "%s: there is no such tool\n", argc > 1 ? argv[1] : name);
        return 64;
    }
    return code;
}
