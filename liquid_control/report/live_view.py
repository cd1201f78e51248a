"""The live view: a page that shows what a driver sees, thinks and does, while it drives.

    page      GET /                       live_view.html, all of it in one file
    page      GET /live, a websocket
    server    {"kind": "network", …}      at once, and when another driver takes over
    server    {"kind": "clients", …}      at once, and when a simulator comes or goes, or is driven by hand
    page      {"client": 2}               asks for that client's next moment; null is for the client that came last
    server    {"kind": "moment", …}       the answer, as soon as there is a moment that the page has not seen

A page asks again when it has drawn the last answer: a slow page skips moments, a hidden one asks for none. What nobody
asked for is not drawn, and what is drawn is drawn in a thread, so that the event loop is left to the simulators.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from envs.udacity.visitors import asks_for, is_foreign, is_loopback
from liquid_control.report.diagram import Diagram, Gain, activity
from liquid_control.support.errors import UserError
from policies.driver import Driver
from policies.saliency import saliency

LOG = logging.getLogger(__name__)
PAGE = Path(__file__).with_suffix(".html")
OPENING = 1.0
"""Seconds that a browser may take to ask for something; who stops the view waits for it."""
INTERVAL = 1 / 15
"""Seconds between two moments of a page, at least."""
SILENCE = 3.0
"""Seconds without a moment after which a client counts as gone."""


@dataclass(frozen=True)
class Moment:
    """One step of a drive. Its arrays are read later, in a thread: they must not be written to any more."""

    camera: np.ndarray
    """(height, width, 3) uint8 RGB, the picture as it came."""
    image: np.ndarray
    """(h, w, 3) uint8, what the driver's view made of it."""
    gauges: np.ndarray
    """(G,) float32."""
    state: np.ndarray
    """(S,) of the core after the step, a copy."""
    steering: float
    """-1 to 1, right positive."""
    throttle: float
    """-1 to 1, a brake below 0."""
    speed: float
    """Miles an hour."""
    latency: tuple[float, float]
    """Seconds from a telemetry to its answer: median and 95th percentile."""
    rate: float
    """Telemetries a second."""
    number: int
    """Of the client, counted from 1."""
    target: float | None = None
    """Miles an hour that the speed controller aims at, if there is one."""


