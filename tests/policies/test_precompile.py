"""Compiling ahead: what is needed, and all of it, for every core."""

import pkgutil
from importlib import import_module

import numpy as np
import pytest
import torch
from numba.core.registry import CPUDispatcher

import liquid_control.kernels
from policies.driver import Driver, DriverConfig
from policies.precompile import precompile_tick, precompile_training
from policies.registry import CORES


def compiled():
    """Every kernel with the types of arguments that it is compiled for."""
    names = [module.name for module in pkgutil.iter_modules(liquid_control.kernels.__path__) if not module.ispkg]
    modules = [import_module(f"liquid_control.kernels.{name}") for name in names]
    kernels = {value for module in modules for value in vars(module).values() if isinstance(value, CPUDispatcher)}
    return {(kernel.py_func.__qualname__, signature) for kernel in kernels for signature in kernel.signatures}


@pytest.mark.parametrize("policy", CORES)
def test_driving_and_training_find_their_kernels_compiled(policy):
    driver = Driver(DriverConfig(policy=policy))
    precompile_tick(driver)
    precompile_training(driver)
    before = compiled()
    assert any(name == "convolve" for name, _ in before)
    driver.compile_step().act(np.zeros((96, 96, 3), np.uint8), elapsed=0.5)
    images = torch.zeros(3, 5, *driver.view.image_shape, dtype=torch.uint8)
    mask = torch.arange(5) < torch.tensor([[5], [3], [0]])
    state = driver.core.initial_state(3)
    for elapsed in (None, torch.rand(3, 5)):
        command, state = driver(images, torch.zeros(3, 5, 7), state, elapsed, mask)
        command.sum().backward()
        state = state.detach()
    assert compiled() == before
