"""What every command shares: a config dataclass becomes the command line and the YAML file, an error one line.

The YAML file says what the command line says: ``--config job.yaml`` puts the file's keys in front of the arguments,
so one parser checks both and an argument given by hand wins over the file.
"""

from __future__ import annotations

import dataclasses
import errno
import inspect
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import tyro
import yaml

from liquid_control.support import starting
from liquid_control.support.console import accept_any_encoding, plain
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.ranges import check_ranges
from liquid_control.support.schema import shortened, validated

Config = TypeVar("Config")


def parse(config_class: type[Config], arguments: Sequence[str], program: str, note: str = "") -> Config:
    """Builds a config from command line arguments and, where ``--config FILE`` is among them, a YAML file.

    Args:
        config_class: a dataclass; its docstring is the help's description, those of its fields explain the options.
        arguments: the words of the command line. An option given there wins over the file.
        program: what the help calls the program.
        note: what the help says in front of the description.

    Raises:
        UserError: if the YAML file cannot be read, has a key that the config does not have, or a value of another type;
            or if a number is out of the range that its field's type gives.
        SystemExit: from the parser, after it has explained a wrong argument (2) or printed the help (0).
    """
    words, files = split_config_files(arguments)
    given: dict[str, Any] = {}
    for path in files:
        given |= _read_config(config_class, path)
    # Where tyro knows no value for a field that has to have one, the field stays an argument of the command line.
    needed = [field.name for field in _fields(config_class) if field.default is dataclasses.MISSING]
    filled = dict.fromkeys(needed, tyro.MISSING) | given
    # A required field that the file gives is no argument any more, but may still be given as one.
    config: Config = tyro.cli(
        config_class,
        prog=program,
        description="\n\n".join(part for part in (note, inspect.cleandoc(config_class.__doc__ or "")) if part),
        args=_with_values(config_class, words),
        config=(tyro.conf.FlagConversionOff, tyro.conf.PositionalRequiredArgs),
        default=config_class(**filled) if given else tyro.MISSING_NONPROP,
    )
    check_ranges(config)
    return config


