"""The simulator's side of the wire, as its plugin of 2014 writes and reads it, quirks included.

What `envs.udacity.server` is tested with, and what the stand-in simulator drives on. One object is one connection of
one simulator: no thread, the owner polls it once a frame.

Of the plugin (websocket-sharp under unity-socket.io, github.com/udacity/self-driving-car-sim) these are kept:

- its request, byte for byte; no answer with an extension is accepted;
- text is masked and cut into frames of 1016 bytes, each written by itself;
- it reports "open" twice, so two telemetries are sent before anything was asked for;
- it pings with a bare 2, at once and 25 s after every pong; it answers pings with 3; it never connects to a namespace;
- numbers are written and read as the computer's language has it;
- a steering command that it cannot read is dropped without a word, and no telemetry follows;
- a packet that it cannot read closes the connection.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

FRAGMENT = 1016
PING_INTERVAL = 25.0

LOCALES = {"en-US": (".", ","), "de-DE": (",", "."), "fr-FR": (",", "\u202f")}
"""Of a language, the decimal sign and the sign between thousands."""

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


@dataclass(frozen=True)
class Asked:
    """One telemetry that is to be sent."""

    steering: float | None = None
    """With it came a command: -1 to 1."""
    throttle: float | None = None


class SimulatorWire:
    """One connection.

    Args:
        host: address of the bridge.
        port: of the bridge.
        locale: one of :data:`LOCALES`.
        timeout: seconds for the connection to be made.

    Raises:
        ConnectionError: if there is no bridge, or what answers is not one the plugin accepts.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 4567, locale: str = "en-US", timeout: float = 5.0):
        self.decimal_sign, self.thousands_sign = LOCALES[locale]
        self.stalled = 0
        """Commands that were dropped: of each, a telemetry less is under way."""
        self._asked = [Asked()]  # the socket is open
        self._fragments = b""
        self._ping_at = float("inf")
        self._socket = socket.create_connection((host, port), timeout)
        try:
            self._buffer = self._shake_hands(f"{host}:{port}")
            self._socket.setblocking(False)
            self._send_text("2")
        except (OSError, ValueError) as error:
            self._socket.close()
            raise ConnectionError(f"no bridge at {host}:{port}: {error}") from None

    def _shake_hands(self, host: str) -> bytes:
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            (
                "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nUser-Agent: websocket-sharp/1.0\r\n"
                f"Upgrade: websocket\r\nConnection: Upgrade\r\nHost: {host}\r\nSec-WebSocket-Key: {key}\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self._socket.recv(4096)
            if not part or len(answer) > 2**16:
                raise ValueError("the answer to the handshake has no end")
            answer += part
        head, _, rest = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        if " 101 " not in status or headers.get("sec-websocket-accept") != base64.b64encode(accept).decode():
            raise ValueError(f"it answers {status!r}")
        if "sec-websocket-extensions" in headers:
            raise ValueError("it wants an extension")
        return rest

    def poll(self, timeout: float = 0.0) -> list[Asked]:
        """What was asked for since the last call; waits up to ``timeout`` seconds for something.

        Raises:
            ConnectionError: when the connection has ended, or ends for a packet that the plugin cannot read.
        """
        if time.monotonic() >= self._ping_at:
            self._ping_at = float("inf")  # until the pong
            self._send_text("2")
        until = time.monotonic() + timeout
        while True:
            while (message := self._next_message()) is not None:
                self._read(message)
            left = until - time.monotonic()
            if self._asked or not select.select([self._socket], [], [], max(0.0, left))[0]:
                break
            self._receive()
        asked, self._asked = self._asked, []
        return asked

    def send_telemetry(self, steering_angle: float, throttle: float, speed: float, jpeg: bytes) -> None:
        """Steering in degrees, throttle 0 to 1, speed in miles an hour, the image of the camera in the middle."""
        numbers = {"steering_angle": steering_angle, "throttle": throttle, "speed": speed}
        fields = {name: self.write_number(value) for name, value in numbers.items()}
        fields["image"] = base64.b64encode(jpeg).decode()
        self.send_event("telemetry", fields)

    def send_manual(self) -> None:
        """The telemetry of a car whose keys are held."""
        self.send_event("telemetry", None)

    def send_event(self, name: str, argument: Any) -> None:
        """Any event, without spaces."""
        self._send_text("42" + json.dumps([name, argument], separators=(",", ":")))

    def __enter__(self) -> SimulatorWire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """As at the end of the program: ``41``, ``1``, and a close frame."""
        try:
            self._send_text("41")
            self._send_text("1")
            self._send_frame(_CLOSE, b"")
        except OSError:
            pass
        finally:
            self._socket.close()

    def write_number(self, value: float) -> str:
        """As .NET's ``ToString("N4")`` of the language."""
        signs = str.maketrans({",": self.thousands_sign, ".": self.decimal_sign})
        return f"{value:,.4f}".translate(signs)

    def read_number(self, text: Any) -> float:
        """As .NET's ``float.Parse`` of the language, which passes over the sign between thousands wherever it stands.

        Raises:
            ValueError: if it is not a string, or none that .NET reads.
        """
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is not a string")
        decimal, thousands = re.escape(self.decimal_sign), re.escape(self.thousands_sign)
        if not re.fullmatch(rf"\s*[+-]?(?=.*\d)[\d{thousands}]*(?:{decimal}\d*)?(?:[eE][+-]?\d+)?\s*", text):
            raise ValueError(f"{text!r} is not a number")
        return float(text.replace(self.thousands_sign, "").replace(self.decimal_sign, "."))

    # Packets

    def _read(self, text: str) -> None:
        kind = text[:1]
        if kind == "0":
            self._asked.append(Asked())  # "open" once more
        elif kind == "2":
            self._send_text("3" + text[1:])
        elif kind == "3":
            self._ping_at = time.monotonic() + PING_INTERVAL
        elif kind == "1":
            self._end("the bridge has said good-bye")
        elif kind == "4":
            if text[1:2] == "2":
                self._event(text)
            elif text[1:2] == "":
                self._end(f"the plugin cannot read {text!r}")
        elif kind not in ("5", "6"):
            self._end(f"the plugin cannot read {text[:40]!r}")

    def _event(self, text: str) -> None:
        found = re.fullmatch(r"42(?:/[^,]*,)?\d*(\[.*\])", text, re.DOTALL)
        name, arguments = None, []
        if found is not None:
            with contextlib.suppress(ValueError, RecursionError):
                name, *arguments = json.loads(found[1])
        if not isinstance(name, str) or len(arguments) > 1 or not all(isinstance(each, dict) for each in arguments):
            self._end(f"the plugin cannot read {text[:40]!r}")
        if name == "manual":
            self._asked.append(Asked())
        elif name == "steer":
            try:
                command = arguments[0]
                self._asked.append(
                    Asked(self.read_number(command["steering_angle"]), self.read_number(command["throttle"]))
                )
            except (IndexError, KeyError, ValueError):
                self.stalled += 1

    def _end(self, why: str) -> None:
        self._socket.close()
        raise ConnectionError(why)

    # Frames

    def _send_text(self, text: str) -> None:
        whole = text.encode()
        pieces = [whole[at : at + FRAGMENT] for at in range(0, len(whole), FRAGMENT)] or [b""]
        for index, piece in enumerate(pieces):
            self._send_frame(_TEXT if index == 0 else _CONTINUATION, piece, index == len(pieces) - 1)

    def _send_frame(self, opcode: int, payload: bytes, last: bool = True) -> None:
        length = len(payload)
        size = bytes([0x80 | length]) if length < 126 else bytes([0x80 | 126]) + length.to_bytes(2, "big")
        mask = os.urandom(4)
        spread = (mask * (length // 4 + 1))[:length]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(spread, "big")).to_bytes(length, "big")
        self._send_bytes(bytes([(0x80 if last else 0) | opcode]) + size + mask + masked)

    def _send_bytes(self, frame: bytes) -> None:
        """All of it, however small the buffers of the system are."""
        view = memoryview(frame)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                if not select.select([], [self._socket], [], 5.0)[1]:
                    self._end("the bridge takes nothing any more")

    def _receive(self) -> None:
        try:
            part = self._socket.recv(2**16)
        except BlockingIOError:
            return
        if not part:
            self._end("the bridge has left")
        self._buffer += part

    def _next_message(self) -> str | None:
        """The next complete text, None while there is none."""
        while True:
            buffer = self._buffer
            if len(buffer) < 2:
                return None
            last, opcode, length, at = buffer[0] & 0x80, buffer[0] & 0x0F, buffer[1] & 0x7F, 2
            if length >= 126:
                wide = 2 if length == 126 else 8
                if len(buffer) < 2 + wide:
                    return None
                length, at = int.from_bytes(buffer[2 : 2 + wide], "big"), 2 + wide
            if len(buffer) < at + length:
                return None
            payload, self._buffer = buffer[at : at + length], buffer[at + length :]
            if opcode == _CLOSE:
                self._end("the bridge has closed the connection")
            elif opcode == _PING:
                self._send_frame(_PONG, payload)
            elif opcode == _BINARY:
                self._end("the plugin cannot read binary messages")
            elif opcode in (_TEXT, _CONTINUATION):
                self._fragments += payload
                if last:
                    whole, self._fragments = self._fragments, b""
                    try:
                        return whole.decode()
                    except UnicodeDecodeError:
                        self._end("the plugin cannot read text that is not UTF-8")
