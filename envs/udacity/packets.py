"""What goes over the wire: packets of Engine.IO 3 and 4 with Socket.IO inside, telemetry in, steering out.

A text message is one packet, whose first character is its type:

    Engine.IO   0 open   1 close   2 ping   3 pong   4 message   5 upgrade   6 noop
    Socket.IO   in a message: 0 connect   1 disconnect   2 event   3 ack   4 error   5, 6 binary
    event       42["telemetry",{…}], between the 2 and the list a namespace "/name," and the number of an awaited ack

https://socket.io/docs/v4/engine-io-protocol and /socket-io-protocol have the whole. The simulator asks for Engine.IO 4,
speaks 3, sends a bare 2 as its ping and never connects to a namespace.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"
CONNECT, DISCONNECT, EVENT, ACK, ERROR = "01234"

LARGEST_SIDE = 4096
"""Pixels of an image's side, beyond which it is not decoded."""
CAMERA_SIZE = (320, 160)
"""(width, height) of the simulator's camera."""
LARGEST_JPEG = 2**18
"""Bytes of its pictures at most; they have 15,000."""
MOST_SCANS = 4
"""Scans of a picture at most: a baseline JPEG has one, or one a component."""


class PacketError(ValueError):
    """A message that is not what the protocol allows; says what is wrong with it."""


@dataclass(frozen=True)
class Packet:
    """A packet, taken apart."""

    engine: str
    """The Engine.IO type, one character."""
    content: str = ""
    """What follows it, where it is no Socket.IO packet, for example the payload of a ping."""
    socket: str = ""
    """The Socket.IO type of a message, one character."""
    namespace: str = "/"
    ack: int | None = None
    """Number of the acknowledgement that the sender waits for."""
    data: Any = None
    """JSON, decoded: of an event the list of its name and arguments."""


_MESSAGE = re.compile(r"([0-6])(?:(/[^,]*)(?:,|$))?(\d{0,18})(.*)", re.DOTALL)