class LiveView:
    """Serves the page, and shows it the moments of drives.

    Args:
        driver: whose network is shown. Another one can be put in its place while it runs.
        host: address to listen on; any but this computer's own is warned of.
        port: 0 picks a free one.

    Example:
        async with LiveView(driver) as view:
            print(view.url)
            if view.wants(1):
                view.show(moment)
    """

    def __init__(self, driver: Driver, host: str = "127.0.0.1", port: int = 0):
        self.driver, self.host, self.port = driver, host, port
        self._latest: dict[int, tuple[Moment | None, float]] = {}  # and when its client was last heard of
        self._by_hand: set[int] = set()
        self._pages: set[_Page] = set()
        self._stirred = asyncio.Event()
        self._painter: _Painter | None = None
        self._refusals: set[str] = set()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"

    async def __aenter__(self) -> LiveView:
        """Begins to listen.

        Raises:
            UserError: if the port is taken or the address is not of this computer.
        """
        if not is_loopback(self.host):
            LOG.warning("the live view listens on %s: whoever reaches this computer can look on.", self.host)
        self._page = _read_page()
        quiet = logging.getLogger(f"{__name__}.websockets")
        quiet.setLevel(logging.CRITICAL)  # browsers open connections that they don't use, which is no error here
        try:
            self._server: Server = await serve(
                self._handle,
                self.host,
                self.port,
                process_request=self._answer,
                compression=None,  # pictures are compressed already
                max_size=1024,
                open_timeout=OPENING,
                close_timeout=1,
                server_header=None,
                logger=quiet,
            )
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "the port is taken; choose another, or 0 for any" if taken else error.strerror or error
            raise UserError(f"the live view cannot listen on {self.host}:{self.port}: {why}.") from None
        self.port = self._server.sockets[0].getsockname()[1]
        self._pool = ThreadPoolExecutor(1, "live-view", initializer=torch.set_num_threads, initargs=(1,))
        self._pushing = asyncio.create_task(self._push())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Says good-bye to all pages; returns when they are gone."""
        self._pushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pushing
        self._pool.shutdown(wait=False)
        self._server.close()
        await self._server.wait_closed()

    def wants(self, number: int, by_hand: bool = False) -> bool:
        """Whether a page asks for moments. Notes that this client is there, for the list of those that are.

        Args:
            number: of the client.
            by_hand: whether somebody drives it by hand, so that there are none.
        """
        self._hear(number, None, by_hand)
        return any(page.asks for page in self._pages)

    def show(self, moment: Moment) -> None:
        """Makes it the latest of its client. To be called from the event loop; takes microseconds, never waits."""
        self._hear(moment.number, moment)

    def _hear(self, number: int, moment: Moment | None, by_hand: bool = False) -> None:
        if moment is not None or number not in self._latest or by_hand != (number in self._by_hand):
            self._stirred.set()
        self._latest[number] = (moment, asyncio.get_running_loop().time())
        self._by_hand = self._by_hand | {number} if by_hand else self._by_hand - {number}

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The page, or why not; None goes on to the websocket."""
        name = asks_for(request, self.host, self.port)
        if name is None:
            return connection.respond(HTTPStatus.FORBIDDEN, f"The live view is at {self.url}, under no other name.\n")
        path = urlsplit(request.path).path
        if path == "/live":
            if is_foreign(request, name):
                return connection.respond(HTTPStatus.FORBIDDEN, "The live view answers its own page only.\n")
            return None
        if path != "/":
            return connection.respond(HTTPStatus.NOT_FOUND, f"There is nothing here. The live view is at {self.url}\n")
        page, policy = self._page
        response = connection.respond(HTTPStatus.OK, page)
        del response.headers["Content-Type"]
        response.headers.update(
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Security-Policy": f"{policy}; connect-src ws://{name}",
                "Cache-Control": "no-store",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
            }
        )
        return response

    async def _handle(self, connection: ServerConnection) -> None:
        page = _Page(connection)
        self._pages.add(page)
        self._stirred.set()
        try:
            async for message in connection:
                page.client, page.asks = _read_question(message), True
                self._stirred.set()
        except ConnectionClosed:
            pass
        except ValueError as error:
            await connection.close(1008, str(error))
        finally:
            self._pages.discard(page)

    async def _push(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE / 6):
                    await self._stirred.wait()
            self._stirred.clear()
            begin = loop.time()
            self._latest = {n: (moment, at) for n, (moment, at) in self._latest.items() if begin - at < SILENCE}
            if self._pages:
                try:
                    await self._update(loop)
                except Exception as error:
                    self._tell(f"{type(error).__name__}: {error}")
            await asyncio.sleep(max(0.0, begin + INTERVAL - loop.time()))

    async def _update(self, loop: asyncio.AbstractEventLoop) -> None:
        """Gives every page what it lacks."""
        painter = self._painter
        if painter is None or painter.driver is not self.driver:
            painter = self._painter = await loop.run_in_executor(self._pool, _Painter, self.driver)
        clients = tuple(sorted(self._latest))
        by_hand = tuple(number for number in clients if number in self._by_hand)
        due: dict[int, tuple[Moment, list[_Page]]] = {}
        for page in self._pages:
            if page.painter is not painter:
                broadcast([page.connection], painter.network)
                page.painter = painter
            if (page.clients, page.by_hand) != (clients, by_hand):
                broadcast([page.connection], _write("clients", clients=clients, by_hand=by_hand))
                page.clients, page.by_hand = clients, by_hand
            if page.asks and clients and page.is_empty:
                number = page.client if page.client in clients else clients[-1]
                moment, _ = self._latest[number]
                if moment is not None and page.seen is not moment:
                    page.seen, page.asks = moment, False
                    due.setdefault(number, (moment, []))[1].append(page)
        for moment, pages in due.values():
            try:
                message = await loop.run_in_executor(self._pool, painter.draw, moment)
            except Exception as error:
                self._tell(f"{type(error).__name__}: {error}")
                for page in pages:
                    page.asks = True
            else:
                broadcast([page.connection for page in pages], message)

    def _tell(self, what: str) -> None:
        """Warns of the same thing only once."""
        if what not in self._refusals and len(self._refusals) < 20:
            self._refusals.add(what)
            LOG.warning("the live view cannot show this: %s. (Told once.)", what)


class _Page:
    """A page that is open, what it has been sent and whether it asks for more."""

    def __init__(self, connection: ServerConnection):
        self.connection = connection
        self.asks = False
        self.client: int | None = None
        self.painter: _Painter | None = None
        self.clients: tuple[int, ...] | None = None
        self.by_hand: tuple[int, ...] = ()
        self.seen: Moment | None = None

    @property
    def is_empty(self) -> bool:
        """Whether all that it was sent is on its way."""
        return self.connection.transport.get_write_buffer_size() == 0


