// A WASI 0.2 component that sends HTTP requests, one for each argument after the other, and prints for each what came of it:
//
//   <address>: 200, 5 bytes: hello
//   <address>: refused 6
//
// The number is the position of the error in wasi:http's error-code; the text is the first line of the body. An argument like
// +65536 makes of the next request a POST with so many bytes, and one like ^name:value is a header of all that follow. One like
// <https://... has the body printed as it comes, and nothing else; one like ~terces says how often its reverse, secret, is in the
// memory of the program. Flags are for others. The program has no libc; its imports are those of outgoing-0.2.wat, as the
// canonical ABI has them.

#define LINE 4096
#include "component.h"

#define V(module) module "@0.2.0"
#define TYPES(name) IMPORT("wasi:http/types@0.2.0", name)

// result<own<...>, ...>, of which the error does not matter.
typedef struct {
    uint8_t failed;
    int32_t handle;
} Handle;
// result<own<...>, error-code>: the alignment is that of the largest of all errors.
typedef struct {
    uint8_t failed;
    union {
        uint8_t error;
        int32_t handle;
        uint64_t payload[4];
    };
} Checked;
// option<result<result<own<incoming-response>, error-code>>>
typedef struct {
    uint8_t is_some;
    struct {
        uint8_t failed;
        Checked checked;
    } __attribute__((aligned(8)));
} Answer;
// result<list<u8>, stream-error>
typedef struct {
    uint8_t failed;
    union {
        List bytes;
        struct {
            uint8_t is_closed;
            int32_t error;
        };
    };
} Piece;

IMPORT(V("wasi:cli/environment"), "get-arguments") void get_arguments(void *);
IMPORT(V("wasi:cli/stdout"), "get-stdout") int32_t get_stdout(void);
IMPORT(V("wasi:io/error"), "[resource-drop]error") void error_drop(int32_t);
IMPORT(V("wasi:io/poll"), "[method]pollable.block") void pollable_block(int32_t);
IMPORT(V("wasi:io/poll"), "[resource-drop]pollable") void pollable_drop(int32_t);
IMPORT(V("wasi:io/streams"), "[method]input-stream.blocking-read") void read_stream(int32_t, uint64_t, void *);
IMPORT(V("wasi:io/streams"), "[resource-drop]input-stream") void input_drop(int32_t);
IMPORT(V("wasi:io/streams"), "[method]output-stream.blocking-write-and-flush")
void write_stream(int32_t, const void *, size_t, void *);
IMPORT(V("wasi:io/streams"), "[resource-drop]output-stream") void output_drop(int32_t);
TYPES("[constructor]fields") int32_t fields_new(void);
TYPES("[method]fields.append") void fields_append(int32_t, const void *, size_t, const void *, size_t, void *);
TYPES("[constructor]outgoing-request") int32_t request_new(int32_t);
TYPES("[method]outgoing-request.set-method") int32_t request_method(int32_t, int32_t, const void *, size_t);
TYPES("[method]outgoing-request.set-scheme") int32_t request_scheme(int32_t, int32_t, int32_t, const void *, size_t);
TYPES("[method]outgoing-request.set-authority") int32_t request_authority(int32_t, int32_t, const void *, size_t);
TYPES("[method]outgoing-request.set-path-with-query") int32_t request_path(int32_t, int32_t, const void *, size_t);
TYPES("[method]outgoing-request.body") void request_body(int32_t, void *);
TYPES("[method]outgoing-body.write") void body_write(int32_t, void *);
TYPES("[static]outgoing-body.finish") void body_finish(int32_t, int32_t, int32_t, void *);
TYPES("[method]future-incoming-response.subscribe") int32_t future_subscribe(int32_t);
TYPES("[method]future-incoming-response.get") void future_get(int32_t, void *);
TYPES("[resource-drop]future-incoming-response") void future_drop(int32_t);
TYPES("[method]incoming-response.status") int32_t response_status(int32_t);
TYPES("[method]incoming-response.consume") void response_consume(int32_t, void *);
TYPES("[resource-drop]incoming-response") void response_drop(int32_t);
TYPES("[method]incoming-body.stream") void body_stream(int32_t, void *);
TYPES("[resource-drop]incoming-body") void body_drop(int32_t);
IMPORT(V("wasi:http/outgoing-handler"), "handle") void handle(int32_t, int32_t, int32_t, void *);

// wasi:http's method.
enum { GET = 0, POST = 2 };

static void say_refused(Line *line, uint8_t error) {
    say(line, "refused ");
    say_number(line, error, 10);
}

static List without(List text, size_t count) {
    return (List){text.data + count, text.size - count};
}

// Headers of requests.
static List headers[8];
static size_t header_count;

// Makes the headers of a request.
static int32_t fields(void) {
    int32_t fields = fields_new();
    for (size_t n = 0; n < header_count; n++) {
        size_t name = 0;
        uint8_t failed[2];
        while (name + 1 < headers[n].size && headers[n].data[name] != ':') {
            name++;
        }
        List value = without(headers[n], name + 1);
        fields_append(fields, headers[n].data, name, value.data, value.size, failed);
    }
    return fields;
}

// A request for an address; 0 if it is none.
static int32_t request_for(List address) {
    int32_t is_tls = begins(address, "https://");
    if (!is_tls && !begins(address, "http://")) {
        return 0;
    }
    List rest = without(address, is_tls ? 8 : 7);
    size_t authority = 0;
    while (authority < rest.size && rest.data[authority] != '/') {
        authority++;
    }
    List path = without(rest, authority);
    int32_t request = request_new(fields());
    int32_t failed = request_scheme(request, 1, is_tls, 0, 0) | request_authority(request, 1, rest.data, authority) |
                     request_path(request, 1, path.data, path.size);
    return failed ? 0 : request;
}

