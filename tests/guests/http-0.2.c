// A component of WASI 0.2 that answers HTTP requests. The path says what it does, and what is behind `?` how much of it:
//
//   /                  "hello"
//   /echo              sends the body back as it comes, and its trailers, of which its header says as much as the request's
//   /bytes?<n>         n bytes
//   /take?<n>          n bytes, after the end of the body
//   /endless           bytes until nobody takes them
//   /sleep?<ms>        "slept", after so long
//   /drip?<n>          n times "drip", with 20 ms after each
//   /loop              computes for ever; /late-loop after it has answered
//   /trap              traps; /late-trap after the first bytes of its answer, /every?<n> in every nth request of an instance
//   /grow?<MiB>        grows its memory, and tells whether it could
//   /status?<code>     nothing, with this status
//   /scheme            by which it was asked: "http" or "https"
//   /header?<name>     the values of a header, a line each
//   /count             how many requests the instance has had
//   /nothing           returns without an answer; /error answers with an error; /unfinished leaves its answer unfinished
//   /print             "hello", and prints a line
//   /length?<n>        n bytes, and says beforehand that they are so many
//
// As a command, it prints a line.
//
// There is no libc for WASI 0.2 here: these are the functions that http-0.2.wat imports, as the canonical ABI has them.

#include <stddef.h>
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))
#define HTTP(name) IMPORT("wasi:http/types@0.2.0", name)
#define STREAMS(name) IMPORT("wasi:io/streams@0.2.0", name)

HTTP("[constructor]fields") int32_t fields_new(void);
HTTP("[method]fields.get") void fields_get(int32_t, const char *, size_t, void *);
HTTP("[method]fields.append") void fields_append(int32_t, const char *, size_t, const void *, size_t, void *);
HTTP("[method]fields.entries") void fields_entries(int32_t, void *);
HTTP("[resource-drop]fields") void fields_drop(int32_t);
HTTP("[method]incoming-request.path-with-query") void request_path(int32_t, void *);
HTTP("[method]incoming-request.scheme") void request_scheme(int32_t, void *);
HTTP("[method]incoming-request.headers") int32_t request_headers(int32_t);
HTTP("[method]incoming-request.consume") void request_consume(int32_t, void *);
HTTP("[resource-drop]incoming-request") void request_drop(int32_t);
HTTP("[method]incoming-body.stream") void incoming_stream(int32_t, void *);
HTTP("[static]incoming-body.finish") int32_t incoming_finish(int32_t);
HTTP("[method]future-trailers.subscribe") int32_t trailers_subscribe(int32_t);
HTTP("[method]future-trailers.get") void trailers_get(int32_t, void *);
HTTP("[resource-drop]future-trailers") void trailers_drop(int32_t);
HTTP("[constructor]outgoing-response") int32_t response_new(int32_t);
HTTP("[method]outgoing-response.set-status-code") int32_t response_status(int32_t, int32_t);
HTTP("[method]outgoing-response.body") void response_body(int32_t, void *);
HTTP("[method]outgoing-body.write") void body_write(int32_t, void *);
HTTP("[static]outgoing-body.finish") void body_finish(int32_t, int32_t, int32_t, void *);
HTTP("[resource-drop]outgoing-body") void body_drop(int32_t);
HTTP("[static]response-outparam.set")
void answer_set(int32_t, int32_t, int32_t, int32_t, int64_t, int32_t, int32_t, int32_t, int32_t);
HTTP("[resource-drop]response-outparam") void answer_drop(int32_t);
STREAMS("[method]input-stream.blocking-read") void stream_read(int32_t, int64_t, void *);
STREAMS("[resource-drop]input-stream") void input_drop(int32_t);
STREAMS("[method]output-stream.check-write") void stream_check(int32_t, void *);
STREAMS("[method]output-stream.write") void stream_write(int32_t, const void *, size_t, void *);
STREAMS("[method]output-stream.blocking-flush") void stream_flush(int32_t, void *);
STREAMS("[method]output-stream.subscribe") int32_t stream_subscribe(int32_t);
STREAMS("[resource-drop]output-stream") void output_drop(int32_t);
IMPORT("wasi:io/poll@0.2.0", "[method]pollable.block") void pollable_block(int32_t);
IMPORT("wasi:io/poll@0.2.0", "[resource-drop]pollable") void pollable_drop(int32_t);
IMPORT("wasi:clocks/monotonic-clock@0.2.0", "subscribe-duration") int32_t after(int64_t);
IMPORT("wasi:cli/stdout@0.2.0", "get-stdout") int32_t get_stdout(void);