class _Painter:
    """Makes messages of moments; slow, for a thread.

    Args:
        driver: whose they are.
    """

    def __init__(self, driver: Driver):
        self.driver = driver
        self.diagram = Diagram(driver, 1000, 1000, labels=False)
        self.gain = Gain()
        self.network = self._network()

    def _network(self) -> str:
        """Columns of neurons with their names and places, and synapses, as a message."""
        driver, diagram, view = self.driver, self.diagram, self.driver.view
        features = driver.eyes.features if driver.eyes else 0
        sensory = [f"feature {index + 1}" for index in range(features)] + [
            name.replace("_", " ") for name in view.gauges
        ]
        order = {name: index for index, name in enumerate(diagram.positions)}
        across = [points[0][0] for points in diagram.positions.values()]
        down = [y for points in diagram.positions.values() for _, y in points]
        columns = [
            {
                "name": name,
                "x": (points[0][0] - min(across)) / (max(across) - min(across)),
                "y": _rounded([(y - min(down)) / (max(down) - min(down)) for _, y in points]),
                "neurons": sensory if name == "sensory" else [f"{name} {index + 1}" for index in range(len(points))],
            }
            for name, points in diagram.positions.items()
        ]
        return _write(
            "network",
            name=f"{type(driver.core).__name__}, {driver.core.neuron_count} neurons",
            parameters=driver.parameter_counts(),
            columns=columns,
            features=features,
            synapses=[
                (order[s.source[0]], s.source[1], order[s.target[0]], s.target[1], round(strength, 3))
                for s, strength in zip(diagram.synapses, diagram.strengths, strict=True)
            ],
            controls=diagram.controls,
            image=view.image_shape[:2],
            crop=getattr(view, "crop", None),
        )

    @torch.inference_mode()
    def draw(self, moment: Moment) -> str:
        """A moment as a message: pictures as JPEG and PNG, the saliency as bytes, all in base64."""
        driver = self.driver
        seen = driver.perceive(torch.from_numpy(moment.image)[None], torch.from_numpy(moment.gauges)[None])[0].numpy()
        columns = activity(driver, moment.state)
        columns = {name: columns[name] for name in self.diagram.columns}
        mask = saliency(driver.eyes, moment.image) if driver.eyes else np.empty((0, 0))
        return _write(
            "moment",
            client=moment.number,
            camera=_picture(moment.camera, ".jpg"),
            image=_picture(moment.image, ".png"),
            saliency=base64.b64encode(np.round(255 * mask).astype(np.uint8).tobytes()).decode(),
            activity=[_rounded(values) for values in (seen, *columns.values())],
            light=[_rounded(values) for values in (np.clip(seen, -1, 1), *self.gain(columns).values())],
            steering=_finite(moment.steering),
            throttle=_finite(moment.throttle),
            speed=_finite(moment.speed),
            target=None if moment.target is None else _finite(moment.target),
            latency=_rounded(moment.latency, 6),
            rate=_finite(moment.rate),
        )


def _picture(picture: np.ndarray, kind: str) -> str:
    """(height, width, 3) uint8 RGB as a file in base64; an empty one as an empty string."""
    if picture.size == 0:
        return ""
    return base64.b64encode(cv2.imencode(kind, picture[..., ::-1])[1].tobytes()).decode()


def _finite(value: float, digits: int = 4) -> float | None:
    """JSON has no NaN."""
    return round(float(value), digits) if math.isfinite(value) else None


def _rounded(values: ArrayLike, digits: int = 4) -> list[float | None]:
    numbers = np.asarray(values, np.float64)
    if np.isfinite(numbers).all():
        return np.round(numbers, digits).tolist()
    return [_finite(number, digits) for number in numbers]


def _write(kind: str, **fields: Any) -> str:
    return json.dumps({"kind": kind, **fields}, separators=(",", ":"), allow_nan=False)


def _read_question(message: str | bytes) -> int | None:
    """The client that a page asks for.

    Raises:
        ValueError: if it is no question.
    """
    try:
        question = json.loads(message)
    except RecursionError:
        raise ValueError("the question is nested too deep") from None
    if not isinstance(question, Mapping) or not isinstance(client := question.get("client"), int | None):
        raise ValueError('a question is {"client": null} or {"client": 1}')
    return client


def _read_page() -> tuple[str, str]:
    """The page, and the policy by which a browser runs what is in it and nothing else."""
    page = PAGE.read_text(encoding="utf-8")
    hashes = {
        name: base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        for name, content in re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL)
    }
    sources = "; ".join(f"{name}-src 'sha256-{value}'" for name, value in hashes.items())
    return (
        page,
        f"default-src 'none'; {sources}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    )
