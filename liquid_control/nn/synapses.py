"""What flows through all synapses of a liquid time-constant circuit at once (Lechner et al. 2020, eq. 2).

A synapse from neuron j to neuron i opens by s_ji = σ(σ_ji (v_j - μ_ji)) of the presynaptic potential v_j. A neuron
needs two sums over its synapses: Σ_j w_ji s_ji E_ji, which drives it, and Σ_j w_ji s_ji, which speeds it up.

Two forms, equal in value: few synapses go through products with 0/1 matrices of their sources and destinations, so
those that the wiring leaves out cost nothing; many go through the whole [source, destination] matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from liquid_control.kernels.structure import Structured

Currents = Callable[[Tensor, Tensor], Tensor]
"""(potential (B, sources), constant (2 N) or (B, 2 N)) → constant + [Σ w s E | Σ w s], (B, 2 N)."""

SPARSE_LIMIT = 10_000
"""Synapses × neurons from which the dense form is faster: measured on a CPU at batch 32."""


def build_synapses(adjacency: np.ndarray) -> SparseSynapses | DenseSynapses:
    """The faster form for a (sources, neurons) adjacency matrix."""
    sparse = np.count_nonzero(adjacency) * max(adjacency.shape) < SPARSE_LIMIT
    return SparseSynapses(adjacency) if sparse else DenseSynapses(adjacency)


class SparseSynapses(Structured):
    """The synapses of a sparse (sources, neurons) adjacency matrix, E of them."""

    place: Tensor
    presynaptic: Tensor
    postsynaptic: Tensor

    def __init__(self, adjacency: np.ndarray):
        super().__init__()
        source, destination = np.nonzero(adjacency)
        place = torch.from_numpy(np.ravel_multi_index((source, destination), adjacency.shape))
        synapse, dtype = np.arange(len(source)), torch.get_default_dtype()
        presynaptic = torch.zeros(adjacency.shape[0], len(source), dtype=dtype, device="cpu")
        postsynaptic = torch.zeros(len(source), adjacency.shape[1], dtype=dtype, device="cpu")
        presynaptic[source, synapse] = postsynaptic[synapse, destination] = 1
        self.register_constant("place", place)
        self.register_constant("presynaptic", presynaptic)
        self.register_constant("postsynaptic", postsynaptic)

    def forward(self, sigma: Tensor, mu: Tensor, w: Tensor, erev: Tensor) -> Currents:
        """The currents under parameters (sources, neurons), which are gathered and multiplied once."""
        sigma, mu, w, erev = (parameter.flatten().index_select(0, self.place) for parameter in (sigma, mu, w, erev))
        gain, offset = self.presynaptic * sigma, -sigma * mu
        weights = torch.cat([self.postsynaptic * (w * erev)[:, None], self.postsynaptic * w[:, None]], 1)

        def currents(potential: Tensor, constant: Tensor) -> Tensor:
            return torch.addmm(constant, torch.sigmoid(torch.addmm(offset, potential, gain)), weights)

        return currents


class DenseSynapses(Structured):
    """The synapses of a dense (sources, neurons) adjacency matrix."""

    mask: Tensor

    def __init__(self, adjacency: np.ndarray):
        super().__init__()
        self.register_constant("mask", torch.from_numpy(adjacency != 0).to(torch.get_default_dtype()))

    def forward(self, sigma: Tensor, mu: Tensor, w: Tensor, erev: Tensor) -> Currents:
        """The currents under parameters (sources, neurons), which are masked and multiplied once."""
        w = w * self.mask
        offset, driving = -sigma * mu, w * erev

        def currents(potential: Tensor, constant: Tensor) -> Tensor:
            opening = torch.sigmoid(torch.addcmul(offset, potential[..., None], sigma))
            return constant + torch.cat([(opening * driving).sum(-2), (opening * w).sum(-2)], -1)

        return currents
