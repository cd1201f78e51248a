"""What was driven under distribution shift, on disk: a line an episode, so that none is ever driven twice.

A file of JSON lines. The first names the format. Then, in the order of time, a line for every run (what was asked for
and which packages drove) and a line for every episode, written when it ended. A line that a kill cut off is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from liquid_control.support.errors import UserError
from liquid_control.support.ranges import CountOrZero, Finite, Seed, Share
from liquid_control.support.schema import shortened, validated

FORMAT = "liquid-control shift results"
VERSION = 1
FROZEN = " frozen"
"""What follows weights that drove without their plasticity."""


class Key(NamedTuple):
    """What makes an episode another one."""

    policy: str
    training: int
    env: str
    shift: str
    severity: int
    seed: int


@dataclass(frozen=True)
class Row:
    """One episode."""

    run: CountOrZero
    """Number of the run that drove it: 0 is the first of the file."""
    policy: str
    training: Seed
    """Seed of the training: policies of one name differ in it."""
    weights: str
    """sha256 of the weights that drove; with :data:`FROZEN` behind it where plastic synapses were held."""
    env: str
    shift: str
    severity: CountOrZero
    seed: Seed
    """Of the track."""
    score: Finite
    """The undiscounted return; on the roads of the Udacity stand-in the autonomy in percent."""
    lap: bool
    """Whether every tile was visited; on roads, whether the car never left the shoulder."""
    tiles: Share
    """Share of the track's tiles that were visited; on roads 0."""
    off_road: Share
    """Share of the steps with all four wheels off the road; on roads 0."""
    steps: CountOrZero
    """On roads, simulated seconds."""
    seconds: Finite
    """Of wall-clock time that the episode took; of all fields this one alone is never the same twice."""
    departures: CountOrZero = 0
    """On the roads of the Udacity stand-in: times that the car left the shoulder."""
    touches: CountOrZero = 0
    """There: times that it crossed the yellow line."""
    way: tuple[tuple[float, float], ...] = ()
    """Where the car was after every tenth step, in track units; kept for one track of every cell."""

    @property
    def key(self) -> Key:
        """What makes it another episode."""
        return Key(self.policy, self.training, self.env, self.shift, self.severity, self.seed)


@dataclass(frozen=True)
class Run:
    """One call of the command."""

    config: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: str
    primary: tuple[str, ...] = ()
    """The two policies of the comparison that was declared before it was driven; empty without one."""


@dataclass
class Results:
    """What a file holds."""

    runs: list[Run] = field(default_factory=list)
    rows: dict[Key, Row] = field(default_factory=dict)

    def policies(self) -> set[str]:
        """Names of the policies that have rows."""
        return {key.policy for key in self.rows}

    def declare_primary(self, names: Sequence[str], asked: Sequence[str] = ()) -> tuple[str, ...]:
        """Settles which comparison is the primary one: it has to be declared before it is known.

        Args:
            names: of the policies that take part.
            asked: the two that are to be compared; nothing stands for what was declared before, or else the first and
                the last of ``names``.

        Returns:
            The two names, or nothing where none was declared in time.

        Raises:
            UserError: if another one was declared, or both have driven already.
        """
        earlier = next((run.primary for run in self.runs if run.primary and set(run.primary) <= set(names)), ())
        wanted = tuple(asked) or earlier or ((names[0], names[-1]) if len(names) > 1 else ())
        if not wanted or wanted == earlier:
            return wanted
        if set(wanted) <= self.policies():
            if not asked:
                return ()
            told = f"{' and '.join(earlier)} were declared" if earlier else "none was declared"
            raise UserError(
                f"the primary comparison is declared before it is driven: {told} here, and {' and '.join(wanted)} have "
                "driven already. Choose another --output."
            )
        return wanted

    def check_weights(self, weights: Mapping[tuple[str, int], str], path: Path) -> None:
        """Compares weights with those that drove under the same name.

        Args:
            weights: sha256 by policy and training.
            path: of the file, to name it.

        Raises:
            UserError: if they differ.
        """
        for row in self.rows.values():
            given = weights.get((row.policy, row.training), row.weights)
            if given != row.weights:
                raise UserError(
                    f"{path} holds episodes of {row.policy!r} (training seed {row.training}) driven by other weights "
                    f"({shown_weights(row.weights)}, not {shown_weights(given)}). They are kept: give the new ones "
                    f"another name (NAME=CHECKPOINT) or another --output."
                )


def shown_weights(weights: str) -> str:
    """Of :attr:`Row.weights` as much as people tell apart."""
    return weights[:8] + (FROZEN if weights.endswith(FROZEN) else "")


def read_results(path: Path) -> Results:
    """Reads a file of results; one that is not there holds nothing.

    Raises:
        UserError: if it cannot be read, is of another format or version, or a line that was ended makes no sense.
    """
    lines = _whole_lines(path)
    if not lines:
        return Results()
    content = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
    head = content[0]
    if head.get("format") != FORMAT:
        raise UserError(f"{path} holds no results under shift. It is left as it is: choose another --output.")
    if head.get("version") != VERSION:
        raise UserError(
            f"{path} has version {shortened(repr(head.get('version')))} of the format; this release reads and writes "
            f"version {VERSION}. Its rows are kept: choose another --output."
        )
    runs = [each for each in content[1:] if "versions" in each]
    rows = [each for each in content[1:] if "versions" not in each]
    results = Results(validated(list[Run], runs, f"a run in {path}"))
    for row in validated(list[Row], rows, f"an episode in {path}"):
        results.rows[row.key] = row
    return results


def _whole_lines(path: Path) -> list[str]:
    """All lines that were ended."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text. It is left as it is: choose another --output.") from None
    return text.split("\n")[:-1]


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is damaged in line {number}: {shortened(line)[:60]!r}. Remove that line, and its episode is "
            "driven again; or choose another --output."
        )
    return content


class ResultsWriter:
    """Adds to a file of results; as a context manager it closes it.

    Args:
        path: of the file, which is made where there is none.
        run: what begins now.
        number: how many runs the file has already.

    Raises:
        UserError: if it cannot be written.
    """

    def __init__(self, path: Path, run: Run, number: int):
        self.path, self.number = path, number
        try:
            self._file: IO[str] = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another --output.") from None
        self._drop_torn_line()
        if self._file.tell() == 0:
            self._write({"format": FORMAT, "version": VERSION})
        self._write(asdict(run))

    def __enter__(self) -> ResultsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """Writes an episode, at once."""
        content = asdict(row)
        if not row.way:
            del content["way"]
        self._write(content)

    def _drop_torn_line(self) -> None:
        whole = self.path.read_bytes().rpartition(b"\n")
        self._file.truncate(len(whole[0]) + len(whole[1]))
        self._file.seek(0, 2)

    def _write(self, content: Mapping[str, Any]) -> None:
        # One call, so that no other line can come between; flushed, so that a kill costs the episodes under way alone.
        self._file.write(json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n")
        self._file.flush()
