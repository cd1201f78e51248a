"""The server that the Udacity simulator connects to, and Socket.IO clients of today.

The simulator sends telemetry and waits for one answer: without it, it never sends again; with two, it sends twice as
often from then on. So every telemetry gets exactly one, whatever happens. At connect it sends two telemetries and from
then on waits for two answers at a time: what a pilot does must depend on time, not on how many messages came.

    simulator        GET /socket.io/?EIO=4&transport=websocket      its word; in truth it speaks Engine.IO 3
    server           0{"sid":…}
    simulator        2, at once and every 25 s                      server 3
    simulator        42["telemetry",{…}]                            server 42["steer",{…}]
    simulator        42["telemetry",null], while a key is held      server 42["manual",{}]
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from envs.udacity import packets
from envs.udacity.packets import Command, Packet, PacketError, Telemetry
from envs.udacity.visitors import asks_for, is_foreign, is_loopback

LOG = logging.getLogger(__name__)
PORT = 4567
LARGEST_MESSAGE = 2**20
READING = 0.25
"""Seconds that a telemetry may take to be read; a hundred times what one does."""
OPENING = 1.0
"""Seconds that a client may take to say what it wants; who stops the server waits for it."""
PING_INTERVAL, PING_TIMEOUT = 25.0, 60.0
"""Seconds between pings, and that a client may be silent after one."""


class BridgeError(RuntimeError):
    """The server cannot start; the message says why and what to do."""


class Pilot(Protocol):
    """What drives one car. Every simulator has its own."""

    def drive(self, telemetry: Telemetry, elapsed: float) -> Command | Awaitable[Command]:
        """What the car shall do; who awaits it may take a while, and this car's next telemetry waits for it.

        Args:
            telemetry: what is seen.
            elapsed: seconds since the last telemetry of this car; 0 at the first.
        """


@dataclass
class Drive:
    """A simulator that is connected, for whoever looks on."""

    number: int
    """Counts the clients of a server from 1."""
    address: str
    pilot: Pilot
    telemetry: Telemetry | None = None
    """The last one that could be read; it stays the same object until another can."""
    command: Command | None = None
    """The last answer; None while somebody drives by hand."""
    answered: int = 0
    """Telemetries that got their answer."""
    refused: int = 0
    """Messages that could not be read."""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=1024), repr=False)
    """Seconds from a complete message to its sent answer, the latest."""


class UdacityServer:
    """Serves simulators, each with a pilot of its own.

    Args:
        make_pilot: called for every client.
        host: address to listen on; the simulator only knows 127.0.0.1. Any other is warned of.
        port: the simulator only knows 4567; 0 picks a free one.
        watch: called after every answer; an exception in it ends nothing but its own call.

    Example:
        async with UdacityServer(make_pilot) as server:
            await server.wait_closed()
    """

    def __init__(
        self,
        make_pilot: Callable[[], Pilot],
        host: str = "127.0.0.1",
        port: int = PORT,
        watch: Callable[[Drive], None] | None = None,
    ):
        self.make_pilot, self.host, self.port = make_pilot, host, port
        self.watch = watch
        self.drives: dict[int, Drive] = {}
        """Who is connected, by number."""
        self.count = 0
        """Clients that ever came."""
        self._server: Server | None = None

    async def __aenter__(self) -> UdacityServer:
        """Begins to listen.

        Raises:
            BridgeError: if the port is taken or the address is not of this computer.
        """
        if not is_loopback(self.host):
            LOG.warning("listening on %s: anyone who reaches this computer can take the wheel.", self.host)
        Image.preinit()  # loads the decoders, for which the first telemetry would wait
        try:
            self._server = await serve(
                self._handle,
                self.host,
                self.port,
                process_request=self._refuse_strangers,
                create_connection=_QuickConnection,
                compression=None,  # the simulator refuses any extension
                max_size=LARGEST_MESSAGE,
                max_queue=4,
                open_timeout=OPENING,
                ping_interval=None,  # Engine.IO has its own
                close_timeout=1,
                server_header=None,
            )
        except OSError as error:
            raise BridgeError(self._why(error)) from None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _why(self, error: OSError) -> str:
        if error.errno == errno.EADDRINUSE:
            return (
                f"port {self.port} is taken, probably by another bridge that still runs. Stop that one; another --port "
                "is of use only to clients that can be told, the simulator knows only 4567."
            )
        return f"cannot listen on {self.host}:{self.port}: {error.strerror or error}."

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Says good-bye to all clients; returns when they are gone."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def wait_closed(self) -> None:
        """Returns when somebody has closed the server."""
        if self._server is not None:
            await self._server.wait_closed()

    def _refuse_strangers(self, connection: ServerConnection, request: Request) -> Response | None:
        """Whoever cannot be served is told why, any web page but none of this server's first of all."""
        name = asks_for(request, self.host, self.port)
        if name is None or is_foreign(request, name):
            return connection.respond(
                HTTPStatus.FORBIDDEN, "This bridge serves simulators and programs, not web pages of other places.\n"
            )
        return _refuse_what_is_no_websocket(connection, request)

    async def _handle(self, connection: ServerConnection) -> None:
        self.count += 1
        host, port, *_ = connection.remote_address
        drive = Drive(self.count, f"{host}:{port}", self.make_pilot())
        self.drives[drive.number] = drive
        LOG.info("client %d connected from %s.", drive.number, drive.address)
        try:
            await _Client(connection, drive, self.watch).serve()
        except ConnectionClosed:
            pass
        finally:
            del self.drives[drive.number]
            LOG.info("client %d left after %d telemetries.", drive.number, drive.answered)


