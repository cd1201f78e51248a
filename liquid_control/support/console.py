"""The console that commands print to: text is text, and neither a reader that leaves nor an encoding ends the work."""

from __future__ import annotations

import os
import sys
from typing import Any

import rich.console
from rich.text import Text


def plain(text: str) -> str:
    """The text with its control characters written out, so that none can reach a terminal."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


def accept_any_encoding() -> None:
    """What an encoding lacks is printed as ``?``: a table with ± must not end a command whose terminal knows ASCII.

    A stream that was closed before the command began (``>&-``) takes everything and shows nothing.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a test or a notebook puts there may not
            stream.reconfigure(errors="replace")


class Console(rich.console.Console):
    """Rich's console for text that may come from anywhere: brackets are brackets, and lines are not broken.

    When the reader leaves (``… | head``), nothing more is printed and the command goes on: its work is not for the
    reader alone.
    """

    def __init__(self) -> None:
        super().__init__(markup=False, highlight=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """See :meth:`rich.console.Console.print`; text is not wrapped."""
        options.setdefault("soft_wrap", all(isinstance(each, str) for each in objects))
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """See :meth:`rich.console.Console.render_str`; control characters are written out."""
        return super().render_str(plain(text), **options)

    def on_broken_pipe(self) -> None:
        """Silence from now on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
