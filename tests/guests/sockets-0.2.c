// A WASI 0.2 component that does one thing with sockets, as its first argument says, and tells what came of it:
//
//   tcp-serve <address>:<port>    answers each connection with how it sees it, for ever
//   http-serve <address>:<port>   the same as an answer to a request; after "GET /fail" as an error, until "GET /heal"
//   tcp-echo <address>:<port>     sends back what each connection sends, one after the other, for ever
//   tcp-ask <address>:<port>      connects, and prints the answer; or "refused <code>". Sends a third argument before
//   tcp-ask-often <address>:<port>  connects, and reads what comes to its end, for ever; ends where it is refused
//   tcp-bind <address>:<port>     prints what it is bound to, or "refused <code>"
//   tcp-hold <address>:<port>     listens and takes no connection; two may wait
//   relay <address>:<port>        passes connections on to its third argument, for ever; listens no more once one was refused
//   udp-serve <address>:<port>    answers each datagram with how it sees it, for ever
//   udp-ask <address>:<port>      sends a datagram and prints the answer
//   udp-ask-connected …           the same on a socket that is connected
//   udp-ask-on …                  asks again when it is answered, on the same socket, for ever; udp-ask-on-connected …
//
// Addresses are written as 127.0.0.1:80 or as eight groups in brackets: [0:0:0:0:0:0:0:1]:80. Each line that it prints ends
// what it has to say about one matter. A code is the position of the error in wasi:sockets' error-code.
//
// There is no libc for WASI 0.2 here: these are the functions that sockets-0.2.wat imports, as the canonical ABI has them.

#define LINE 256
#include "component.h"
#include "socket_address.h"

#define V(module) module "@0.2.0"

IMPORT(V("wasi:cli/environment"), "get-arguments") void get_arguments(void *);
IMPORT(V("wasi:cli/stdout"), "get-stdout") int32_t get_stdout(void);
IMPORT(V("wasi:io/poll"), "[method]pollable.block") void pollable_block(int32_t);
IMPORT(V("wasi:io/poll"), "poll") void poll(const int32_t *, size_t, void *);
IMPORT(V("wasi:io/poll"), "[resource-drop]pollable") void pollable_drop(int32_t);
IMPORT(V("wasi:io/streams"), "[method]input-stream.read") void try_read(int32_t, int64_t, void *);
IMPORT(V("wasi:io/streams"), "[method]input-stream.blocking-read") void read_stream(int32_t, int64_t, void *);
IMPORT(V("wasi:io/streams"), "[method]input-stream.subscribe") int32_t input_subscribe(int32_t);
IMPORT(V("wasi:io/streams"), "[method]output-stream.blocking-write-and-flush")
void write_stream(int32_t, const void *, size_t, void *);
IMPORT(V("wasi:io/streams"), "[method]output-stream.check-write") void check_write(int32_t, void *);
IMPORT(V("wasi:io/streams"), "[method]output-stream.write") void write_some(int32_t, const void *, size_t, void *);
IMPORT(V("wasi:io/streams"), "[method]output-stream.subscribe") int32_t output_subscribe(int32_t);
IMPORT(V("wasi:io/streams"), "[resource-drop]input-stream") void input_drop(int32_t);
IMPORT(V("wasi:io/streams"), "[resource-drop]output-stream") void output_drop(int32_t);
IMPORT(V("wasi:sockets/instance-network"), "instance-network") int32_t instance_network(void);