def split_config_files(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """The words of a command line without ``--config FILE``, and those files; of two, the later one wins.

    Raises:
        UserError: if no file follows.
    """
    words: list[str] = []
    files: list[Path] = []
    rest = iter(arguments)
    for word in rest:
        if word != "--config" and not word.startswith("--config="):
            words.append(word)
            continue
        path = word.partition("=")[2] or next(rest, None)
        if path is None:
            raise UserError("--config needs a YAML file, for example --config configs/ppo/car_racing.yaml.")
        files.append(Path(path))
    return words, files


def _fields(config_class: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(config_class)


def _with_values(config_class: type, arguments: list[str]) -> list[str]:
    """A bare ``--flag`` of a bool field becomes ``--flag True``, which is what a YAML file says.

    It may stand in front of an argument without a name, so only what is meant as a truth is its value. Whether it is
    written as one is for the parser to say.
    """
    fields = _fields(config_class)
    flags = {"--" + field.name.replace("_", "-") for field in fields if field.type in (bool, "bool")}
    words: list[str] = []
    for word, following in itertools.pairwise([*arguments, "--"]):
        bare = word.replace("_", "-") in flags and following.lower() not in TRUTHS
        words += [word, "True"] if bare else [word]
    return words


TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")
"""Words that stand behind a flag as its value."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of option names to values that a YAML file holds.

    Raises:
        UserError: if it cannot be read, is not YAML, holds something else, or is more than a config can be: larger than
            a megabyte, deeper than some levels, or with aliases, nine levels of which are a billion values.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_CONFIG + 1)
        if len(text) > LARGEST_CONFIG:
            raise UserError(f"the config {path} has more than {LARGEST_CONFIG:,} bytes.")
        content = yaml.load(text.decode(), _PlainLoader)
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror or error}.") from None
    except RecursionError:
        raise UserError(f"the config {path} is not YAML that a config can be: it is nested too deep.") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # a tag's value may be none of its type
        if isinstance(error, UserError):
            raise
        raise UserError(f"the config {path} is not YAML: {shortened(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"the config {path} must be a mapping of option names to values, not {type(content).__name__}.")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


LARGEST_CONFIG = 2**20
"""Bytes of a config file at most."""


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain values, without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("it has an alias (*), which a config does not need")
        return super().compose_node(parent, index)


def _read_config(config_class: type, path: Path) -> dict[str, Any]:
    """The fields of a config that a YAML file gives, each of its field's type.

    A value is a value: a word that begins with a dash is no option here.
    """
    hints = get_type_hints(config_class, include_extras=True)
    known = {field.name: hints[field.name] for field in _fields(config_class)}
    fields = {}
    for name, value in read_yaml(path).items():
        if name not in known:
            raise UserError(f"the config {path} has an unknown key {name!r}: {nearest(name, known)}")
        several = get_origin(known[name]) is tuple and not isinstance(value, list)
        fields[name] = validated(known[name], [value] if several else value, f"{name} in the config {path}")
    return fields


def write_yaml(config: Any) -> str:
    """The config dataclass as the text of a YAML file that ``--config`` reads."""
    values = {
        name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(config).items()
    }
    return yaml.safe_dump(values, sort_keys=False)


def differences(saved: Any, given: Any, names: Iterable[str] | None = None, whose: str = "") -> list[str]:
    """Where two configs of one class differ, in words.

    Args:
        saved: one config.
        given: the other.
        names: of the fields to look at; None looks at all.
        whose: what the words say behind each name.
    """
    names = [field.name for field in dataclasses.fields(saved)] if names is None else names
    pairs = [(name, getattr(saved, name), getattr(given, name)) for name in names]
    return [f"{name}{whose} is {_told(was)}, not {_told(now)}" for name, was, now in pairs if was != now]


def _told(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a cluster's scheduler sends before it kills: for a command it is Ctrl-C."""


def _terminate(*_: object) -> None:
    raise Terminated


def _stop_again(swallowed: sys.UnraisableHookArgs) -> None:
    """Where C calls Python, as Numba's compiler does, an exception ends nothing. If it was a stop, it comes again."""
    if not (swallowed.exc_type and issubclass(swallowed.exc_type, KeyboardInterrupt)):
        return sys.__unraisablehook__(swallowed)
    number = signal.SIGTERM if issubclass(swallowed.exc_type, Terminated) else signal.SIGINT

    def send() -> None:
        if hasattr(signal, "pthread_kill"):  # not on Windows
            signal.pthread_kill(threading.main_thread().ident or 0, number)
        else:
            signal.raise_signal(number)

    again = threading.Timer(0.1, send)
    again.daemon = True
    again.start()


def _refusal(error: OSError) -> str:
    """What the system refused, and what to do about it where that is known."""
    text = f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
    return f"{text}. {ADVICE[error.errno]}, then start again." if error.errno in ADVICE else f"{text}."


ADVICE: dict[int | None, str] = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.EACCES: "Look at its permissions",
    errno.EROFS: "Choose a folder on a disk that can be written",
    errno.EEXIST: "Choose another name, for something has this one",
    errno.ENOTDIR: "Choose another folder, for a file is in the way of this one",
}
"""What to do about an error of the system."""


def _is_lack_of_memory(error: Exception) -> bool:
    """NumPy has an error for it, torch a text: of the processor's memory, and of a GPU's."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a command: a :class:`UserError` or a lack of memory becomes one line and exit status 2.

    A training that has diverged is status 3, Ctrl-C is status 130, SIGTERM 143.
    """
    starting.release_collector()
    accept_any_encoding()
    if signal.getsignal(signal.SIGINT) is starting.stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _stop_again
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        raise SystemExit(error.status) from None
    except BrokenPipeError:
        # The reader of our output left (`… | head`): that is its right. Keep the interpreter from complaining too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        print(f"error: there is not enough memory: {plain(shortened(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        # What only the system can refuse: a disk that fills under a curve, a folder that disappears.
        print(f"error: {plain(_refusal(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough: what is being ended now must not end by a signal
        print("stopped.", file=sys.stderr)
        raise SystemExit(143 if isinstance(stop, Terminated) else 130) from None
