"""The kernels of a driver compiled before they are needed, and by one process for all.

Compiled code is cached beside the kernels' source: where it is, this takes milliseconds.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from policies.driver import Driver


def precompile_tick(driver: Driver) -> None:
    """Compiles what a driver on the CPU drives with; see :meth:`policies.driver.Driver.compile_step`."""
    image, gauges = np.zeros(driver.view.image_shape, np.uint8), np.zeros(len(driver.view.gauges), np.float32)
    driver.compile_step().tick(image, gauges)


def precompile_training(driver: Driver) -> None:
    """Compiles what a driver's gradients are computed with, on the device that it is on; adds to its gradients."""
    device, view = next(driver.parameters()).device, driver.view
    images = torch.zeros(1, 2, *view.image_shape, dtype=torch.uint8, device=device)
    gauges = torch.zeros(1, 2, len(view.gauges), device=device)
    # With padding or with uneven time, a kernel may be another one.
    masks, times = torch.tensor([[True, False]], device=device), torch.ones(1, 2, device=device)
    for mask, elapsed in itertools.product((None, masks), (None, times)):
        command, _ = driver(images, gauges, elapsed=elapsed, mask=mask)
        command.sum().backward()
