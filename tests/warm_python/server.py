"""Loads what commands import, then forks for every request until its standard input is closed."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import marshal
import multiprocessing
import os
import random
import resource
import runpy
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

ROOT = Path(__file__).parents[2]
LOADED = [
    "agents.jobs", "agents.episodes", "agents.road_rollout", "agents.worker_env", "agents.preload", "envs.registration",
    "liquid_control.report.judging", "liquid_control.report.lap", "stable_baselines3", "sb3_contrib", "tensorboard",
    "torch.utils.tensorboard", "torch._dynamo", "multiprocessing.forkserver", "multiprocessing.resource_tracker",
    "websockets",
]  # fmt: skip


def main(address: str, client: str) -> None:
    """Serves at the Unix socket `address`; `client` is the Python that programs see as their own."""
    sys.path[0] = str(ROOT)
    for name in LOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    del sys.path[0]
    importlib.import_module("torch").set_num_threads(1)  # as tests/conftest.py does, and garbage too
    gc.set_threshold(20_000)
    gc.freeze()  # forks share what is there, which counting would copy
    request = serve(address)
    if request is not None:
        become(client, *request)


def serve(address: str) -> tuple | None:
    """Returns in forks alone, what to run; or when there is nobody to serve any more."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    wakes, woken = socket.socketpair()
    for end in (wakes, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    for source in (sys.stdin, listener, wakes):
        selector.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            source = key.fileobj
            if source is sys.stdin:
                for process in running:
                    _kill(process)
                return None
            if source is listener:
                caller, _ = listener.accept()
                request, files = _receive(caller)
                if request is None:
                    caller.close()
                    continue
                process = os.fork()
                if not process:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    selector.close()
                    for end in (listener, wakes, woken, caller, *running.values()):
                        end.close()
                    return request, files
                for number in files:
                    os.close(number)
                running[process] = caller
                selector.register(caller, selectors.EVENT_READ, process)
            elif source is wakes:
                with contextlib.suppress(BlockingIOError):
                    while wakes.recv(4096):
                        pass
                _reap(running, selector)
            elif key.data in running:
                told = source.recv(64)
                for number in told:
                    os.kill(key.data, number)
                if not told:  # the caller was killed
                    selector.unregister(source)
                    running.pop(key.data).close()
                    _kill(key.data)


def _receive(caller: socket.socket) -> tuple[tuple | None, list[int]]:
    """A request and the open files that came with it; None of a caller that left."""
    head, files, _, _ = socket.recv_fds(caller, 8, 250)
    body = b""
    while head and len(body) < int.from_bytes(head, "little"):
        got = caller.recv(int.from_bytes(head, "little") - len(body))
        if not got:
            break
        body += got
    if not head or len(body) < int.from_bytes(head, "little"):
        for number in files:
            os.close(number)
        return None, []
    return marshal.loads(body), files


def _reap(running: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not process:
            return
        caller = running.pop(process, None)
        if caller:
            selector.unregister(caller)
            with contextlib.suppress(OSError):
                caller.send(status.to_bytes(8, "little"))
            caller.close()


def _kill(process: int) -> None:
    """A program, and what it has started in its group."""
    with contextlib.suppress(OSError):
        os.killpg(process, signal.SIGKILL)


def become(client: str, request: tuple, received: list[int]) -> None:
    """This process is what the caller asked for, from here to its end."""
    words, environment, folder, files, blocked, deaf, file_size = request
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, file_size)
    high = [fcntl.fcntl(number, fcntl.F_DUPFD, 500) for number in received]  # out of the way of the numbers to take
    os.closerange(0, 500)
    for number, target in zip(high, files, strict=True):
        os.dup2(number, target, inheritable=True)
    os.closerange(500, 1024)
    os.chdir(folder)
    os.environb.clear()
    os.environb.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    _open_streams(files, b"PYTHONUNBUFFERED" in environment, environment.get(b"PYTHONIOENCODING", b"utf-8").decode())
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    sys.executable, sys.orig_argv = client, [client, *words]
    multiprocessing.set_executable(client)
    sys.path[:0] = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    _end(lambda: _run(words))


def _open_streams(files: list[int], unbuffered: bool, encoding: str) -> None:
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        stream = None
        if number in files:
            lines = number == 2 or os.isatty(number)
            errors = "backslashreplace" if number == 2 else "strict"
            stream = open(number, mode, encoding=encoding, errors=errors)  # noqa: SIM115 - for as long as it runs
            if number:
                stream.reconfigure(line_buffering=lines, write_through=unbuffered)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(words: list[str]) -> None:
    kind = words[0]
    rest = words[2:] if kind in ("-m", "-c") else words[1:]
    sys.argv = [kind, *rest]
    sys.path.insert(0, {"-m": os.getcwd(), "-c": ""}.get(kind, str(Path(kind).resolve().parent)))
    starting = sys.modules.get("liquid_control.support.starting")
    if kind == "-m" and starting is not None:
        starting.begin()  # as the first import of the package would
    if kind == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        main = ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        runpy.run_path(kind, run_name="__main__")


def _end(run: Callable[[], None]) -> NoReturn:
    """Runs it and ends as Python would, but does not take its modules apart, which takes longer than most programs.

    As Python does, it complains of output that nobody takes, by status 120 too.
    """
    status: object = None
    try:
        run()
    except SystemExit as error:
        status = error.code
    except KeyboardInterrupt:
        status = 130
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    if not (status is None or isinstance(status, int)):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            status = 120
            if stream is sys.stdout:
                os.write(2, f"Exception ignored in: {stream!r}\n{type(error).__name__}: {error}\n".encode())
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    main(*sys.argv[1:])