typedef struct {
    const char *bytes;
    size_t size;
} text;

// What a call returns: discriminants in the first byte of each level.
static _Alignas(8) char result[256];
static uint32_t count;
static char block[64 << 10];

static int32_t word(size_t at) { return *(int32_t *)(result + at); }

static int is(text path, const char *name) {
    size_t i = 0;
    while (i < path.size && path.bytes[i] != '?' && name[i] == path.bytes[i]) {
        i++;
    }
    return name[i] == 0 && (i == path.size || path.bytes[i] == '?');
}

static text query(text path) {
    size_t i = 0;
    while (i < path.size && path.bytes[i] != '?') {
        i++;
    }
    i += i < path.size;
    return (text){path.bytes + i, path.size - i};
}

static uint64_t number(text digits) {
    uint64_t value = 0;
    for (size_t i = 0; i < digits.size && digits.bytes[i] >= '0' && digits.bytes[i] <= '9'; i++) {
        value = value * 10 + (uint64_t)(digits.bytes[i] - '0');
    }
    return value;
}

static text decimal(uint64_t value) {
    static char digits[24];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    return (text){digits + at, sizeof digits - at};
}

static void wait(int32_t pollable) {
    pollable_block(pollable);
    pollable_drop(pollable);
}

static void spin(void) {
    for (volatile uint32_t i = 0;; i++) {
    }
}

// Whether all of it was taken.
static int send(int32_t stream, const char *bytes, size_t size) {
    while (size > 0) {
        stream_check(stream, result);
        if (result[0] != 0) {
            return 0;
        }
        uint64_t may = *(uint64_t *)(result + 8);
        if (may == 0) {
            wait(stream_subscribe(stream));
            continue;
        }
        size_t now = may < size ? (size_t)may : size;
        stream_write(stream, bytes, now, result);
        if (result[0] != 0) {
            return 0;
        }
        bytes += now;
        size -= now;
    }
    return 1;
}

static int flush(int32_t stream) {
    stream_flush(stream, result);
    return result[0] == 0;
}

__attribute__((always_inline)) static inline int send_text(int32_t stream, const char *line) { return send(stream, line, __builtin_strlen(line)); }

static int send_blocks(int32_t stream, uint64_t size) {
    for (size_t i = 0; i < sizeof block; i++) {
        block[i] = (char)('a' + i % 26);
    }
    while (size > 0) {
        size_t now = size < sizeof block ? (size_t)size : sizeof block;
        if (!send(stream, block, now)) {
            return 0;
        }
        size -= now;
    }
    return 1;
}

// Answers, and returns the body.
static int32_t answer(int32_t out, int32_t status, int32_t fields) {
    int32_t response = response_new(fields);
    response_status(response, status);
    response_body(response, result);
    int32_t body = word(4);
    answer_set(out, 0, response, 0, 0, 0, 0, 0, 0);
    return body;
}

static int32_t begin(int32_t body) {
    body_write(body, result);
    return word(4);
}

static void end(int32_t body, int32_t stream, int has_trailers, int32_t trailers) {
    output_drop(stream);
    body_finish(body, has_trailers, trailers, result);
}

// Which trailers there will be.
static void announce(int32_t request, int32_t fields) {
    int32_t headers = request_headers(request);
    fields_get(headers, "trailer", 7, result);
    const text *values = (const text *)word(0);
    size_t found = (size_t)word(4);
    for (size_t i = 0; i < found; i++) {
        text value = values[i];
        fields_append(fields, "trailer", 7, value.bytes, value.size, result);
    }
    fields_drop(headers);
}

static void echo(int32_t request, int32_t out) {
    int32_t fields = fields_new();
    announce(request, fields);
    request_consume(request, result);
    int32_t incoming = word(4);
    incoming_stream(incoming, result);
    int32_t input = word(4);
    int32_t body = answer(out, 200, fields);
    int32_t output = begin(body);
    int whole = 1;
    for (;;) {
        stream_read(input, sizeof block, result);
        if (result[0] != 0) {
            // Either it is over, or it has broken off.
            whole = result[4] == 1;
            break;
        }
        if (!send(output, (const char *)word(4), (size_t)word(8))) {
            whole = 0;
            break;
        }
    }
    input_drop(input);
    if (!whole) {
        output_drop(output);
        body_drop(body);
        return;
    }
    int32_t future = incoming_finish(incoming);
    wait(trailers_subscribe(future));
    trailers_get(future, result);
    int has = result[0] == 1 && result[8] == 0 && result[16] == 0 && result[24] == 1;
    int32_t copy = 0;
    if (has) {
        int32_t trailers = word(28);
        fields_entries(trailers, result);
        const text *entries = (const text *)word(0);
        size_t pairs = (size_t)word(4);
        copy = fields_new();
        for (size_t i = 0; i < pairs; i++) {
            text name = entries[2 * i], value = entries[2 * i + 1];
            fields_append(copy, name.bytes, name.size, value.bytes, value.size, result);
        }
        fields_drop(trailers);
    }
    trailers_drop(future);
    end(body, output, has, copy);
}

