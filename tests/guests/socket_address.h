// Addresses of wasi:sockets, as the canonical ABI has them, and as text: 127.0.0.1:80, or eight groups in brackets. It is included
// after component.h.

// An address as arguments: its case, and the fields of the longer one; those of IPv4 are the first five.
#define ADDRESS                                                                                                        \
    int32_t kind, int32_t a, int32_t b, int32_t c, int32_t d, int32_t e, int32_t f, int32_t g, int32_t h, int32_t i,   \
        int32_t j, int32_t k

typedef struct {
    uint16_t port;
    uint8_t bytes[4];
} V4;
typedef struct {
    uint16_t port;
    uint32_t flow;
    uint16_t groups[8];
    uint32_t scope;
} V6;
typedef struct {
    uint8_t is_v6;
    union {
        V4 v4;
        V6 v6;
    };
} Address;

#define FLAT(x)                                                                                                        \
    (x).is_v6, (x).is_v6 ? (x).v6.port : (x).v4.port, (x).is_v6 ? (int32_t)(x).v6.flow : (x).v4.bytes[0],              \
        (x).is_v6 ? (x).v6.groups[0] : (x).v4.bytes[1], (x).is_v6 ? (x).v6.groups[1] : (x).v4.bytes[2],                \
        (x).is_v6 ? (x).v6.groups[2] : (x).v4.bytes[3], (x).is_v6 ? (x).v6.groups[3] : 0,                              \
        (x).is_v6 ? (x).v6.groups[4] : 0, (x).is_v6 ? (x).v6.groups[5] : 0, (x).is_v6 ? (x).v6.groups[6] : 0,          \
        (x).is_v6 ? (x).v6.groups[7] : 0, (x).is_v6 ? (int32_t)(x).v6.scope : 0

static inline void say_address(Line *line, const Address *address) {
    for (int n = 0; n < (address->is_v6 ? 8 : 4); n++) {
        say(line, n ? (address->is_v6 ? ":" : ".") : (address->is_v6 ? "[" : ""));
        say_number(line, address->is_v6 ? address->v6.groups[n] : address->v4.bytes[n], address->is_v6 ? 16 : 10);
    }
    say(line, address->is_v6 ? "]:" : ":");
    say_number(line, address->is_v6 ? address->v6.port : address->v4.port, 10);
}

static inline uint32_t number(const char **at, const char *end, uint32_t base) {
    uint32_t value = 0;
    for (; *at < end; (*at)++) {
        char c = **at;
        uint32_t digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
        if (digit >= base) {
            break;
        }
        value = value * base + digit;
    }
    return value;
}

static inline Address parse(List text) {
    const char *at = (const char *)text.data, *end = at + text.size;
    Address address;
    memset(&address, 0, sizeof address);
    address.is_v6 = *at == '[';
    at += address.is_v6;
    for (int n = 0; n < (address.is_v6 ? 8 : 4); n++, at++) {
        uint32_t part = number(&at, end, address.is_v6 ? 16 : 10);
        if (address.is_v6) {
            address.v6.groups[n] = (uint16_t)part;
        } else {
            address.v4.bytes[n] = (uint8_t)part;
        }
    }
    at += address.is_v6;
    uint16_t port = (uint16_t)number(&at, end, 10);
    if (address.is_v6) {
        address.v6.port = port;
    } else {
        address.v4.port = port;
    }
    return address;
}
