// The program of outgoing-0.2.c for WASI 0.3: it sends HTTP requests, one for each argument after the other, and prints for each
// what came of it:
//
//   <address>: 200, 5 bytes: hello
//   <address>: refused 6
//
// The number is the position of the error in wasi:http's error-code; the text is the first line of the body. An argument like
// +65536 makes of the next request a POST with so many bytes, and one like ^name:value is a header of all that follow. There is
// no libc for WASI 0.3 here: these are the functions that outgoing-0.3.wat imports, as the canonical ABI has them.

#define LINE 4096
#include "component.h"
#include "streams.h"

#define TYPES(name) IMPORT("wasi:http/types@0.3.0", name)

IMPORT("wasi:cli/environment@0.3.0", "get-arguments") void get_arguments(void *);
TYPES("[constructor]fields") int32_t fields_new(void);
TYPES("[method]fields.append") void fields_append(int32_t, const void *, size_t, const void *, size_t, void *);
TYPES("[static]request.new") void request_new(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, void *);
TYPES("[method]request.set-method") int32_t request_method(int32_t, int32_t, const void *, size_t);
TYPES("[method]request.set-scheme") int32_t request_scheme(int32_t, int32_t, int32_t, const void *, size_t);
TYPES("[method]request.set-authority") int32_t request_authority(int32_t, int32_t, const void *, size_t);
TYPES("[method]request.set-path-with-query") int32_t request_path(int32_t, int32_t, const void *, size_t);
TYPES("[method]response.get-status-code") int32_t response_status(int32_t);
TYPES("[static]response.consume-body") void response_body(int32_t, int32_t, void *);
IMPORT("wasi:http/client@0.3.0", "send") uint32_t send(int32_t, void *);
IMPORT("streams", "ends.new") int64_t ends_new(void);
IMPORT("streams", "ends.write") uint32_t ends_write(int32_t, const void *);
IMPORT("streams", "ends.drop-readable") void ends_drop(int32_t);
IMPORT("streams", "ends.drop-writable") void ends_end(int32_t);
IMPORT("streams", "sent.new") int64_t sent_new(void);
IMPORT("streams", "sent.write") uint32_t sent_write(int32_t, const void *);
IMPORT("streams", "sent.drop-readable") void sent_drop(int32_t);
IMPORT("streams", "sent.drop-writable") void sent_end(int32_t);
IMPORT("streams", "subtask.drop") void subtask_drop(int32_t);

// wasi:http's method.
enum { GET = 0, POST = 2 };
enum { RETURNED = 2 };

// result<own<response>, error-code>: the alignment is that of the largest of all errors.
typedef struct {
    uint8_t failed;
    union {
        uint8_t error;
        int32_t handle;
        uint64_t payload[4];
    };
} Answer;

// A request, and where its body and the end of that are written.
typedef struct {
    int32_t request, body, end;
} Request;

// No trailers, and no error.
static const uint64_t nothing[8];

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
        int32_t failed[5];
        while (name + 1 < headers[n].size && headers[n].data[name] != ':') {
            name++;
        }
        List value = without(headers[n], name + 1);
        fields_append(fields, headers[n].data, name, value.data, value.size, failed);
    }
    return fields;
}

// A request for an address; false if it is none.
static int request_for(List address, int32_t method, Request *made) {
    int32_t is_tls = begins(address, "https://"), result[2];
    if (!is_tls && !begins(address, "http://")) {
        return 0;
    }
    List rest = without(address, is_tls ? 8 : 7);
    size_t authority = 0;
    while (authority < rest.size && rest.data[authority] != '/') {
        authority++;
    }
    List path = without(rest, authority);
    int64_t body = bytes_new(), end = ends_new();
    request_new(fields(), method == POST, (int32_t)body, (int32_t)end, 0, 0, result);
    if (method != POST) {
        bytes_drop((int32_t)body);
    }
    sent_drop(result[1]);
    *made = (Request){result[0], (int32_t)(body >> 32), (int32_t)(end >> 32)};
    return !(request_method(made->request, method, 0, 0) | request_scheme(made->request, 1, is_tls, 0, 0) |
             request_authority(made->request, 1, rest.data, authority) |
             request_path(made->request, 1, path.data, path.size));
}

// Sends so many bytes, as far as they are wanted, and their end.
static void send_body(const Request *request, uint64_t size) {
    static uint8_t piece[4096];
    while (size > 0) {
        size_t part = size < sizeof piece ? (size_t)size : sizeof piece;
        if (!write_all(request->body, piece, part)) {
            break;
        }
        size -= part;
    }
    bytes_end(request->body);
    outcome(request->end, ends_write(request->end, nothing));
    ends_end(request->end);
}

static void say_body(Line *line, int32_t response) {
    static uint8_t piece[65536];
    Line first = {.size = 0};
    int32_t handles[2];
    uint64_t size = 0;
    int is_first = 1;
    uint32_t code;
    int64_t received = sent_new();
    response_body(response, (int32_t)received, handles);
    do {
        code = outcome(handles[0], bytes_read(handles[0], piece, sizeof piece));
        for (size_t n = 0; is_first && n < code >> 4; n++) {
            is_first = piece[n] >= ' ' && piece[n] < 127 && first.size < 200;
            if (is_first) {
                say_char(&first, (char)piece[n]);
            }
        }
        size += code >> 4;
    } while (!(code & 15));
    bytes_drop(handles[0]);
    ends_drop(handles[1]);
    outcome((int32_t)(received >> 32), sent_write((int32_t)(received >> 32), nothing));
    sent_end((int32_t)(received >> 32));
    say(line, ", ");
    say_number(line, size, 10);
    say(line, " bytes: ");
    for (size_t n = 0; n < first.size; n++) {
        say_char(line, first.text[n]);
    }
}

static void ask(Line *line, List address, uint64_t size) {
    Request request;
    if (!request_for(address, size ? POST : GET, &request)) {
        say(line, "no address");
        return;
    }
    Answer answer;
    uint32_t status = send(request.request, &answer), call = status >> 4;
    send_body(&request, size);
    if ((status & 15) != RETURNED) {
        outcome((int32_t)call, BLOCKED);
        subtask_drop((int32_t)call);
    }
    if (answer.failed) {
        say(line, "refused ");
        say_number(line, answer.error, 10);
        return;
    }
    say_number(line, (uint32_t)response_status(answer.handle), 10);
    say_body(line, answer.handle);
}

EXPORT("run") int32_t run(void) {
    List arguments;
    uint64_t size = 0;
    get_arguments(&arguments);
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
        Line line = {.size = 0};
        for (size_t c = 0; c < argument.size; c++) {
            say_char(&line, (char)argument.data[c]);
        }
        say(&line, ": ");
        ask(&line, argument, size);
        say(&line, "\n");
        print(&line);
        size = 0;
    }
    return 0;
}
