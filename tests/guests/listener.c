// A WASI 0.1 program that listens on the ports of its container, and does with connections what its first argument says:
//
//   echo      takes one connection after the other, sends back what comes until the other side has sent all, says how much
//             that was, and goes on; all by calls that wait
//   poll      the same for several connections at once, by calls that never wait and poll()
//   greet     takes one connection after the other, and says welcome
//   hoard     accepts connections and keeps them, until it may not have any more; says how many there were, and waits
//   look      says what it finds: its environment, what its descriptors are, whether it sees its files
//
// Each line that it prints ends what it has to say about one matter.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

// Where the descriptors of LISTEN_FDS begin.
#define FIRST 3
#define MOST 256

static int fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

static int listeners(void) {
    const char *count = getenv("LISTEN_FDS");
    return count ? atoi(count) : 0;
}

// Sends all of it.
static int send_all(int fd, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t sent = send(fd, bytes, size, 0);
        if (sent < 0) {
            if (errno != EAGAIN) {
                return -1;
            }
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            poll(&room, 1, -1);
            continue;
        }
        bytes += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int say_total(int fd, size_t total) {
    char line[64];
    int size = snprintf(line, sizeof line, "%zu bytes\n", total);
    return send_all(fd, line, (size_t)size);
}

static int echo(void) {
    static char buffer[1 << 16];
    for (;;) {
        int fd = accept(FIRST, NULL, NULL);
        if (fd < 0) {
            return fail("accept");
        }
        size_t total = 0;
        ssize_t size;
        while ((size = read(fd, buffer, sizeof buffer)) > 0) {
            total += (size_t)size;
            if (send_all(fd, buffer, (size_t)size) < 0) {
                break;
            }
        }
        say_total(fd, total);
        shutdown(fd, SHUT_WR);
        close(fd);
        printf("%zu bytes on %d\n", total, fd);
    }
}

static int by_poll(void) {
    static char buffer[1 << 16];
    struct pollfd all[MOST];
    size_t totals[MOST] = {0};
    int count = listeners(), first = count;
    for (int n = 0; n < count; n++) {
        all[n] = (struct pollfd){.fd = FIRST + n, .events = POLLIN};
        if (fcntl(FIRST + n, F_SETFL, O_NONBLOCK) < 0) {
            return fail("fcntl");
        }
        if (accept(FIRST + n, NULL, NULL) >= 0 || errno != EAGAIN) {
            return fail("a listener that nobody has connected to");
        }
    }
    int turns = poll(all, (nfds_t)count, 0);
    printf("ready at first: %d\n", turns);
    fflush(stdout);
    for (;;) {
        if (poll(all, (nfds_t)count, -1) < 0) {
            return fail("poll");
        }
        for (int n = 0; n < count; n++) {
            if (!all[n].revents) {
                continue;
            }
            if (n < first) {
                int fd = accept4(all[n].fd, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) {
                    return fail("accept4");
                }
                if (!(fcntl(fd, F_GETFL) & O_NONBLOCK)) {
                    return fail("a connection that waits");
                }
                totals[count] = 0;
                all[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
                continue;
            }
            ssize_t size = recv(all[n].fd, buffer, sizeof buffer, 0);
            if (size < 0 && errno == EAGAIN) {
                continue;
            }
            if (size > 0) {
                totals[n] += (size_t)size;
                send_all(all[n].fd, buffer, (size_t)size);
                continue;
            }
            say_total(all[n].fd, totals[n]);
            close(all[n].fd);
            all[n] = all[--count];
            totals[n] = totals[count];
            n--;
        }
    }
}

static int greet(void) {
    for (;;) {
        int fd = accept(FIRST, NULL, NULL);
        if (fd < 0) {
            return fail("accept");
        }
        send_all(fd, "welcome\n", 8);
        close(fd);
    }
}

static int hoard(void) {
    int count = 0;
    while (accept(FIRST, NULL, NULL) >= 0) {
        count++;
    }
    printf("%d and then %s\n", count, errno == EMFILE ? "EMFILE" : strerror(errno));
    for (;;) {
        sleep(3600);
    }
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "none";
}

static int look(void) {
    printf("%s %s %s\n", variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"), variable("LISTEN_PID"));
    for (int n = 0; n < listeners(); n++) {
        struct stat status;
        int type = 0;
        socklen_t size = sizeof type;
        char byte;
        fstat(FIRST + n, &status);
        getsockopt(FIRST + n, SOL_SOCKET, SO_TYPE, &type, &size);
        printf("%d %s %s, read: ", FIRST + n, S_ISSOCK(status.st_mode) ? "socket" : "no socket",
               type == SOCK_STREAM ? "stream" : "other");
        printf("%s, ", read(FIRST + n, &byte, 1) < 0 ? strerror(errno) : "?");
        printf("openat: %s, ", openat(FIRST + n, "x", O_RDONLY) < 0 ? strerror(errno) : "?");
        printf("lseek: %s\n", lseek(FIRST + n, 0, SEEK_SET) < 0 ? strerror(errno) : "?");
    }
    struct stat status;
    printf("accept of stdout: %s\n", accept(1, NULL, NULL) < 0 ? strerror(errno) : "?");
    printf("accept of nothing: %s\n", accept(99, NULL, NULL) < 0 ? strerror(errno) : "?");
    printf("/: %s\n", stat("/", &status) == 0 && S_ISDIR(status.st_mode) ? "a directory" : strerror(errno));
    // What was closed may be another one's number, which waits as usual.
    int file = open("/", O_RDONLY | O_DIRECTORY);
    close(FIRST);
    int other = open("/", O_RDONLY | O_DIRECTORY);
    printf("%s, %s\n", file >= 0 ? "opened" : "not opened", other == FIRST ? "its number again" : "another number");
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "echo")) {
        return echo();
    }
    if (!strcmp(what, "poll")) {
        return by_poll();
    }
    if (!strcmp(what, "greet")) {
        return greet();
    }
    if (!strcmp(what, "hoard")) {
        return hoard();
    }
    if (!strcmp(what, "look")) {
        return look();
    }
    puts("unknown command");
    return 2;
}
