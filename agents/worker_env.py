"""Environments in a few processes, many in each, their observations in shared memory: SB3's vectorised environment."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import CloudpickleWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from agents.workers import begin_worker, starting_worker, worker_context
from liquid_control.support.errors import UserError

MakeEnv = Callable[[], gymnasium.Env]


class WorkerVecEnv(VecEnv):
    """SB3's ``SubprocVecEnv``, but with a few processes for many environments.

    SB3 has a process an environment and sends every observation through a pipe. For sixteen environments on two cores
    that is mostly waiting. The environments behave the same in either, and in SB3's ``DummyVecEnv``.

    Args:
        makers: one function an environment; all make the same spaces.
        workers: processes; environments are shared out in order.

    Raises:
        UserError: if an observation space is not a box or a dictionary of boxes.
    """

    def __init__(self, makers: Sequence[MakeEnv], workers: int):
        workers = min(workers, len(makers))
        context = worker_context()
        ends = [len(makers) * part // workers for part in range(workers + 1)]
        self._ranges = [range(*ends[part : part + 2]) for part in range(workers)]
        probe = makers[0]()
        observation_space, action_space = probe.observation_space, probe.action_space
        probe.close()
        memory = _Memory(observation_space, len(makers), context)
        self._memory = memory.arrays()
        self._processes, self._pipes = [], []
        for own in self._ranges:
            pipe, far = context.Pipe()
            share = CloudpickleWrapper([makers[index] for index in own])
            process = context.Process(target=_work, args=(far, share, memory, own.start), daemon=True)
            with starting_worker():
                process.start()
            far.close()
            self._processes.append(process)
            self._pipes.append(pipe)
        self._closed = False
        super().__init__(len(makers), observation_space, action_space)

    def reset(self) -> VecEnvObs:
        """Begins an episode in every environment, with the seeds that :meth:`seed` has set."""
        for own, pipe in zip(self._ranges, self._pipes, strict=True):
            pipe.send(("reset", (self._seeds[own.start : own.stop], self._options[own.start : own.stop])))
        self.reset_infos = [info for infos in self._answers() for info in infos]
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def step_async(self, actions: np.ndarray) -> None:
        """Sends the actions (envs, …) out."""
        for own, pipe in zip(self._ranges, self._pipes, strict=True):
            self._send(pipe, ("step", actions[own.start : own.stop]))

    def step_wait(self) -> VecEnvStepReturn:
        """Observations, rewards (envs,), endings (envs,) and infos."""
        infos = [info for part in self._answers() for info in part]
        return self._observations(), self._memory["reward"].copy(), self._memory["done"].astype(bool), infos

    def close(self) -> None:
        """Ends the processes."""
        if self._closed:
            return
        self._closed = True
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            pipe.close()
            process.join(timeout=2)
            if process.is_alive():
                process.terminate()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment."""
        return self._ask("get", (attr_name,), indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of each environment."""
        self._ask("set", (attr_name, value), indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list:
        """Calls a method of each environment."""
        return self._ask("call", (method_name, method_args, method_kwargs), indices)

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether each environment is wrapped in ``wrapper_class``."""
        return self._ask("wrapped", (wrapper_class,), indices)

    def _ask(self, what: str, arguments: tuple[Any, ...], indices: VecEnvIndices) -> list[Any]:
        wanted = list(self._get_indices(indices))
        for own, pipe in zip(self._ranges, self._pipes, strict=True):
            self._send(pipe, (what, ([index - own.start for index in wanted if index in own], *arguments)))
        return [answer for part in self._answers() for answer in part]

    def _observations(self) -> VecEnvObs:
        if isinstance(self.observation_space, spaces.Dict):
            return {name: self._memory[f"observation.{name}"].copy() for name in self.observation_space.spaces}
        return self._memory["observation."].copy()

    def _send(self, pipe: Connection, message: Any) -> None:
        try:
            pipe.send(message)
        except OSError:
            self._report_death(pipe)

    def _answers(self) -> list[Any]:
        answers = []
        for pipe in self._pipes:
            try:
                outcome, answer = pipe.recv()
            except (EOFError, OSError):
                self._report_death(pipe)
            if outcome == "failed":
                raise UserError(answer)
            answers.append(answer)
        return answers

    def _report_death(self, pipe: Connection) -> None:
        worker = self._pipes.index(pipe)
        process, own = self._processes[worker], self._ranges[worker]
        process.join(timeout=5)
        raise UserError(
            f"worker {worker} of {len(self._processes)}, with environments {own.start} to {own.stop - 1}, died (exit "
            f"code {process.exitcode}; -9 is killed, often for memory). What was saved is intact; fewer environments "
            "need less memory."
        ) from None


class _Memory:
    """Arrays that processes share: observations, rewards and endings of all environments."""

    def __init__(self, space: spaces.Space, envs: int, context: Any):
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        for name, part in parts.items():
            if not isinstance(part, spaces.Box):
                raise UserError(
                    f"observations {name!r} of {part} are not supported: expected a Box or a Dict of them. "
                    "gymnasium.wrappers.FlattenObservation makes a Box of most."
                )
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            f"observation.{name}": ((envs, *(part.shape or ())), np.dtype(part.dtype)) for name, part in parts.items()
        }
        self._shapes |= {"reward": ((envs,), np.dtype(np.float32)), "done": ((envs,), np.dtype(np.uint8))}
        self._bytes = {
            name: context.RawArray(ctypes.c_uint8, max(1, int(np.prod(shape)) * dtype.itemsize))
            for name, (shape, dtype) in self._shapes.items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays, by name, in this process."""
        return {
            name: np.frombuffer(self._bytes[name], dtype, int(np.prod(shape))).reshape(shape)
            for name, (shape, dtype) in self._shapes.items()
        }


class _Share:
    """The environments of one worker."""

    def __init__(self, makers: Sequence[MakeEnv], memory: dict[str, np.ndarray], first: int):
        self.envs = [make() for make in makers]
        self.memory, self.first = memory, first
        self.steps = [0] * len(self.envs)

    def write(self, index: int, observation: Any) -> None:
        parts = observation if isinstance(observation, dict) else {"": observation}
        for name, part in parts.items():
            if np.asarray(part).dtype.kind == "f" and not np.isfinite(part).all():
                raise ValueError(f"the observation {name} holds NaN or infinity: {part}".replace("  ", " "))
            self.memory[f"observation.{name}"][self.first + index] = part

    def reset(self, index: int, seed: int | None = None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        observation, info = self.envs[index].reset(seed=seed, **({"options": options} if options else {}))
        self.write(index, observation)
        return info

    def step(self, index: int, action: Any) -> dict[str, Any]:
        observation, reward, terminated, truncated, info = self.envs[index].step(action)
        self.steps[index] += 1
        if not np.isfinite(float(reward)):
            raise ValueError(f"the reward is {reward}")
        self.memory["reward"][self.first + index] = reward
        self.memory["done"][self.first + index] = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if terminated or truncated:
            info["terminal_observation"] = observation
            self.reset(index)
        else:
            self.write(index, observation)
        return info

    def answer(self, what: str, content: Any) -> list[Any]:
        if what == "step":
            return [self._named(index, self.step, action) for index, action in enumerate(content)]
        if what == "reset":
            return [self._named(index, self.reset, *given) for index, given in enumerate(zip(*content, strict=True))]
        indices, *arguments = content
        envs = [self.envs[index] for index in indices]
        if what == "get":
            return [env.get_wrapper_attr(*arguments) for env in envs]
        if what == "set":
            return [env.set_wrapper_attr(*arguments) for env in envs]
        if what == "call":
            name, positional, named = arguments
            return [env.get_wrapper_attr(name)(*positional, **named) for env in envs]
        return [_is_wrapped(env, *arguments) for env in envs]

    def _named(self, index: int, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(index, *arguments)
        except Exception as error:
            place = f"environment {self.first + index} failed at its step {self.steps[index]}"
            named = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise UserError(f"{place}: {named}") from error


def _is_wrapped(env: gymnasium.Env, wrapper_class: type[gymnasium.Wrapper]) -> bool:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, wrapper_class):
            return True
        env = env.env
    return False


def _work(pipe: Connection, makers: Any, memory: _Memory, first: int) -> None:
    """A worker process: answers until the pipe is closed."""
    begin_worker()
    share = None
    while True:
        try:
            what, content = pipe.recv()
        except (EOFError, OSError):
            break
        try:
            share = share or _Share(makers.var, memory.arrays(), first)
            pipe.send(("done", share.answer(what, content)))
        except Exception as error:
            pipe.send(("failed", str(error)))
    for env in share.envs if share else ():
        env.close()
