// The program of sockets-0.2.c for WASI 0.3: it does one thing with sockets, as its first argument says, and tells what came of it:
//
//   tcp-serve <address>:<port>    answers each connection with how it sees it, for ever
//   http-serve <address>:<port>   the same as an answer to a request; after "GET /fail" as an error, until "GET /heal"
//   tcp-ask <address>:<port>      connects, and prints the answer; or "refused <code>". Sends a third argument before
//   tcp-bind <address>:<port>     prints what it is bound to, or "refused <code>"
//   udp-serve <address>:<port>    answers each datagram with how it sees it, for ever
//   udp-ask <address>:<port>      sends a datagram and prints the answer
//   udp-ask-connected …           the same on a socket that is connected
//   udp-ask-on …                  asks again when it is answered, on the same socket, for ever; udp-ask-on-connected …
//
// Addresses are written as 127.0.0.1:80 or as eight groups in brackets: [0:0:0:0:0:0:0:1]:80. Each line that it prints ends
// what it has to say about one matter. A code is the position of the error in the error-code of 0.2, as far as that has it.
//
// There is no libc for WASI 0.3 here: these are the functions that sockets-0.3.wat imports, as the canonical ABI has them.
// Functions that wait are called as if they did not; what is read from streams and written to them is waited for here.

#define LINE 256
#include "component.h"
#include "socket_address.h"
#include "streams.h"

#define V(module) module "@0.3.0"

IMPORT(V("wasi:cli/environment"), "get-arguments") void get_arguments(void *);

IMPORT(V("wasi:sockets/types"), "[static]tcp-socket.create") void tcp_create(int32_t, void *);
IMPORT(V("wasi:sockets/types"), "[method]tcp-socket.bind") void tcp_bind(int32_t, ADDRESS, void *);
IMPORT(V("wasi:sockets/types"), "[method]tcp-socket.connect") void tcp_connect(int32_t, ADDRESS, void *);
IMPORT(V("wasi:sockets/types"), "[method]tcp-socket.listen") void tcp_listen(int32_t, void *);
IMPORT(V("wasi:sockets/types"), "[method]tcp-socket.send") int32_t tcp_send(int32_t, int32_t);
IMPORT(V("wasi:sockets/types"), "[method]tcp-socket.receive") void tcp_receive(int32_t, void *);
IMPORT(V("wasi:sockets/types"), "[method]tcp-socket.get-local-address") void tcp_local(int32_t, void *);
IMPORT(V("wasi:sockets/types"), "[method]tcp-socket.get-remote-address") void tcp_remote(int32_t, void *);
IMPORT(V("wasi:sockets/types"), "[resource-drop]tcp-socket") void tcp_drop(int32_t);

IMPORT(V("wasi:sockets/types"), "[static]udp-socket.create") void udp_create(int32_t, void *);
IMPORT(V("wasi:sockets/types"), "[method]udp-socket.bind") void udp_bind(int32_t, ADDRESS, void *);
IMPORT(V("wasi:sockets/types"), "[method]udp-socket.connect") void udp_connect(int32_t, ADDRESS, void *);
IMPORT(V("wasi:sockets/types"), "[method]udp-socket.send")
void udp_send(int32_t, const void *, size_t, int32_t, ADDRESS, void *);
IMPORT(V("wasi:sockets/types"), "[method]udp-socket.receive") void udp_receive(int32_t, void *);
IMPORT(V("wasi:sockets/types"), "[method]udp-socket.get-local-address") void udp_local(int32_t, void *);

// Streams of connections, and futures of what has come of one of bytes: of no importance here, and dropped.
IMPORT("streams", "connections.read") uint32_t connections_read(int32_t, void *, size_t);
IMPORT("streams", "sent.drop-readable") void sent_drop(int32_t);
IMPORT("streams", "sent.read") uint32_t sent_read(int32_t, void *);