// Sends so many bytes. The server may have had enough of them.
static void send_body(int32_t body, uint64_t size) {
    static char piece[4096];
    Handle stream, written = {0};
    Checked finished;
    body_write(body, &stream);
    while (size > 0 && !written.failed) {
        size_t part = size < sizeof piece ? (size_t)size : sizeof piece;
        write_stream(stream.handle, piece, part, &written);
        size -= part;
    }
    output_drop(stream.handle);
    body_finish(body, 0, 0, &finished);
}

static void say_body(Line *line, int32_t response) {
    Line first;
    first.size = 0;
    Handle body, stream;
    uint64_t size = 0;
    int is_first = 1;
    response_consume(response, &body);
    body_stream(body.handle, &stream);
    for (;;) {
        Piece piece;
        read_stream(stream.handle, 65536, &piece);
        if (piece.failed) {
            if (!piece.is_closed) {
                error_drop(piece.error);
                say(line, ", broken");
            }
            break;
        }
        for (size_t n = 0; is_first && n < piece.bytes.size; n++) {
            is_first = piece.bytes.data[n] >= ' ' && piece.bytes.data[n] < 127 && first.size < 200;
            if (is_first) {
                say_char(&first, (char)piece.bytes.data[n]);
            }
        }
        size += piece.bytes.size;
    }
    input_drop(stream.handle);
    body_drop(body.handle);
    say(line, ", ");
    say_number(line, size, 10);
    say(line, " bytes: ");
    for (size_t n = 0; n < first.size; n++) {
        say_char(line, first.text[n]);
    }
}

// Prints a body as it comes.
static void follow(int32_t out, List address) {
    Checked future;
    Answer answer;
    handle(request_for(address), 0, 0, &future);
    if (future.failed) {
        return;
    }
    pollable_block(future_subscribe(future.handle));
    future_get(future.handle, &answer);
    if (!answer.is_some || answer.failed || answer.checked.failed) {
        return;
    }
    Handle body, stream, written;
    response_consume(answer.checked.handle, &body);
    body_stream(body.handle, &stream);
    for (;;) {
        Piece piece;
        read_stream(stream.handle, 4096, &piece);
        if (piece.failed) {
            break;
        }
        write_stream(out, piece.bytes.data, piece.bytes.size, &written);
    }
}

// How often the reverse of a text is in the memory of this program.
static uint64_t count_reversed(List text) {
    // The compiler is not to know that it is 0, from where nothing may be read in C.
    static volatile size_t start;
    const uint8_t *memory = (const uint8_t *)start;
    uint64_t count = 0;
    size_t end = __builtin_wasm_memory_size(0) << 16;
    for (size_t at = 1; at + text.size <= end; at++) {
        size_t n = 0;
        while (n < text.size && memory[at + n] == text.data[text.size - 1 - n]) {
            n++;
        }
        count += n == text.size;
    }
    return count;
}

static void ask(Line *line, List address, uint64_t size) {
    int32_t request = request_for(address);
    if (!request) {
        say(line, "no address");
        return;
    }
    Handle body = {.failed = 1};
    if (size > 0) {
        request_method(request, POST, 0, 0);
        request_body(request, &body);
    }
    Checked future;
    handle(request, 0, 0, &future);
    if (future.failed) {
        say_refused(line, future.error);
        return;
    }
    if (!body.failed) {
        send_body(body.handle, size);
    }
    int32_t answered = future_subscribe(future.handle);
    pollable_block(answered);
    pollable_drop(answered);
    Answer answer;
    future_get(future.handle, &answer);
    if (!answer.is_some || answer.failed) {
        say(line, "no answer");
    } else if (answer.checked.failed) {
        say_refused(line, answer.checked.error);
    } else {
        say_number(line, (uint32_t)response_status(answer.checked.handle), 10);
        say_body(line, answer.checked.handle);
        response_drop(answer.checked.handle);
    }
    future_drop(future.handle);
}

EXPORT("run") int32_t run(void) {
    List arguments;
    get_arguments(&arguments);
    int32_t out = get_stdout();
    uint64_t size = 0;
    for (size_t n = 1; n < arguments.size; n++) {
        List argument = ((const List *)arguments.data)[n];
        if (begins(argument, "+")) {
            size = 0;
            for (size_t c = 1; c < argument.size; c++) {
                size = size * 10 + (argument.data[c] - '0');
            }
            continue;
        }
        if (begins(argument, "^")) {
            if (header_count < sizeof headers / sizeof *headers) {
                headers[header_count++] = without(argument, 1);
            }
            continue;
        }
        if (begins(argument, "<")) {
            follow(out, without(argument, 1));
            continue;
        }
        if (begins(argument, "-")) {
            continue;
        }
        Line line;
        Handle written;
        line.size = 0;
        if (begins(argument, "~")) {
            say_number(&line, count_reversed(without(argument, 1)), 10);
            say(&line, " found\n");
            write_stream(out, line.text, line.size, &written);
            continue;
        }
        for (size_t c = 0; c < argument.size; c++) {
            say_char(&line, (char)argument.data[c]);
        }
        say(&line, ": ");
        ask(&line, argument, size);
        say(&line, "\n");
        write_stream(out, line.text, line.size, &written);
        size = 0;
    }
    output_drop(out);
    return 0;
}
