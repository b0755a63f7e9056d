"""systemd's logind, as far as shutdowns and their delays go, on the bus of $DBUS_SYSTEM_BUS_ADDRESS.

It prints a line for each thing that happens to it: `ready`, `inhibited WHAT MODE`, `released`. Lines on its standard input are what
it is to tell: `shutdown` and `cancel`; `forge` has somebody else tell of a shutdown. It takes $INHIBIT_DELAY_MAX_SECONDS for the
longest delay.
"""

import asyncio
import os
import sys

from dbus_fast import BusType, Message, MessageType, PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

MANAGER = "org.freedesktop.login1.Manager"
PATH = "/org/freedesktop/login1"


def say(line):
    print(line, flush=True)


class Manager(ServiceInterface):
    def __init__(self):
        super().__init__(MANAGER)
        self.held = {}

    @dbus_method()
    def Inhibit(self, what: "s", who: "s", why: "s", mode: "s") -> "h":
        ours, theirs = os.pipe()
        asyncio.get_running_loop().add_reader(ours, self.released, ours)
        # Sent after this returns, and closed when it was.
        asyncio.get_running_loop().call_later(1, os.close, theirs)
        say(f"inhibited {what} {mode}")
        return theirs

    def released(self, descriptor):
        if not os.read(descriptor, 1):
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
            say("released")

    @dbus_property(access=PropertyAccess.READ)
    def InhibitDelayMaxUSec(self) -> "t":
        return int(os.environ["INHIBIT_DELAY_MAX_SECONDS"]) * 1_000_000

    @dbus_signal()
    def PrepareForShutdown(self, start: "b") -> "b":
        return start


async def forge():
    """A signal of somebody who is not logind, to everybody and to each connection alone."""
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    names = await bus.call(Message(
        destination="org.freedesktop.DBus", path="/org/freedesktop/DBus", interface="org.freedesktop.DBus", member="ListNames",
    ))
    for destination in [None, *(name for name in names.body[0] if name.startswith(":"))]:
        await bus.send(Message(
            message_type=MessageType.SIGNAL, destination=destination, path=PATH, interface=MANAGER,
            member="PrepareForShutdown", signature="b", body=[True],
        ))
    say("forged")


async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    manager = Manager()
    bus.export(PATH, manager)
    await bus.request_name("org.freedesktop.login1")
    say("ready")
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        if line == "forge":
            await forge()
        else:
            manager.PrepareForShutdown(line == "shutdown")


asyncio.run(main())