def read_packet(text: str) -> Packet:
    """Takes a text message apart.

    Raises:
        PacketError: if it is no packet, or one with binary attachments.
    """
    if not text or text[0] not in "0123456":
        raise PacketError(f"{_shown(text)} is no Engine.IO packet: the first character must be 0 to 6")
    if text[0] != MESSAGE:
        return Packet(text[0], text[1:])
    found = _MESSAGE.fullmatch(text[1:])
    if found is None:
        raise PacketError(f"{_shown(text)} is no Socket.IO packet: after the 4 must come 0 to 6")
    kind, namespace, number, content = found.groups()
    if kind in "56":
        raise PacketError(f"{_shown(text)} announces binary attachments, which telemetry does not have")
    try:
        data = json.loads(content) if content else None
    except (ValueError, RecursionError):
        raise PacketError(f"{_shown(text)} does not end in JSON") from None
    if kind == EVENT and not (isinstance(data, list) and data and isinstance(data[0], str)):
        raise PacketError(f"{_shown(text)} is an event without a name")
    return Packet(MESSAGE, "", kind, (namespace or "/").partition("?")[0], int(number) if number else None, data)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def write_event(name: str, *arguments: Any) -> str:
    """The packet of an event of the namespace "/"."""
    return MESSAGE + EVENT + json.dumps([name, *arguments], separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Telemetry:
    """What the simulator tells of one of its frames."""

    steering_angle: float
    """Of the front wheels (degrees, -25 to 25, right positive)."""
    throttle: float
    """How far the accelerator is down, 0 to 1."""
    speed: float
    """Miles an hour, as the simulator gives it."""
    image: np.ndarray = field(repr=False)
    """(height, width, 3) uint8 RGB: the camera in the middle."""
    jpeg: bytes = field(default=b"", repr=False)
    """The image as it came."""
    cross_track: float | None = None
    """Metres from the middle of the road; only the simulator of Udacity's PID project tells it, as `cte`."""

    @classmethod
    def read(cls, fields: Any) -> Telemetry:
        """From the argument of a telemetry event.

        Raises:
            PacketError: if a key is missing, a number is none or absurd, or the image is none that a simulator sends.
        """
        if not isinstance(fields, Mapping):
            raise PacketError(f"telemetry is {type(fields).__name__}, expected an object")
        missing = [key for key in ("steering_angle", "throttle", "speed", "image") if key not in fields]
        if missing:
            raise PacketError(f"telemetry lacks {', '.join(missing)}")
        jpeg = read_base64(fields["image"])
        return cls(
            steering_angle=_number(fields, "steering_angle", 360),
            throttle=_number(fields, "throttle", 10),
            speed=_number(fields, "speed", 1000),
            image=decode_camera(jpeg),
            jpeg=jpeg,
            cross_track=_number(fields, "cte", 10_000) if "cte" in fields else None,
        )


def _number(fields: Mapping[str, Any], key: str, limit: float) -> float:
    """A number as a string with a point or, where the simulator's computer says so, a comma."""
    given = fields[key]
    try:
        number = float(given.replace(",", ".") if isinstance(given, str) else given)
    except (TypeError, ValueError, OverflowError):
        raise PacketError(f"{key} is {_shown(str(given))}, expected a number") from None
    if not abs(number) <= limit:  # also false for NaN
        raise PacketError(f"{key} is {number:g}, expected one between {-limit:g} and {limit:g}")
    return number


def read_base64(given: Any) -> bytes:
    """What an image is written as → its bytes.

    Raises:
        PacketError: if it is no base64.
    """
    if not isinstance(given, str):
        raise PacketError(f"image is {type(given).__name__}, expected a string")
    try:
        return base64.b64decode(given, validate=True)
    except ValueError:  # binascii's, or what is not ASCII
        raise PacketError("image is not base64") from None


def decode_camera(jpeg: bytes) -> np.ndarray:
    """A picture as the simulator sends it → (160, 320, 3) uint8 RGB.

    A JPEG of a few kilobytes can take a minute to decode: with sides of thousands, progressive, its last scan repeated
    thousands of times. So the header is read first, and what no simulator sends is not decoded.

    Raises:
        PacketError: if it is no baseline JPEG of :data:`CAMERA_SIZE`, or larger than :data:`LARGEST_JPEG`.
    """
    width, height = CAMERA_SIZE
    expected = f"expected a baseline JPEG of {width} × {height}, {LARGEST_JPEG // 1024} kB at most"
    if len(jpeg) > LARGEST_JPEG:
        raise PacketError(f"image has {len(jpeg):,} bytes, {expected}")
    try:
        picture = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
    except Exception as error:
        raise _unreadable(error) from None
    if picture.size != CAMERA_SIZE:
        raise PacketError(f"image is {picture.width} × {picture.height}, {expected}")
    if picture.info.get("progressive") or jpeg.count(b"\xff\xda") > MOST_SCANS:
        raise PacketError(f"image is a progressive JPEG, or one of many scans, {expected}")
    return decode(jpeg)


def decode(jpeg: bytes) -> np.ndarray:
    """A JPEG → (height, width, 3) uint8 RGB; what arrives and what was recorded are decoded alike.

    Raises:
        PacketError: if it is none, or has a side of more than :data:`LARGEST_SIDE` pixels.
    """
    try:
        picture = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
        if max(picture.size) > LARGEST_SIDE:
            raise PacketError(f"image is {picture.width} × {picture.height}, expected {LARGEST_SIDE} a side at most")
        return np.asarray(picture.convert("RGB"))
    except PacketError:
        raise
    except Exception as error:  # a decoder meets everything in bytes that come from anywhere
        raise _unreadable(error) from None


def _unreadable(error: Exception) -> PacketError:
    return PacketError(f"image is not a readable JPEG ({type(error).__name__})")


@dataclass(frozen=True)
class Command:
    """What the car shall do until the next one."""

    steering: float
    """-1 to 1, right positive; 1 is `envs.udacity.vehicle.MAX_STEERING_ANGLE`."""
    throttle: float
    """-1 to 1: accelerator, below 0 brake, and reverse gear under 5 mph."""

    def __post_init__(self) -> None:
        for name, value in (("steering", self.steering), ("throttle", self.throttle)):
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}, and the simulator hangs on a value that is not a number.")

    def write(self) -> str:
        """The packet of the steer event."""
        return write_event("steer", {"steering_angle": decimal(self.steering), "throttle": decimal(self.throttle)})


def decimal(value: float) -> str:
    """A number within ±1, clipped, as text that is read alike with a decimal point and with a decimal comma: 25E-2.

    Where a comma is the decimal sign, the simulator reads "0.25" as 25, full lock.
    """
    return f"{round(min(max(value, -1.0), 1.0) * 1e6)}E-6"


def write_manual() -> str:
    """The packet that asks for the next telemetry and leaves the car to whoever holds its keys."""
    return write_event("manual", {})
