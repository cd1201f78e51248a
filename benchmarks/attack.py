"""What strangers may hand in, and when a run may be killed: no traceback, no hang, and no other weights.

python benchmarks/attack.py                     # everything, some 40 minutes
python benchmarks/attack.py messages pictures   # two of them, everything on the loopback device

Each attack prints one row. A file that was attacked is either refused with one short error or holds what it held
before; anything else counts as a fault, as does an answer that takes longer than twenty seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import io
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from agents.demonstrations import read_shard, write_shard
from agents.episodes import Episode
from agents.jobs import choose_job
from agents.run_folder import RunFolder
from envs.udacity.packets import Command
from envs.udacity.server import UdacityServer
from liquid_control.support import command
from liquid_control.support.command import parse
from liquid_control.support.errors import UserError
from liquid_control.support.ranges import Gain, Seed, argument
from liquid_control.train import PROGRAM
from policies.driver import Driver, DriverConfig, load_driver

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 20.0
"""Seconds that an answer may take."""


@dataclass
class Tally:
    """What became of the attacks of a kind."""

    attacks: int = 0
    refused: int = 0
    unchanged: int = 0
    faults: int = 0
    longest: float = 0.0

    def row(self, name: str) -> str:
        """One row of the table."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        return (
            f"| {name} | {self.attacks:,} | {self.refused:,} | {self.unchanged:,} | {self.faults} "
            f"| {self.longest:.2f} | {memory:.2f} |"
        )


class Hang(BaseException):
    """An answer that takes too long."""


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Raises where its block takes longer than it may."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attack_file(tally: Tally, read: Callable[[], bool]) -> None:
    """One attack: ``read`` tells whether what it read is what was there before the attack."""
    begin = time.monotonic()
    tally.attacks += 1
    try:
        with alarm():
            if read():
                tally.unchanged += 1
            else:
                tally.faults += 1
                print("accepted and different")
    except UserError as error:
        tally.refused += 1
        if len(str(error)) > 1000:  # the longest names all options of a job
            tally.faults += 1
            print(f"an error of {len(str(error))} characters: {str(error)[:200]}")
    except (Exception, Hang) as error:
        tally.faults += 1
        print(f"{type(error).__name__}: {str(error)[:200]}")
    tally.longest = max(tally.longest, time.monotonic() - begin)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, put in, taken out or repeated, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data) or 1)
        way = rng.random()
        if way < 0.5 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif way < 0.7:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 20)))
        elif way < 0.85:
            del data[place : place + rng.randint(1, 200)]
        elif way < 0.95:
            data[place:place] = data[place : place + 100] * rng.randint(1, 5)
        else:
            del data[place:]
    return bytes(data)


NUMBERS = [-1, 0, 10**12, 1e308, float("nan"), float("inf")]
VALUES = [None, True, *NUMBERS, "", "x", "\0", "\x1b[31m", [], [1] * 50, {}, {"a": 1}]


