"""Signals, and what must not be stopped amid."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heard_afterwards() -> Iterator[None]:
    """What asks this process to end, SIGINT of a keyboard or SIGTERM of a scheduler, is heard at the end of the block.

    To block them is not enough: a signal to this process then goes to another of its threads, of which torch has some.
    """
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return
    heard: list[int] = []
    stops = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda got, _: heard.append(got)) for number in stops}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for got in heard:
            signal.raise_signal(got)
