"""Measurements of a study on disk, a line each, so that a study that was stopped measures only what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically


class Results:
    """The lines of ``results.jsonl`` in a folder; the first one holds the options that all others depend on.

    Args:
        folder: of the study.
        options: JSON values, or what becomes them.

    Raises:
        UserError: if the folder holds results of other options, or damaged ones.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]):
        self._path, self._head = folder / "results.jsonl", json.loads(json.dumps(options))
        self.rows: list[dict[str, Any]] = []
        if not self._path.exists():
            return
        try:
            head, *self.rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        except ValueError:
            raise UserError(f"{self._path} is damaged: restore it, or name another folder.") from None
        if head != self._head:
            raise UserError(f"{self._path} holds results of other options, {head}: name another folder.")

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The first line that has these values, or None."""
        return next((row for row in self.rows if key.items() <= row.items()), None)

    def add(self, row: dict[str, Any]) -> None:
        """Writes one more line, whole or not at all.

        Raises:
            UserError: if it cannot be written.
        """
        self.rows.append(row)
        lines = [json.dumps(line) for line in (self._head, *self.rows)]
        write_atomically(self._path, "\n".join(lines) + "\n")