def mutate_json(value: object, rng: random.Random) -> object:
    """The same values but for one somewhere, which becomes anything."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: kept for name, kept in value.items() if name != key}
        return value | {key: mutate_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], mutate_json(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


def checkpoints(folder: Path, count: int, rng: random.Random) -> Tally:
    """Checkpoints of drivers: configs and weights, mutated as bytes and as values."""
    tally = Tally()
    for policy in ("cfc", "ltc", "lan", "plastic", "mlp"):
        torch.manual_seed(0)
        whole = Driver(DriverConfig(policy=policy))
        where = folder / policy
        whole.save(where)
        (weights,) = where.glob("weights-*.safetensors")
        config = where / "config.json"
        kept = {path: path.read_bytes() for path in (weights, config)}

        def same(where: Path = where, whole: Driver = whole) -> bool:
            loaded, wanted = load_driver(where).state_dict(), whole.state_dict()
            return all(torch.equal(loaded[name], value) for name, value in wanted.items())

        for _ in range(count // 5):
            way = rng.random()
            if way < 0.4:
                weights.write_bytes(mutate(kept[weights], rng))
            elif way < 0.6:
                config.write_bytes(mutate(kept[config], rng))
            else:
                config.write_text(json.dumps(mutate_json(json.loads(kept[config]), rng)))
            # What a mutated config says may be another driver, as whole as this one; loaded in time is what counts.
            attack_file(tally, same if way < 0.4 else lambda where=where: load_driver(where) is not None)  # type: ignore[misc]
            for path, content in kept.items():
                path.write_bytes(content)
    return tally


def shards(folder: Path, count: int, rng: random.Random) -> Tally:
    """Shards of demonstrations."""
    driver = DriverConfig()
    height, width = driver.playfield
    numbers = np.random.default_rng(0)
    episode = Episode(
        *(0, 1.5, 20, False, 0.1, 0.0),
        images=numbers.integers(0, 255, (20, height, width, 3)).astype(np.uint8),
        gauges=numbers.random((20, 7), np.float32),
        labels=numbers.random((20, 3), np.float32),
        actions=numbers.random((20, 3), np.float32),
        rewards=numbers.random(20, np.float32),
    )
    path = folder / "0.npz"
    write_shard(path, driver.env, [episode])
    content, shape = path.read_bytes(), episode.images.shape[1:]

    def same() -> bool:
        (read,) = read_shard(path, driver.env, shape)
        return all(np.array_equal(value, getattr(episode, name)) for name, value in vars(read).items())

    tally = Tally()
    for _ in range(count):
        path.write_bytes(mutate(content, rng))
        attack_file(tally, same)
    return tally


def states(folder: Path, count: int, rng: random.Random) -> Tally:
    """States that runs are resumed from."""
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.config.write_text("a: 1\n")
    tensors, progress = {"a": torch.randn(100, 10), "b": torch.arange(9)}, {"round": 3, "best": 1.5}
    run.save_state(tensors, progress)
    content = run.state.read_bytes()

    def same() -> bool:
        read = run.load_state()
        return read is not None and read[1] == progress and all(torch.equal(read[0][k], v) for k, v in tensors.items())

    tally = Tally()
    for _ in range(count):
        run.state.write_bytes(mutate(content, rng))
        attack_file(tally, same)
    return tally


HOSTILE_YAML = [
    "env: 2026-99-99\n",
    "seed: !!int abc\n",
    "policy_options: [--help]\n",
    "run: [" * 3000,
    "{a: " * 3000,
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefghi")),
    "rounds: !!python/object/apply:os.system ['true']\n",
    "? [a, b]\n: 1\n",
    "rounds: 1e999\n",
    'env: "\\x1b[31m"\n',
]


def yaml_files(folder: Path, count: int, rng: random.Random) -> Tally:
    """Files for --config."""
    sources = [path.read_bytes() for path in sorted((ROOT / "configs" / "ppo").glob("*.yaml"))]
    path = folder / "config.yaml"

    def read() -> bool:
        words = ["--config", str(path)]
        config = choose_job(words).config
        with contextlib.redirect_stderr(io.StringIO()) as told:
            try:
                parse(config, words, PROGRAM)
            except SystemExit as end:
                if end.code != 2:
                    return False  # it printed the help
                raise UserError(told.getvalue()[:100]) from None
        return True  # another config, as sound as the one before

    tally = Tally()
    for number in range(count):
        hostile = HOSTILE_YAML[number % len(HOSTILE_YAML)].encode()
        path.write_bytes(hostile if number < len(HOSTILE_YAML) else mutate(rng.choice([*sources, hostile]), rng))
        attack_file(tally, read)
    return tally


@contextlib.contextmanager
def running_bridge() -> Iterator[UdacityServer]:
    """A bridge in a thread of its own, whose drivers always give the same command."""

    class Straight:
        def drive(self, *_: object) -> Command:
            return Command(-0.25, 0.5)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = UdacityServer(Straight, port=0)
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@contextlib.contextmanager
def client_of(server: UdacityServer) -> Iterator[Any]:
    """A client of Engine.IO 4 that has said that it is there."""
    with connect(f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket", max_queue=None) as client:
        yield client


def telemetry(jpeg: bytes) -> str:
    """A telemetry as the simulator sends it."""
    data = {"steering_angle": "0.0", "throttle": "0.0", "speed": "10.0", "image": base64.b64encode(jpeg).decode()}
    return f'42["telemetry",{json.dumps(data)}]'


def picture(size: tuple[int, int] = (320, 160), **options: Any) -> bytes:
    """A JPEG; such as the simulator's, if nothing else is said."""
    noise = np.random.default_rng(0).integers(0, 255, (50, 100, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size).save(file, "JPEG", **({"quality": 75} | options))
    return file.getvalue()


def answer(car: Any, jpeg: bytes) -> float:
    """Seconds until a car that sends a telemetry is steered."""
    begin = time.monotonic()
    car.send(telemetry(jpeg))
    while not car.recv(timeout=LIMIT).startswith('42["steer"'):
        pass
    return time.monotonic() - begin


def messages(folder: Path, count: int, rng: random.Random) -> Tally:
    """Messages to the bridge, while a car drives: it gets one command for each telemetry."""
    jpeg, tally = picture(), Tally()
    seeds = [
        "2",
        "3",
        "40",
        "41x",
        "0{}",
        '42["telemetry",null]',
        '42["x",{"a":[1,{"b":null}]}]',
        telemetry(jpeg[:600]),
    ]
    with running_bridge() as server, client_of(server) as car:
        car.send("40")
        while tally.attacks < count:
            with contextlib.suppress(ConnectionClosed), client_of(server) as attacker:
                for _ in range(500):
                    text = mutate(rng.choice(seeds).encode(), rng).decode(errors="replace")
                    tally.attacks += 1
                    attacker.send(text)
            for _ in range(4):
                tally.longest = max(tally.longest, answer(car, jpeg))
        with contextlib.suppress(TimeoutError):
            while True:
                tally.faults += car.recv(timeout=1).startswith('42["steer"')  # one that nobody asked for
        tally.refused = tally.attacks
    return tally


def pictures(folder: Path, count: int, rng: random.Random) -> Tally:
    """Pictures that take long to decode, while a car drives."""
    large = picture((4096, 4096), progressive=True, quality=10)
    last = large.rindex(b"\xff\xda")
    jpeg = picture()
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    bombs = [
        large[:-2] + (large[last:-2] * 2000)[:130_000] + large[-2:],
        jpeg[:-2] + scan * (240_000 // len(scan)) + jpeg[-2:],
        picture((4000, 4000), quality=5),
        jpeg + bytes(2**18),
    ]
    tally = Tally()
    with running_bridge() as server, client_of(server) as car, client_of(server) as attacker:
        for client in (car, attacker):
            client.send("40")
        answer(car, jpeg)
        while tally.attacks < count:
            tally.attacks += 1
            attacker.send(telemetry(rng.choice(bombs)))
            for _ in range(5):
                tally.longest = max(tally.longest, answer(car, jpeg))
        with contextlib.suppress(TimeoutError):
            while tally.refused < count:
                tally.refused += attacker.recv(timeout=LIMIT).startswith('42["steer"')
    tally.faults = count - tally.refused + (tally.longest > 0.1)
    return tally


TINY = "--steps {} --batch 4 --time 8 --validation-episodes 1 --test-episodes 0 --workers 1 --device cpu"
JOBS = {
    "DAgger": "--rounds 3 --expert-episodes 2 --learner-episodes 2 --leash 10 --validate-every 1 --video False "
    + TINY.format(3),
    "roads": "--env udacity --rounds 3 --expert-episodes 1 --learner-episodes 1 --seconds 3 " + TINY.format(2),
    "PPO": "--agent ppo --envs 2 --rollout 16 --sequence 8 --batch 16 --epochs 1 --round-updates 2 --steps 256 "
    "--validation-episodes 1 --validate-every 1 --test-episodes 0 --video False --workers 1 --device cpu --patience 9",
}


def contents(run: Path) -> dict[str, str]:
    """What a finished run holds: digests of its files, of states those of the tensors; curves by their names alone."""
    told = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir():
            continue
        if name.startswith("tensorboard"):
            name, content = "tensorboard", b""
        elif path.name == "config.json":
            checkpoint = json.loads(path.read_text())
            content = json.dumps({key: value for key, value in checkpoint.items() if key != "record"}).encode()
        elif path.name == "state.safetensors":
            content = b"".join(value.numpy().tobytes() for _, value in sorted(load_file(path).items()))
        else:
            content = path.read_bytes().replace(str(run).encode(), b"RUN")
        told[name] = hashlib.sha256(content).hexdigest()
    return told


def kills(folder: Path, count: int, rng: random.Random) -> Tally:
    """Trainings that are killed at random moments and resumed, until the finished run equals an unbroken one."""
    tally = Tally()
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}

    def start(words: list[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "liquid_control.train", *words]
        return subprocess.Popen(
            command, cwd=ROOT, text=True, env=environment, start_new_session=True, stdout=DEVNULL, stderr=PIPE
        )

    unbroken, seconds = {}, {}
    for name, options in JOBS.items():
        begin = time.monotonic()
        run = folder / f"unbroken-{name}"
        told = start([*options.split(), "--run", str(run)]).communicate()[1]
        seconds[name], unbroken[name] = time.monotonic() - begin, contents(run)
        assert unbroken[name], told
    while tally.attacks < count:
        name = list(JOBS)[tally.attacks % len(JOBS)]
        run = folder / f"killed-{tally.attacks}"
        finished = False
        while not finished:
            begun = (run / "config.yaml").exists()
            process = start(["--resume", str(run)] if begun else [*JOBS[name].split(), "--run", str(run)])
            # At any moment of a whole run, or past its end, which is its end.
            patience = rng.uniform(0.1, 1.1) * seconds[name] if tally.attacks < count else None
            try:
                told = process.communicate(timeout=patience)[1]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                tally.attacks += 1
                continue
            finished = True
            if process.returncode or "Traceback" in told:
                print(name, process.returncode, told[-500:])
                tally.faults += 1
        same = contents(run)
        if same == unbroken[name]:
            tally.unchanged += 1
        else:
            tally.faults += 1
            print(name, "differs in", sorted(k for k in same | unbroken[name] if same.get(k) != unbroken[name].get(k)))
    return tally


ATTACKS: dict[str, tuple[Callable[[Path, int, random.Random], Tally], int]] = {
    "checkpoints": (checkpoints, 2000),
    "shards": (shards, 1000),
    "states": (states, 500),
    "yaml": (yaml_files, 200),
    "messages": (messages, 20_000),
    "pictures": (pictures, 100),
    "kills": (kills, 100),
}


def main() -> None:
    """Prints the table as Markdown; the exit status is 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"some of {', '.join(ATTACKS)}; all by default")
    parser.add_argument("--share", type=argument(Gain), default=1.0, help="of the usual number of attacks")
    parser.add_argument("--seed", type=argument(Seed), default=0)
    options = parser.parse_args()
    if unknown := set(options.attacks) - set(ATTACKS):
        parser.error(f"unknown attack {min(unknown)!r}: choose from {', '.join(ATTACKS)}")
    logging.disable(logging.CRITICAL)
    rows, faults = [], 0
    for name in options.attacks or ATTACKS:
        attack, count = ATTACKS[name]
        with tempfile.TemporaryDirectory() as folder:
            tally = attack(Path(folder), max(5, round(count * options.share)), random.Random(options.seed))
        rows.append(tally.row(name))
        faults += tally.faults
        print(rows[-1], flush=True)
    print("\n| attack | number | refused | as before | faults | longest, s | memory, GB |\n" + "|---" * 7 + "|")
    print("\n".join(rows))
    raise SystemExit(faults > 0)


if __name__ == "__main__":
    command.run(lambda _: main())