// The layout of results in memory. An error is a case with a text, and only its case is looked at.
typedef struct {
    uint8_t failed;
    union {
        struct {
            uint8_t error;
            uint32_t text[3];
        };
        int32_t handle;
    };
} Handle;
typedef Handle Nothing;
typedef struct {
    uint8_t failed;
    union {
        struct {
            uint8_t error;
            uint32_t text[3];
        };
        Address address;
    };
} AddressResult;
typedef struct {
    List data;
    Address remote;
} Incoming;
typedef struct {
    uint8_t failed;
    union {
        struct {
            uint8_t error;
            uint32_t text[3];
        };
        Incoming incoming;
    };
} IncomingResult;

// Sends over a connection, and ends what is sent.
static void send_all(int32_t socket, const void *data, size_t size) {
    uint32_t result[8];
    int64_t pair = bytes_new();
    int32_t sent = tcp_send(socket, (int32_t)pair);
    write_all((int32_t)(pair >> 32), data, size);
    bytes_end((int32_t)(pair >> 32));
    outcome(sent, sent_read(sent, result));
    sent_drop(sent);
}

// What comes first over a connection: as much as there is, and nothing at its end.
static size_t receive_some(int32_t socket, void *data, size_t size) {
    int32_t handles[2];
    tcp_receive(socket, handles);
    uint32_t code = outcome(handles[0], bytes_read(handles[0], data, size));
    bytes_drop(handles[0]);
    sent_drop(handles[1]);
    return code >> 4;
}

// The positions that the errors of 0.3 have in 0.2, where they have the same names.
static int32_t refused(uint8_t error) {
    static const uint8_t of_0_2[] = {1, 2, 3, 4, 5, 9, 11, 12, 13, 14, 15, 15, 16, 17, 0};
    Line line = {.size = 0};
    say(&line, "refused ");
    say_number(&line, error < sizeof of_0_2 ? of_0_2[error] : 0, 10);
    say(&line, "\n");
    print(&line);
    return 0;
}

// "<local> from <remote>": how a socket sees a connection.
static void say_view(Line *line, int32_t socket) {
    AddressResult local, remote;
    tcp_local(socket, &local);
    say_address(line, &local.address);
    tcp_remote(socket, &remote);
    say(line, " from ");
    say_address(line, &remote.address);
    say(line, "\n");
}

// Reads a request, and says how it is answered; what it asks for may be that the next ones fail.
static void say_status(Line *line, int32_t socket, int *failing) {
    uint8_t text[256];
    List request = {text, receive_some(socket, text, sizeof text)};
    if (begins(request, "GET /fail")) {
        *failing = 1;
    }
    if (begins(request, "GET /heal")) {
        *failing = 0;
    }
    say(line, *failing ? "HTTP/1.0 503 Service Unavailable\r\n\r\n" : "HTTP/1.0 200 OK\r\n\r\n");
}

static int32_t tcp_serve(Address address, int only_bind, int http) {
    int failing = 0;
    Handle socket, connections;
    Nothing done;
    tcp_create(address.is_v6, &socket);
    if (socket.failed) {
        return refused(socket.error);
    }
    int32_t listener = socket.handle;
    tcp_bind(listener, FLAT(address), &done);
    if (done.failed) {
        return refused(done.error);
    }
    tcp_listen(listener, &connections);
    if (connections.failed) {
        return refused(connections.error);
    }
    AddressResult local;
    Line bound = {.size = 0};
    tcp_local(listener, &local);
    say(&bound, "bound to ");
    say_address(&bound, &local.address);
    say(&bound, "\n");
    print(&bound);
    while (!only_bind) {
        int32_t accepted;
        if (outcome(connections.handle, connections_read(connections.handle, &accepted, 1)) >> 4 != 1) {
            continue;
        }
        Line line = {.size = 0};
        if (http) {
            say_status(&line, accepted, &failing);
        }
        say_view(&line, accepted);
        send_all(accepted, line.text, line.size);
        tcp_drop(accepted);
    }
    return 0;
}

static int32_t tcp_ask(Address address, List question) {
    Handle socket;
    Nothing done;
    tcp_create(address.is_v6, &socket);
    if (socket.failed) {
        return refused(socket.error);
    }
    tcp_connect(socket.handle, FLAT(address), &done);
    if (done.failed) {
        return refused(done.error);
    }
    Line line = {.size = 0};
    say(&line, "here ");
    say_view(&line, socket.handle);
    print(&line);
    if (question.size) {
        send_all(socket.handle, question.data, question.size);
    }
    line.size = 0;
    say(&line, "there ");
    line.size += receive_some(socket.handle, line.text + line.size, sizeof line.text - line.size);
    print(&line);
    return 0;
}

