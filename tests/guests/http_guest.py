"""A component of WASI 0.2 that answers HTTP requests, in Python.

The path says what it does, and what is behind `?` how much of it:

    /             "hello"
    /echo         sends the body back as it comes
    /total        the sum of the numbers in a JSON array
    /count        how many requests the instance has had
    /raise        an exception that nobody catches
    /late-raise   the same, after the first bytes of the answer
    /grow?<MiB>   takes memory, and tells how many MiB it got
    /loop         computes for ever
    /ask?<n>,<host>   asks a host so many times at once, and tells how many answers came
"""

import json

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import outgoing_handler
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import (
    Fields,
    OutgoingBody,
    OutgoingRequest,
    OutgoingResponse,
    ResponseOutparam,
    Scheme_Http,
)

PIECE = 64 << 10
MIB = 1 << 20

requests = 0
kept = []


def begin(response_out):
    """Answers with a head, and returns what its body goes into."""
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    return body


def send(stream, data):
    """Writes all of it, as fast as it is taken."""
    while data:
        room = stream.check_write()
        if room == 0:
            stream.subscribe().block()
            continue
        stream.write(data[:room])
        data = data[room:]


def pieces(request):
    """The body of a request, piece by piece."""
    body = request.consume()
    with body.stream() as stream:
        while True:
            try:
                yield stream.blocking_read(PIECE)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return
                raise


def total(request):
    numbers = json.loads(b"".join(pieces(request)))
    return json.dumps({"total": sum(numbers)})


def grow(wanted):
    for _ in range(wanted):
        try:
            kept.append(bytearray(MIB))
        except MemoryError:
            break
    return str(len(kept))


def ask(count, host):
    under_way = []
    for _ in range(count):
        request = OutgoingRequest(Fields())
        request.set_scheme(Scheme_Http())
        request.set_authority(host)
        try:
            under_way.append(outgoing_handler.handle(request, None))
        except Err:
            break
    answers = 0
    for future in under_way:
        future.subscribe().block()
        answers += isinstance(future.get().value, Ok)
    return str(answers)


def text(path, query, request):
    """What is answered at once."""
    match path:
        case "/total":
            return total(request)
        case "/count":
            return str(requests)
        case "/grow":
            return grow(int(query))
        case "/ask":
            count, _, host = query.partition(",")
            return ask(int(count), host)
        case "/raise":
            raise ValueError("nobody catches this")
        case "/loop":
            while True:
                pass
        case _:
            return "hello\n"


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        global requests
        requests += 1
        path, _, query = (request.path_with_query() or "/").partition("?")
        if path == "/echo":
            said = pieces(request)
        else:
            said = [text(path, query, request).encode()]
        body = begin(response_out)
        with body.write() as stream:
            for piece in said:
                send(stream, piece)
            if path == "/late-raise":
                raise ValueError("nobody catches this either")
        OutgoingBody.finish(body, None)
