// A command of WASI 0.3 that does what its arguments say, one after the other:
//
//   say TEXT        print a line
//   wait            read standard input to its end
//   look-up NAME    print the addresses of a name, or "refused" and the position of the error in 0.2's error-code
//   trap            trap
//   fail            return an error
//   exit N          exit
//
// It returns at the end of its arguments. There is no libc for WASI 0.3 here: these are the functions that actor-0.3.wat imports,
// as the canonical ABI has them.

#define LINE 1024
#include "component.h"
#include "streams.h"

IMPORT("wasi:cli/environment@0.3.0", "get-arguments") void get_arguments(void *);
IMPORT("wasi:cli/exit@0.3.0", "exit-with-code") void exit_with_code(int32_t);
IMPORT("wasi:cli/stdin@0.3.0", "read-via-stream") void read_stdin(void *);
IMPORT("wasi:sockets/ip-name-lookup@0.3.0", "resolve-addresses") void resolve(const void *, size_t, void *);

// ip-address
typedef struct {
    uint8_t is_v6;
    union {
        uint8_t bytes[4];
        uint16_t groups[8];
    };
} Ip;
// result<list<ip-address>, error-code>
typedef struct {
    uint8_t failed;
    union {
        struct {
            uint8_t error;
            uint32_t text[3];
        };
        List addresses;
    };
} Found;

static void say_ip(Line *line, const Ip *ip) {
    for (size_t n = 0; n < (ip->is_v6 ? 8 : 4); n++) {
        if (n) {
            say(line, ip->is_v6 ? ":" : ".");
        }
        say_number(line, ip->is_v6 ? ip->groups[n] : ip->bytes[n], ip->is_v6 ? 16 : 10);
    }
}

static void say_list(Line *line, List text) {
    for (size_t n = 0; n < text.size; n++) {
        say_char(line, (char)text.data[n]);
    }
}

static void look_up(List name) {
    // name-unresolvable, temporary-resolver-failure and permanent-resolver-failure; the first two are as in 0.2.
    static const uint8_t of_0_2[] = {1, 3, 18, 19, 20};
    Line line = {.size = 0};
    Found found;
    say_list(&line, name);
    say(&line, ":");
    resolve(name.data, name.size, &found);
    if (found.failed) {
        say(&line, " refused ");
        say_number(&line, found.error < sizeof of_0_2 ? of_0_2[found.error] : 0, 10);
    } else {
        for (size_t n = 0; n < found.addresses.size; n++) {
            say(&line, " ");
            say_ip(&line, (const Ip *)found.addresses.data + n);
        }
    }
    say(&line, "\n");
    print(&line);
}

// Reads standard input to its end.
static void wait(void) {
    int32_t handles[2];
    uint8_t piece[64];
    read_stdin(handles);
    while (!(outcome(handles[0], bytes_read(handles[0], piece, sizeof piece)) & 15)) {
    }
    bytes_drop(handles[0]);
    printed_drop(handles[1]);
}

EXPORT("run") int32_t run(void) {
    List arguments;
    get_arguments(&arguments);
    for (size_t n = 1; n < arguments.size; n++) {
        List verb = ((const List *)arguments.data)[n];
        List argument = n + 1 < arguments.size ? ((const List *)arguments.data)[n + 1] : (List){0, 0};
        if (is(verb, "wait")) {
            wait();
        } else if (is(verb, "trap")) {
            __builtin_trap();
        } else if (is(verb, "fail")) {
            return 1;
        } else if (is(verb, "say")) {
            Line line = {.size = 0};
            say_list(&line, argument);
            say(&line, "\n");
            print(&line);
            n++;
        } else if (is(verb, "look-up")) {
            look_up(argument);
            n++;
        } else if (is(verb, "exit")) {
            int32_t code = 0;
            for (size_t c = 0; c < argument.size; c++) {
                code = code * 10 + (argument.data[c] - '0');
            }
            exit_with_code(code);
        } else {
            return 1;
        }
    }
    return 0;
}