class _Client:
    """One connection, from its open packet to its end."""

    def __init__(self, connection: ServerConnection, drive: Drive, watch: Callable[[Drive], None] | None):
        self.connection, self.drive, self.watch = connection, drive, watch
        assert connection.request is not None
        self.revision = _query(connection.request).get("EIO", "")
        self.sid = secrets.token_urlsafe(15)
        self.telemetry_at: float | None = None
        self.told: set[str] = set()

    async def serve(self) -> None:
        """Answers until the client leaves, is silent for too long, or closes."""
        opening = {
            "sid": self.sid,
            "upgrades": [],
            "pingInterval": int(PING_INTERVAL * 1000),
            "pingTimeout": int(PING_TIMEOUT * 1000),
            "maxPayload": LARGEST_MESSAGE,
        }
        await self.connection.send(packets.OPEN + json.dumps(opening))
        # Clients of revision 4 connect by themselves, and would take whoever tells them so for a server of revision 3.
        if self.revision == "3":
            await self.connection.send(packets.MESSAGE + packets.CONNECT)
        pings = asyncio.create_task(self._ping()) if self.revision == "4" else None
        patience = PING_INTERVAL + PING_TIMEOUT
        try:
            while True:
                try:
                    message = await asyncio.wait_for(self.connection.recv(), patience)
                except TimeoutError:
                    LOG.warning("client %d sent nothing for %g s: closed.", self.drive.number, patience)
                    return
                begin = time.perf_counter()
                for answer in await self._answers(message):
                    await self.connection.send(answer)
                    if answer.startswith(packets.MESSAGE + packets.EVENT):
                        self._note(time.perf_counter() - begin)
                if message in (packets.CLOSE, packets.MESSAGE + packets.DISCONNECT):
                    return
                await asyncio.sleep(0)  # a client that floods leaves the others their turn
        finally:
            if pings is not None:
                pings.cancel()

    async def _ping(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(PING_INTERVAL)
                await self.connection.send(packets.PING)

    async def _answers(self, message: str | bytes) -> list[str]:
        """What is sent back for a message."""
        try:
            if isinstance(message, bytes):
                raise PacketError("a binary message, which telemetry never is")
            packet = packets.read_packet(message)
        except PacketError as error:
            self._refuse(str(error))
            return []
        if packet.engine == packets.PING:
            return [packets.PONG + packet.content]
        if packet.socket == packets.CONNECT:
            return [self._connect(packet)]
        if packet.socket == packets.EVENT and packet.namespace == "/":
            return await self._event(packet)
        return []

    def _connect(self, packet: Packet) -> str:
        place = "" if packet.namespace == "/" else packet.namespace + ","
        if place:
            refusal = "Invalid namespace"
            return f"44{place}{json.dumps({'message': refusal} if self.revision == '4' else refusal)}"
        return "40" + (json.dumps({"sid": self.sid}) if self.revision == "4" else "")

    async def _event(self, packet: Packet) -> list[str]:
        name, *arguments = packet.data
        answers = [] if packet.ack is None else [f"43{packet.ack}[]"]
        if name == "telemetry":
            answers.append(await self._drive(arguments[0] if arguments else None))
        return answers

    async def _drive(self, fields: object) -> str:
        """The one answer to a telemetry."""
        drive = self.drive
        if fields is None:
            drive.command, self.telemetry_at = None, None
            return packets.write_manual()
        try:
            # In a thread: while one client's picture is decoded, the others are answered.
            telemetry = await asyncio.wait_for(asyncio.to_thread(Telemetry.read, fields), READING)
        except (PacketError, TimeoutError) as error:
            self._refuse(str(error) or f"image is not decoded within {READING:g} s")
            drive.command = self._coast()
            return drive.command.write()
        now = time.monotonic()
        elapsed = 0.0 if self.telemetry_at is None else now - self.telemetry_at
        self.telemetry_at = now
        drive.telemetry = telemetry
        try:
            answer = drive.pilot.drive(telemetry, elapsed)
            drive.command = answer if isinstance(answer, Command) else await answer
        except Exception as error:
            self._tell(f"the driver failed: {type(error).__name__}: {error}. The car coasts")
            drive.command = self._coast()
        return drive.command.write()

    def _coast(self) -> Command:
        """The last steering, and no gas: what is safe for a moment."""
        return Command(self.drive.command.steering if self.drive.command else 0.0, 0.0)

    def _note(self, latency: float) -> None:
        self.drive.answered += 1
        self.drive.latencies.append(latency)
        if self.watch is not None:
            try:
                self.watch(self.drive)
            except Exception as error:
                self._tell(f"whoever watches failed: {type(error).__name__}: {error}")

    def _refuse(self, why: str) -> None:
        self.drive.refused += 1
        self._tell(why)

    def _tell(self, what: str) -> None:
        """Warns, but of what begins alike only once a client."""
        kind = what.split(" ", 1)[0] if what[0] in "'\"" else what[:20]
        if kind not in self.told and len(self.told) < 20:
            self.told.add(kind)
            LOG.warning("client %d: %s. (Told once.)", self.drive.number, what)


class _QuickConnection(ServerConnection):
    """Acknowledges what arrives at once.

    The simulator writes a message in 17 pieces and its system waits with the last for an acknowledgement, which Linux
    delays by 40 ms. It forgets TCP_QUICKACK after a while, so it is told again with every piece.
    """

    def data_received(self, data: bytes) -> None:
        if hasattr(socket, "TCP_QUICKACK"):
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        super().data_received(data)


def _query(request: Request) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(urlsplit(request.path).query).items()}


def _refuse_what_is_no_websocket(connection: ServerConnection, request: Request) -> Response | None:
    """Whoever cannot be served is told why; the others go on to the handshake."""
    query = _query(request)
    if not urlsplit(request.path).path.startswith("/socket.io"):
        return connection.respond(
            HTTPStatus.NOT_FOUND, "This is liquid-control's bridge for the Udacity simulator, at /socket.io/.\n"
        )
    if query.get("transport") != "websocket":
        return connection.respond(
            HTTPStatus.BAD_REQUEST, "This bridge speaks websocket only: connect with transports=['websocket'].\n"
        )
    if query.get("EIO") not in ("3", "4"):
        return connection.respond(
            HTTPStatus.BAD_REQUEST,
            f"EIO is {query.get('EIO', 'missing')}; this bridge speaks revisions 3 and 4 of Engine.IO.\n",
        )
    return None
