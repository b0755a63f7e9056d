// A component of WASI 0.3 that answers HTTP requests, several at a time, by the first word of the path:
//
//   /          "hello"
//   /count     how many requests the instance has had
//   /meet?n    waits until as many requests for it are in the instance at a time
//   /wait      reads the body to its end, and says how many requests were in the instance at most
//   /hold      the same, and lets no other request in meanwhile
//   /echo      answers with the body, piece by piece
//   /stay      never answers
//   /dwell     reads the body to its end, and computes for ever; /fall traps there
//   /loop      computes for ever; /trap traps
//   /next      "hello", and computes for ever after that
//   /grow?n    takes so many pages of memory more
//
// There is no libc for WASI 0.3 here: these are the functions that concurrent-0.3.wat imports, as the canonical ABI has them.
// The handler never waits: it returns what it waits for, and is called back. What is not over has a task, with its stage.

#define LINE 64
#include "component.h"

IMPORT("wasi:clocks/monotonic-clock@0.3.0", "wait-for") uint32_t wait_for(uint64_t);
#define TYPES(name) IMPORT("wasi:http/types@0.3.0", name)
TYPES("[constructor]fields") int32_t fields_new(void);
TYPES("[method]request.get-path-with-query") void request_path(int32_t, void *);
TYPES("[static]request.consume-body") void request_body(int32_t, int32_t, void *);
TYPES("[resource-drop]request") void request_drop(int32_t);
TYPES("[static]response.new") void response_new(int32_t, int32_t, int32_t, int32_t, void *);
#define CANON(name) IMPORT("canon", name)
CANON("return") void task_return(int32_t, int32_t, int32_t, int64_t, int32_t, int32_t, int32_t, int32_t);
CANON("bytes.new") int64_t bytes_new(void);
CANON("bytes.read") uint32_t bytes_read(int32_t, void *, size_t);
CANON("bytes.write") uint32_t bytes_write(int32_t, const void *, size_t);
CANON("bytes.drop-readable") void bytes_drop(int32_t);
CANON("bytes.drop-writable") void bytes_end(int32_t);
CANON("ends.new") int64_t ends_new(void);
CANON("ends.write") uint32_t ends_write(int32_t, const void *);
CANON("ends.drop-readable") void ends_drop(int32_t);
CANON("ends.drop-writable") void ends_end(int32_t);
CANON("received.new") int64_t received_new(void);
CANON("received.write") uint32_t received_write(int32_t, const void *);
CANON("received.drop-writable") void received_end(int32_t);
CANON("set.new") int32_t set_new(void);
CANON("set.drop") void set_drop(int32_t);
CANON("join") void join(int32_t, int32_t);
CANON("subtask.drop") void subtask_drop(int32_t);
CANON("backpressure.inc") void backpressure_inc(void);
CANON("backpressure.dec") void backpressure_dec(void);

#define BLOCKED 0xffffffffu
enum { EXIT = 0, WAIT = 2 };
enum { RETURNED = 2 };

// What a task waits for: a while, a piece of the request's body, room for one of the answer's, or for that there are no trailers.
enum Stage { UNUSED, RESTS, READS, WRITES, ENDS };

typedef struct {
    enum Stage stage;
    char word;
    uint32_t argument;
    // What is waited for, and where.
    int32_t waitable, set;
    // The request's body and its end, and the answer's.
    int32_t body, body_end, answer, answer_end;
    uint8_t piece[1024];
    size_t at, size;
} Task;

static Task tasks[64];
static uint32_t count, inside, most, meeting;
// Neither a body that failed, nor trailers.
static const uint64_t nothing[8];

static uint32_t step(Task *task, uint32_t code);

// Goes on where the code is there already; otherwise tells the host what is waited for.
static uint32_t await(Task *task, enum Stage stage, int32_t waitable, uint32_t code) {
    task->stage = stage;
    if (code != BLOCKED) {
        return step(task, code);
    }
    task->waitable = waitable;
    join(waitable, task->set);
    return WAIT | (uint32_t)task->set << 4;
}

static uint32_t rest(Task *task, uint64_t nanoseconds) {
    uint32_t status = wait_for(nanoseconds);
    return await(task, RESTS, (int32_t)(status >> 4), (status & 15) == RETURNED ? RETURNED : BLOCKED);
}

static uint32_t end(Task *task) {
    bytes_end(task->answer);
    return await(task, ENDS, task->answer_end, ends_write(task->answer_end, nothing));
}

static uint32_t write(Task *task) {
    return await(task, WRITES, task->answer, bytes_write(task->answer, task->piece + task->at, task->size - task->at));
}

static uint32_t read(Task *task) {
    return await(task, READS, task->body, bytes_read(task->body, task->piece, sizeof task->piece));
}

