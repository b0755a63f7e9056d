// A WASI 0.2 component that looks its arguments up, one name after the other, and prints for each what was found:
//
//   <name>: 192.0.2.1 [2001:db8:0:0:0:0:0:1]
//   <name>: refused 18
//
// The number is the position of the error in wasi:sockets' error-code. The program has no libc; its imports are those of
// names-0.2.wat, as the canonical ABI has them.

#define LINE 2048
#include "component.h"

#define V(module) module "@0.2.0"

typedef struct {
    uint8_t failed;
    union {
        uint8_t error;
        int32_t handle;
    };
} Handle;
// result<option<ip-address>, error-code>
typedef struct {
    uint8_t failed;
    union {
        uint8_t error;
        struct {
            uint8_t is_some;
            struct {
                uint8_t is_v6;
                union {
                    uint8_t bytes[4];
                    uint16_t groups[8];
                };
            };
        };
    };
} Next;

IMPORT(V("wasi:cli/environment"), "get-arguments") void get_arguments(void *);
IMPORT(V("wasi:cli/stdout"), "get-stdout") int32_t get_stdout(void);
IMPORT(V("wasi:io/poll"), "[method]pollable.block") void pollable_block(int32_t);
IMPORT(V("wasi:io/poll"), "[resource-drop]pollable") void pollable_drop(int32_t);
IMPORT(V("wasi:io/streams"), "[method]output-stream.blocking-write-and-flush")
void write_stream(int32_t, const void *, size_t, void *);
IMPORT(V("wasi:io/streams"), "[resource-drop]output-stream") void output_drop(int32_t);
IMPORT(V("wasi:sockets/instance-network"), "instance-network") int32_t instance_network(void);
IMPORT(V("wasi:sockets/ip-name-lookup"), "resolve-addresses")
void resolve_addresses(int32_t, const void *, size_t, void *);
IMPORT(V("wasi:sockets/ip-name-lookup"), "[method]resolve-address-stream.resolve-next-address")
void resolve_next(int32_t, void *);
IMPORT(V("wasi:sockets/ip-name-lookup"), "[method]resolve-address-stream.subscribe") int32_t resolve_subscribe(int32_t);
IMPORT(V("wasi:sockets/ip-name-lookup"), "[resource-drop]resolve-address-stream") void resolve_drop(int32_t);

static void say_refused(Line *line, uint8_t error) {
    say(line, " refused ");
    say_number(line, error, 10);
}

static void look_up(Line *line, int32_t network, List name) {
    Handle stream;
    resolve_addresses(network, name.data, name.size, &stream);
    if (stream.failed) {
        say_refused(line, stream.error);
        return;
    }
    int32_t answered = resolve_subscribe(stream.handle);
    pollable_block(answered);
    pollable_drop(answered);
    for (;;) {
        Next next;
        resolve_next(stream.handle, &next);
        if (next.failed) {
            say_refused(line, next.error);
            break;
        }
        if (!next.is_some) {
            break;
        }
        say(line, next.is_v6 ? " [" : " ");
        for (int n = 0; n < (next.is_v6 ? 8 : 4); n++) {
            say(line, n ? (next.is_v6 ? ":" : ".") : "");
            say_number(line, next.is_v6 ? next.groups[n] : next.bytes[n], next.is_v6 ? 16 : 10);
        }
        say(line, next.is_v6 ? "]" : "");
    }
    resolve_drop(stream.handle);
}

EXPORT("run") int32_t run(void) {
    List arguments;
    get_arguments(&arguments);
    int32_t network = instance_network(), out = get_stdout();
    for (size_t n = 1; n < arguments.size; n++) {
        List name = ((const List *)arguments.data)[n];
        Line line;
        Handle written;
        line.size = 0;
        for (size_t c = 0; c < name.size; c++) {
            say_char(&line, (char)name.data[c]);
        }
        say(&line, ":");
        look_up(&line, network, name);
        say(&line, "\n");
        write_stream(out, line.text, line.size, &written);
    }
    output_drop(out);
    return 0;
}