IMPORT(V("wasi:sockets/tcp-create-socket"), "create-tcp-socket") void tcp_create(int32_t, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.start-bind") void tcp_start_bind(int32_t, int32_t, ADDRESS, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.finish-bind") void tcp_finish_bind(int32_t, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.start-connect")
void tcp_start_connect(int32_t, int32_t, ADDRESS, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.finish-connect") void tcp_finish_connect(int32_t, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.set-listen-backlog-size") void tcp_backlog(int32_t, int64_t, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.start-listen") void tcp_start_listen(int32_t, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.finish-listen") void tcp_finish_listen(int32_t, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.accept") void tcp_accept(int32_t, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.local-address") void tcp_local(int32_t, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.remote-address") void tcp_remote(int32_t, void *);
IMPORT(V("wasi:sockets/tcp"), "[method]tcp-socket.subscribe") int32_t tcp_subscribe(int32_t);
IMPORT(V("wasi:sockets/tcp"), "[resource-drop]tcp-socket") void tcp_drop(int32_t);

IMPORT(V("wasi:sockets/udp-create-socket"), "create-udp-socket") void udp_create(int32_t, void *);
IMPORT(V("wasi:sockets/udp"), "[method]udp-socket.start-bind") void udp_start_bind(int32_t, int32_t, ADDRESS, void *);
IMPORT(V("wasi:sockets/udp"), "[method]udp-socket.finish-bind") void udp_finish_bind(int32_t, void *);
IMPORT(V("wasi:sockets/udp"), "[method]udp-socket.stream") void udp_stream(int32_t, int32_t, ADDRESS, void *);
IMPORT(V("wasi:sockets/udp"), "[method]udp-socket.local-address") void udp_local(int32_t, void *);
IMPORT(V("wasi:sockets/udp"), "[method]incoming-datagram-stream.receive") void udp_receive(int32_t, int64_t, void *);
IMPORT(V("wasi:sockets/udp"), "[method]incoming-datagram-stream.subscribe") int32_t udp_incoming(int32_t);
IMPORT(V("wasi:sockets/udp"), "[method]outgoing-datagram-stream.check-send") void udp_check(int32_t, void *);
IMPORT(V("wasi:sockets/udp"), "[method]outgoing-datagram-stream.send") void udp_send(int32_t, void *, int32_t, void *);

// The layout of results in memory.
typedef struct {
    uint8_t failed;
    uint8_t error;
} Nothing;
typedef struct {
    uint8_t failed;
    union {
        uint8_t error;
        int32_t handles[3];
    };
} Handles;
typedef struct {
    uint8_t failed;
    union {
        uint8_t error;
        Address address;
    };
} AddressResult;
typedef struct {
    uint8_t failed;
    union {
        uint8_t error;
        List list;
    };
} ListResult;
typedef struct {
    List data;
    Address remote;
} Incoming;
typedef struct {
    List data;
    uint8_t has_remote;
    Address remote;
} Outgoing;
typedef struct {
    uint8_t failed;
    union {
        uint8_t error;
        uint64_t count;
    };
} Count;

static void print(const Line *line) {
    Handles result;
    int32_t out = get_stdout();
    write_stream(out, line->text, line->size, &result);
    output_drop(out);
}

static int32_t refused(uint8_t error) {
    Line line = {.size = 0};
    say(&line, "refused ");
    say_number(&line, error, 10);
    say(&line, "\n");
    print(&line);
    return 0;
}

static void wait(int32_t pollable) {
    pollable_block(pollable);
    pollable_drop(pollable);
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
static void say_status(Line *line, int32_t request, int *failing) {
    ListResult read;
    read_stream(request, sizeof line->text, &read);
    if (!read.failed && begins(read.list, "GET /fail")) {
        *failing = 1;
    }
    if (!read.failed && begins(read.list, "GET /heal")) {
        *failing = 0;
    }
    say(line, *failing ? "HTTP/1.0 503 Service Unavailable\r\n\r\n" : "HTTP/1.0 200 OK\r\n\r\n");
}

// Sends back what comes, until the other end has no more.
static void echo(int32_t request, int32_t answer) {
    for (;;) {
        ListResult read;
        read_stream(request, 65536, &read);
        if (read.failed) {
            return;
        }
        for (size_t sent = 0; sent < read.list.size;) {
            Count allowed;
            check_write(answer, &allowed);
            if (allowed.failed) {
                return;
            }
            if (allowed.count == 0) {
                wait(output_subscribe(answer));
                continue;
            }
            size_t left = read.list.size - sent, size = left < allowed.count ? left : (size_t)allowed.count;
            Handles written;
            write_some(answer, read.list.data + sent, size, &written);
            if (written.failed) {
                return;
            }
            sent += size;
        }
    }
}

typedef enum { JUST_BIND, TELL, TELL_BY_HTTP, ECHO } Service;

// Makes a socket that listens; a backlog of 0 is the usual one. Returns an error, or -1.
static int32_t tcp_open(Address address, int64_t backlog, int32_t *listener) {
    Handles socket;
    Nothing done = {.failed = 0};
    tcp_create(address.is_v6, &socket);
    if (socket.failed) {
        return socket.error;
    }
    *listener = socket.handles[0];
    if (backlog) {
        tcp_backlog(*listener, backlog, &done);
    }
    if (!done.failed) {
        tcp_start_bind(*listener, instance_network(), FLAT(address), &done);
    }
    if (!done.failed) {
        tcp_finish_bind(*listener, &done);
    }
    if (!done.failed) {
        tcp_start_listen(*listener, &done);
    }
    if (!done.failed) {
        tcp_finish_listen(*listener, &done);
    }
    return done.failed ? done.error : -1;
}

static int32_t tcp_serve(Address address, Service service) {
    int failing = 0;
    int32_t listener, error = tcp_open(address, 0, &listener);
    if (error >= 0) {
        return refused((uint8_t)error);
    }
    AddressResult local;
    Line bound = {.size = 0};
    tcp_local(listener, &local);
    say(&bound, "bound to ");
    say_address(&bound, &local.address);
    say(&bound, "\n");
    print(&bound);
    while (service != JUST_BIND) {
        wait(tcp_subscribe(listener));
        Handles accepted, written;
        tcp_accept(listener, &accepted);
        if (accepted.failed) {
            continue;
        }
        Line line = {.size = 0};
        if (service == TELL_BY_HTTP) {
            say_status(&line, accepted.handles[1], &failing);
        }
        if (service == ECHO) {
            echo(accepted.handles[1], accepted.handles[2]);
        } else {
            say_view(&line, accepted.handles[0]);
            write_stream(accepted.handles[2], line.text, line.size, &written);
        }
        input_drop(accepted.handles[1]);
        output_drop(accepted.handles[2]);
        tcp_drop(accepted.handles[0]);
    }
    return 0;
}

// Connects: -1, and the handles of the socket and its streams; otherwise the error.
static int32_t tcp_connect(Address address, int32_t network, Handles *socket, Handles *streams) {
    Nothing done;
    tcp_create(address.is_v6, socket);
    if (socket->failed) {
        return socket->error;
    }
    tcp_start_connect(socket->handles[0], network, FLAT(address), &done);
    if (done.failed) {
        return done.error;
    }
    wait(tcp_subscribe(socket->handles[0]));
    tcp_finish_connect(socket->handles[0], streams);
    return streams->failed ? streams->error : -1;
}

static int32_t tcp_ask_often(Address address) {
    Handles socket, streams;
    ListResult read;
    int32_t error, network = instance_network();
    while ((error = tcp_connect(address, network, &socket, &streams)) < 0) {
        do {
            read_stream(streams.handles[0], 256, &read);
        } while (!read.failed);
        input_drop(streams.handles[0]);
        output_drop(streams.handles[1]);
        tcp_drop(socket.handles[0]);
    }
    return refused((uint8_t)error);
}

static int32_t udp_open(Address bound, const Address *remote, Handles *streams);
static Incoming *receive_one(int32_t incoming);

// Waits for what never comes, and takes nothing in.
static int32_t wait_for_ever(void) {
    Handles streams;
    Address any;
    memset(&any, 0, sizeof any);
    int32_t error = udp_open(any, NULL, &streams);
    if (error >= 0) {
        return refused((uint8_t)error);
    }
    for (;;) {
        receive_one(streams.handles[0]);
    }
}

// One side of a connection that is passed on.
typedef struct {
    int32_t socket, in, out;
} Side;

#define RELAYED 64

static void side_drop(Side side) {
    input_drop(side.in);
    output_drop(side.out);
    tcp_drop(side.socket);
}

static int connect_to(Address address, Side *side) {
    Handles socket, streams;
    if (tcp_connect(address, instance_network(), &socket, &streams) >= 0) {
        return 0;
    }
    *side = (Side){socket.handles[0], streams.handles[0], streams.handles[1]};
    return 1;
}

// Passes on what there is to read, which may be nothing yet. Not if there will be no more.
static int pass_on(Side from, Side to) {
    ListResult read;
    Handles written;
    try_read(from.in, 4096, &read);
    if (read.failed || !read.list.size) {
        return !read.failed;
    }
    write_stream(to.out, read.list.data, read.list.size, &written);
    return !written.failed;
}

static int32_t relay(Address address, Address to) {
    static Side sides[RELAYED][2];
    static int32_t pollables[1 + 2 * RELAYED];
    int count = 0, listens = 1;
    int32_t listener, error = tcp_open(address, 0, &listener);
    if (error >= 0) {
        return refused((uint8_t)error);
    }
    Line line = {.size = 0};
    say(&line, "listens\n");
    print(&line);
    while (listens || count) {
        int first = listens && count < RELAYED, all = first;
        if (first) {
            pollables[0] = tcp_subscribe(listener);
        }
        for (int n = 0; n < count; n++) {
            pollables[all++] = input_subscribe(sides[n][0].in);
            pollables[all++] = input_subscribe(sides[n][1].in);
        }
        List ready;
        uint8_t is_ready[1 + 2 * RELAYED] = {0};
        poll(pollables, (size_t)all, &ready);
        for (size_t n = 0; n < ready.size; n++) {
            is_ready[((const uint32_t *)ready.data)[n]] = 1;
        }
        for (int n = 0; n < all; n++) {
            pollable_drop(pollables[n]);
        }
        for (int n = count - 1; n >= 0; n--) {
            int ended = 0;
            for (int from = 0; from < 2 && !ended; from++) {
                ended = is_ready[first + 2 * n + from] && !pass_on(sides[n][from], sides[n][1 - from]);
            }
            if (ended) {
                side_drop(sides[n][0]);
                side_drop(sides[n][1]);
                count--;
                sides[n][0] = sides[count][0];
                sides[n][1] = sides[count][1];
            }
        }
        Handles accepted;
        if (!first || !is_ready[0]) {
            continue;
        }
        tcp_accept(listener, &accepted);
        if (accepted.failed) {
            continue;
        }
        sides[count][0] = (Side){accepted.handles[0], accepted.handles[1], accepted.handles[2]};
        if (connect_to(to, &sides[count][1])) {
            count++;
        } else {
            side_drop(sides[count][0]);
            tcp_drop(listener);
            listens = 0;
        }
    }
    return wait_for_ever();
}

static int32_t tcp_hold(Address address) {
    int32_t listener, error = tcp_open(address, 1, &listener);
    if (error >= 0) {
        return refused((uint8_t)error);
    }
    return wait_for_ever();
}

static int32_t tcp_ask(Address address, List question) {
    Handles socket, streams;
    ListResult answer;
    int32_t error = tcp_connect(address, instance_network(), &socket, &streams);
    if (error >= 0) {
        return refused((uint8_t)error);
    }
    Line line = {.size = 0};
    say(&line, "here ");
    say_view(&line, socket.handles[0]);
    print(&line);
    if (question.size) {
        Handles written;
        write_stream(streams.handles[1], question.data, question.size, &written);
    }
    read_stream(streams.handles[0], sizeof line.text, &answer);
    line.size = 0;
    say(&line, "there ");
    for (size_t n = 0; !answer.failed && n < answer.list.size && line.size < sizeof line.text; n++) {
        line.text[line.size++] = (char)answer.list.data[n];
    }
    print(&line);
    return 0;
}

// Sends one datagram. What it says of the outcome is told by the answer, or by an error.
static int32_t send_one(int32_t outgoing, const Line *line, const Address *to) {
    Count allowed, sent;
    Outgoing datagram;
    memset(&datagram, 0, sizeof datagram);
    datagram.data = (List){(const uint8_t *)line->text, line->size};
    if (to) {
        datagram.has_remote = 1;
        datagram.remote = *to;
    }
    udp_check(outgoing, &allowed);
    udp_send(outgoing, &datagram, 1, &sent);
    return sent.failed ? sent.error : -1;
}

// Waits for one datagram, and returns it.
static Incoming *receive_one(int32_t incoming) {
    for (;;) {
        ListResult received;
        wait(udp_incoming(incoming));
        udp_receive(incoming, 1, &received);
        if (!received.failed && received.list.size) {
            return (Incoming *)received.list.data;
        }
    }
}

static int32_t udp_open(Address bound, const Address *remote, Handles *streams) {
    Handles socket;
    Nothing done;
    udp_create(bound.is_v6, &socket);
    if (socket.failed) {
        return socket.error;
    }
    udp_start_bind(socket.handles[0], instance_network(), FLAT(bound), &done);
    if (!done.failed) {
        udp_finish_bind(socket.handles[0], &done);
    }
    if (done.failed) {
        return done.error;
    }
    AddressResult local;
    Line line = {.size = 0};
    udp_local(socket.handles[0], &local);
    say(&line, "bound to ");
    say_address(&line, &local.address);
    say(&line, "\n");
    print(&line);
    Address none = {.is_v6 = 0};
    Address to = remote ? *remote : none;
    udp_stream(socket.handles[0], remote != NULL, FLAT(to), streams);
    return streams->failed ? streams->error : -1;
}

static int32_t udp_serve(Address address) {
    Handles streams;
    int32_t error = udp_open(address, NULL, &streams);
    if (error >= 0) {
        return refused((uint8_t)error);
    }
    for (;;) {
        Incoming *incoming = receive_one(streams.handles[0]);
        Line line = {.size = 0};
        say(&line, "from ");
        say_address(&line, &incoming->remote);
        say(&line, "\n");
        send_one(streams.handles[1], &line, &incoming->remote);
    }
}

static int32_t udp_ask(Address address, int connected, int on) {
    Handles streams;
    Address any;
    memset(&any, 0, sizeof any);
    any.is_v6 = address.is_v6;
    int32_t error = udp_open(any, connected ? &address : NULL, &streams);
    do {
        Line line = {.size = 0};
        say(&line, "?\n");
        if (error < 0) {
            error = send_one(streams.handles[1], &line, connected ? NULL : &address);
        }
        if (error >= 0) {
            return refused((uint8_t)error);
        }
        Incoming *incoming = receive_one(streams.handles[0]);
        line.size = 0;
        say_address(&line, &incoming->remote);
        say(&line, " says ");
        for (size_t n = 0; n < incoming->data.size && line.size < sizeof line.text; n++) {
            line.text[line.size++] = (char)incoming->data.data[n];
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
        return tcp_serve(address, TELL);
    }
    if (is(what, "http-serve")) {
        return tcp_serve(address, TELL_BY_HTTP);
    }
    if (is(what, "tcp-echo")) {
        return tcp_serve(address, ECHO);
    }
    if (is(what, "tcp-bind")) {
        return tcp_serve(address, JUST_BIND);
    }
    if (is(what, "tcp-ask-often")) {
        return tcp_ask_often(address);
    }
    if (is(what, "tcp-hold")) {
        return tcp_hold(address);
    }
    if (is(what, "relay") && arguments.size > 3) {
        return relay(address, parse(((List *)arguments.data)[3]));
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