// A socket that is bound, and says to what.
static int32_t udp_open(Address bound, const Address *remote, int32_t *opened) {
    Handle socket;
    Nothing done;
    udp_create(bound.is_v6, &socket);
    if (socket.failed) {
        return socket.error;
    }
    *opened = socket.handle;
    udp_bind(socket.handle, FLAT(bound), &done);
    if (done.failed) {
        return done.error;
    }
    AddressResult local;
    Line line = {.size = 0};
    udp_local(socket.handle, &local);
    say(&line, "bound to ");
    say_address(&line, &local.address);
    say(&line, "\n");
    print(&line);
    if (remote) {
        udp_connect(socket.handle, FLAT(*remote), &done);
        if (done.failed) {
            return done.error;
        }
    }
    return -1;
}

// Sends one datagram, and returns its error.
static int32_t send_one(int32_t socket, const Line *line, const Address *to) {
    Nothing done;
    Address none = {.is_v6 = 0};
    Address address = to ? *to : none;
    udp_send(socket, line->text, line->size, to != NULL, FLAT(address), &done);
    return done.failed ? done.error : -1;
}

// Waits for one datagram.
static Incoming receive_one(int32_t socket) {
    IncomingResult received;
    do {
        udp_receive(socket, &received);
    } while (received.failed);
    return received.incoming;
}

static int32_t udp_serve(Address address) {
    int32_t socket;
    int32_t error = udp_open(address, NULL, &socket);
    if (error >= 0) {
        return refused((uint8_t)error);
    }
    for (;;) {
        Incoming incoming = receive_one(socket);
        Line line = {.size = 0};
        say(&line, "from ");
        say_address(&line, &incoming.remote);
        say(&line, "\n");
        send_one(socket, &line, &incoming.remote);
    }
}

static int32_t udp_ask(Address address, int connected, int on) {
    int32_t socket;
    Address any;
    memset(&any, 0, sizeof any);
    any.is_v6 = address.is_v6;
    int32_t error = udp_open(any, connected ? &address : NULL, &socket);
    do {
        Line line = {.size = 0};
        say(&line, "?\n");
        if (error < 0) {
            error = send_one(socket, &line, connected ? NULL : &address);
        }
        if (error >= 0) {
            return refused((uint8_t)error);
        }
        Incoming incoming = receive_one(socket);
        line.size = 0;
        say_address(&line, &incoming.remote);
        say(&line, " says ");
        for (size_t n = 0; n < incoming.data.size && line.size < sizeof line.text; n++) {
            line.text[line.size++] = (char)incoming.data.data[n];
        }
        print(&line);
    } while (on);
    return 0;
}

EXPORT("run") int32_t run(void) {
    List arguments;
    get_arguments(&arguments);
    if (arguments.size < 3) {
        return 1;
    }
    List what = ((List *)arguments.data)[1];
    Address address = parse(((List *)arguments.data)[2]);
    if (is(what, "tcp-serve")) {
        return tcp_serve(address, 0, 0);
    }
    if (is(what, "http-serve")) {
        return tcp_serve(address, 0, 1);
    }
    if (is(what, "tcp-bind")) {
        return tcp_serve(address, 1, 0);
    }
    if (is(what, "tcp-ask")) {
        return tcp_ask(address, arguments.size > 3 ? ((List *)arguments.data)[3] : (List){0});
    }
    if (is(what, "udp-serve")) {
        return udp_serve(address);
    }
    if (is(what, "udp-ask")) {
        return udp_ask(address, 0, 0);
    }
    if (is(what, "udp-ask-connected")) {
        return udp_ask(address, 1, 0);
    }
    if (is(what, "udp-ask-on")) {
        return udp_ask(address, 0, 1);
    }
    if (is(what, "udp-ask-on-connected")) {
        return udp_ask(address, 1, 1);
    }
    return 1;
}
