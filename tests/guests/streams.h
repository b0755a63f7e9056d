// Streams of bytes and what has come of them, for programs of WASI 0.3 that wait: the text beside the program has these functions
// of the canonical ABI under "streams".

IMPORT("streams", "bytes.new") int64_t bytes_new(void);
IMPORT("streams", "bytes.read") uint32_t bytes_read(int32_t, void *, size_t);
IMPORT("streams", "bytes.write") uint32_t bytes_write(int32_t, const void *, size_t);
IMPORT("streams", "bytes.drop-readable") void bytes_drop(int32_t);
IMPORT("streams", "bytes.drop-writable") void bytes_end(int32_t);
IMPORT("streams", "printed.read") uint32_t printed_read(int32_t, void *);
IMPORT("streams", "printed.drop-readable") void printed_drop(int32_t);
IMPORT("streams", "set.new") int32_t set_new(void);
IMPORT("streams", "set.wait") int32_t set_wait(int32_t, void *);
IMPORT("streams", "join") void join(int32_t, int32_t);

#define BLOCKED 0xffffffffu

// What has come of an operation on a stream or a future, or of a call, for which is waited if it has not come at once.
static uint32_t outcome(int32_t waitable, uint32_t code) {
    static int32_t set;
    uint32_t event[2];
    if (code != BLOCKED) {
        return code;
    }
    if (!set) {
        set = set_new();
    }
    join(waitable, set);
    set_wait(set, event);
    join(waitable, 0);
    return event[1];
}

// Writes all of it; false where nobody wants it.
static int write_all(int32_t stream, const void *data, size_t size) {
    const uint8_t *at = data;
    while (size) {
        uint32_t code = outcome(stream, bytes_write(stream, at, size)), count = code >> 4;
        at += count;
        size -= count;
        if (code & 15) {
            return 0;
        }
    }
    return 1;
}

IMPORT("wasi:cli/stdout@0.3.0", "write-via-stream") int32_t write_stdout(int32_t);

static void print(const Line *line) {
    uint32_t result[8];
    int64_t pair = bytes_new();
    int32_t printed = write_stdout((int32_t)pair);
    write_all((int32_t)(pair >> 32), line->text, line->size);
    bytes_end((int32_t)(pair >> 32));
    outcome(printed, printed_read(printed, result));
    printed_drop(printed);
}