// The head of the answer.
static void answer(Task *task) {
    int32_t result[2];
    int64_t body = bytes_new(), trailers = ends_new();
    response_new(fields_new(), 1, (int32_t)body, (int32_t)trailers, result);
    task->answer = (int32_t)(body >> 32);
    task->answer_end = (int32_t)(trailers >> 32);
    task_return(0, result[0], 0, 0, 0, 0, 0, 0);
}

// An answer that is a text.
static uint32_t answer_with(Task *task, const Line *line) {
    answer(task);
    memcpy(task->piece, line->text, line->size);
    task->at = 0;
    task->size = line->size;
    return write(task);
}

static uint32_t answer_number(Task *task, uint32_t number) {
    Line line = {.size = 0};
    say_number(&line, number, 10);
    return answer_with(task, &line);
}

static void compute(void) {
    for (volatile int on = 1; on;) {
    }
}

// At the end of the request's body.
static uint32_t has_read(Task *task) {
    bytes_drop(task->body);
    ends_drop(task->body_end);
    if (task->word == 'e') {
        return end(task);
    }
    if (task->word == 'd') {
        compute();
    }
    if (task->word == 'f') {
        __builtin_trap();
    }
    if (task->word == 'h') {
        backpressure_dec();
    }
    return answer_number(task, most);
}

static uint32_t step(Task *task, uint32_t code) {
    size_t count = code >> 4;
    int is_over = code & 15;
    Line line = {.size = 0};
    switch (task->stage) {
    case RESTS:
        if (task->word == 'm' && meeting >= task->argument) {
            say(&line, "met\n");
            return answer_with(task, &line);
        }
        return rest(task, 5000000);
    case READS:
        task->at = 0;
        task->size = count;
        if (is_over && !count) {
            return has_read(task);
        }
        return task->word == 'e' ? write(task) : read(task);
    case WRITES:
        task->at += count;
        if (is_over) {
            return end(task);
        }
        if (task->at < task->size) {
            return write(task);
        }
        return task->word == 'e' ? read(task) : end(task);
    default:
        if (task->word == 'n') {
            compute();
        }
        ends_end(task->answer_end);
        set_drop(task->set);
        task->stage = UNUSED;
        inside--;
        return EXIT;
    }
}

// The request's body is wanted.
static void consume(Task *task, int32_t request) {
    int32_t handles[2];
    int64_t received = received_new();
    request_body(request, (int32_t)received, handles);
    task->body = handles[0];
    task->body_end = handles[1];
    // What nobody reads yet is not waited for.
    if (received_write((int32_t)(received >> 32), nothing) != BLOCKED) {
        received_end((int32_t)(received >> 32));
    }
}

EXPORT("handle") uint32_t handle(int32_t request) {
    struct {
        uint8_t is_some;
        List text;
    } path;
    Task *task = tasks;
    while (task->stage) {
        task++;
        if (task == tasks + sizeof tasks / sizeof *tasks) {
            __builtin_trap();
        }
    }
    count++;
    most = ++inside > most ? inside : most;
    request_path(request, &path);
    task->stage = RESTS;
    task->set = set_new();
    task->word = path.text.size > 1 ? (char)path.text.data[1] : 0;
    task->argument = 0;
    for (size_t n = 0; n < path.text.size; n++) {
        if (path.text.data[n] >= '0' && path.text.data[n] <= '9') {
            task->argument = task->argument * 10 + path.text.data[n] - '0';
        }
    }
    switch (task->word) {
    case 'd':
    case 'f':
    case 'w':
        consume(task, request);
        return read(task);
    case 'h':
        backpressure_inc();
        consume(task, request);
        return read(task);
    case 'e':
        consume(task, request);
        answer(task);
        return read(task);
    }
    request_drop(request);
    Line line = {.size = 0};
    switch (task->word) {
    case 'm':
        meeting++;
        return rest(task, 1);
    case 's':
        return rest(task, 1);
    case 'l':
        compute();
    case 't':
        __builtin_trap();
    case 'c':
        return answer_number(task, count);
    case 'g':
        __builtin_wasm_memory_grow(0, task->argument);
        return answer_number(task, count);
    }
    say(&line, "hello\n");
    return answer_with(task, &line);
}

EXPORT("callback") uint32_t callback(uint32_t event, int32_t waitable, uint32_t code) {
    for (Task *task = tasks; task < tasks + sizeof tasks / sizeof *tasks; task++) {
        if (task->stage && task->waitable == waitable) {
            join(waitable, 0);
            task->waitable = 0;
            if (event == 1) {
                subtask_drop(waitable);
            }
            return step(task, code);
        }
    }
    __builtin_trap();
}
