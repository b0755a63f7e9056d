// What programs of components have in common here, which have no libc: the canonical ABI's lists, and lines of text. Before it
// is included, LINE is defined: the bytes that a line has room for.

#include <stddef.h>
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

void *memcpy(void *to, const void *from, size_t size) {
    for (size_t n = 0; n < size; n++) {
        ((uint8_t *)to)[n] = ((const uint8_t *)from)[n];
    }
    return to;
}

void *memset(void *to, int value, size_t size) {
    for (size_t n = 0; n < size; n++) {
        ((uint8_t *)to)[n] = (uint8_t)value;
    }
    return to;
}

typedef struct {
    const uint8_t *data;
    size_t size;
} List;

// Whether a text begins with these words.
static inline int begins(List text, const char *words) {
    size_t n = 0;
    while (n < text.size && words[n] && text.data[n] == (uint8_t)words[n]) {
        n++;
    }
    return !words[n];
}

static inline int is(List text, const char *word) {
    size_t n = 0;
    for (; n < text.size && word[n]; n++) {
        if (text.data[n] != (uint8_t)word[n]) {
            return 0;
        }
    }
    return n == text.size && !word[n];
}

// One line of text. What does not fit is left out.
typedef struct {
    char text[LINE];
    size_t size;
} Line;

static inline void say_char(Line *line, char c) {
    if (line->size < sizeof line->text) {
        line->text[line->size++] = c;
    }
}

static inline void say(Line *line, const char *text) {
    while (*text) {
        say_char(line, *text++);
    }
}

static inline void say_number(Line *line, uint64_t number, uint32_t base) {
    char digits[24], *at = digits + sizeof digits - 1;
    *at = 0;
    do {
        *--at = "0123456789abcdef"[number % base];
    } while (number /= base);
    say(line, at);
}