// Reads a body, and forgets it.
static void take(int32_t request) {
    request_consume(request, result);
    int32_t incoming = word(4);
    incoming_stream(incoming, result);
    int32_t input = word(4);
    do {
        stream_read(input, sizeof block, result);
    } while (result[0] == 0);
    input_drop(input);
    trailers_drop(incoming_finish(incoming));
}

static void header(int32_t request, int32_t output, text name) {
    int32_t fields = request_headers(request);
    fields_get(fields, name.bytes, name.size, result);
    const text *values = (const text *)word(0);
    size_t found = (size_t)word(4);
    for (size_t i = 0; i < found; i++) {
        send(output, values[i].bytes, values[i].size);
        send_text(output, "\n");
    }
    fields_drop(fields);
}

// Inlined, as is what it calls, so that the length is known: there is no strlen.
__attribute__((always_inline)) static inline void print(const char *line) {
    int32_t stdout = get_stdout();
    send_text(stdout, line);
    flush(stdout);
    output_drop(stdout);
}

EXPORT("run") int32_t run(void) {
    print("a command\n");
    return 0;
}

EXPORT("handle") void handle(int32_t request, int32_t out) {
    count++;
    request_path(request, result);
    text path = {(const char *)word(4), (size_t)word(8)};
    uint64_t much = number(query(path));
    if (is(path, "/echo")) {
        echo(request, out);
        request_drop(request);
        return;
    }
    if (is(path, "/loop")) {
        spin();
    }
    if (is(path, "/trap") || (is(path, "/every") && much > 0 && count % much == 0)) {
        __builtin_trap();
    }
    if (is(path, "/nothing")) {
        answer_drop(out);
        request_drop(request);
        return;
    }
    if (is(path, "/error")) {
        // configuration-error
        answer_set(out, 1, 37, 0, 0, 0, 0, 0, 0);
        request_drop(request);
        return;
    }
    if (is(path, "/sleep")) {
        wait(after((int64_t)much * 1000000));
    }
    if (is(path, "/take")) {
        take(request);
    }
    int32_t fields = fields_new();
    if (is(path, "/length")) {
        text digits = decimal(much);
        fields_append(fields, "content-length", 14, digits.bytes, digits.size, result);
    }
    int32_t body = answer(out, is(path, "/status") ? (int32_t)much : 200, fields);
    int32_t output = begin(body);
    int whole = 1;
    if (is(path, "/bytes") || is(path, "/length") || is(path, "/take")) {
        whole = send_blocks(output, much);
    } else if (is(path, "/endless")) {
        whole = send_blocks(output, UINT64_MAX);
    } else if (is(path, "/sleep")) {
        send_text(output, "slept\n");
    } else if (is(path, "/drip")) {
        for (uint64_t n = 0; n < much && whole; n++) {
            whole = send_text(output, "drip\n") && flush(output);
            wait(after(20 * 1000000));
        }
    } else if (is(path, "/grow")) {
        uint64_t grown = 0;
        while (grown < much && __builtin_wasm_memory_grow(0, 16) != (size_t)-1) {
            grown++;
        }
        text digits = decimal(grown);
        send(output, digits.bytes, digits.size);
    } else if (is(path, "/header")) {
        header(request, output, query(path));
    } else if (is(path, "/scheme")) {
        request_scheme(request, result);
        send(output, "https", result[0] == 0 ? 0 : result[4] == 1 ? 5 : 4);
    } else if (is(path, "/count")) {
        text digits = decimal(count);
        send(output, digits.bytes, digits.size);
    } else if (is(path, "/print")) {
        print("a line\n");
        send_text(output, "hello\n");
    } else if (!is(path, "/status")) {
        send_text(output, "hello\n");
    }
    if (is(path, "/late-loop")) {
        flush(output);
        spin();
    }
    if (is(path, "/late-trap")) {
        flush(output);
        __builtin_trap();
    }
    request_drop(request);
    if (!whole || is(path, "/unfinished")) {
        output_drop(output);
        body_drop(body);
        return;
    }
    end(body, output, 0, 0);
}
