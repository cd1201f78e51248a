"""The Triton kernels on a GPU: time beside the reference form and torch's own, and agreement of numbers.

python benchmarks/gpu.py                # needs a GPU
python benchmarks/gpu.py --interpret    # agreement alone, on the CPU through Triton's interpreter

Float32. Everything takes turns within one process; times are those of the GPU's own clock, medians are printed, and
ratios are medians of the ratios within a turn. "both" is a forward and a backward pass, with the gradients of all
parameters and inputs. Peers: nn.LSTM of the same width for cells, causal scaled dot-product attention of the same heads
for attention and the trace.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.nn import LAN, LTC, CfC, LiquidScan, MixedMemory, Wiring
from liquid_control.nn.liquid_attention import LiquidAttention, Pairs
from liquid_control.nn.scan import liquid_scan
from liquid_control.nn.trace import RULES, chunkwise_trace, plastic_trace
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument

STEPS, INPUTS = 64, 32
TOKENS, WIDTH, HEADS = 1024, 64, 4


# Speed


@dataclass
class Contest:
    """Two forms of ours and a peer that do as much."""

    name: str
    batches: tuple[int, ...]
    peer: str
    build: Callable[[int], dict[str, tuple[Callable[..., Any], list[Tensor]]]]
    """From a batch to "ours" and the peer: a call and what it is called with, all leaves included."""


def contests() -> list[Contest]:
    """All kernels."""
    layers: dict[str, Callable[[], Any]] = {
        "LTC AutoNCP(19, 4)": lambda: LTC(INPUTS, Wiring.auto(19, 4)),
        "CfC AutoNCP(19, 3)": lambda: CfC(INPUTS, Wiring.auto(19, 3)),
        "CfC 64, backbone 128": lambda: CfC(INPUTS, 64),
        "mixed memory, CfC 64": lambda: MixedMemory(CfC(INPUTS, 64)),
        "mixed memory, LTC AutoNCP(19, 4)": lambda: MixedMemory(LTC(INPUTS, Wiring.auto(19, 4))),
        "LAN 16 + 3": lambda: LAN(INPUTS, 16, 3),
    }
    cells = [
        Contest(name, (32, 256, 1024, 4096), "nn.LSTM", lambda batch, build=build: _cell(build().cuda(), batch))
        for name, build in layers.items()
    ]
    attention = [
        Contest(
            f"attention, {gate}, T = {TOKENS}",
            (1, 8, 32),
            "SDPA",
            lambda batch, gate=gate: _attention(LiquidAttention(WIDTH, HEADS, gate=gate, hidden=16).cuda(), batch),
        )
        for gate in ("affine", "mlp", "bilinear")
    ]
    traces = [
        Contest(f"trace, {rule}, T = {TOKENS}", (1, 8, 32), "SDPA", lambda batch, rule=rule: _trace(rule, batch))
        for rule in RULES
    ]
    scans = [
        Contest(
            f"scan 256, T = {TOKENS}",
            (1, 8, 32),
            "nn.LSTM",
            lambda batch: _cell(LiquidScan(INPUTS, 256).cuda(), batch, TOKENS),
        )
    ]
    return [*cells, *attention, *traces, *scans]


def _cell(layer: Any, batch: int, steps: int = STEPS) -> dict[str, tuple[Callable[..., Any], list[Tensor]]]:
    inside = layer.cell if isinstance(layer, MixedMemory) else layer
    neurons = inside.neuron_count if isinstance(inside, LAN) else inside.state_size
    lstm = nn.LSTM(INPUTS, neurons, batch_first=True).cuda()
    x = torch.randn(batch, steps, INPUTS, device="cuda", requires_grad=True)
    return {
        "ours": (lambda x, *_: layer(x)[0], [x, *layer.parameters()]),
        "nn.LSTM": (lambda x, *_: lstm(x)[0], [x, *lstm.parameters()]),
    }


def _attention(attention: LiquidAttention, batch: int) -> dict[str, tuple[Callable[..., Any], list[Tensor]]]:
    x = torch.randn(batch, TOKENS, WIDTH, device="cuda", requires_grad=True)
    maps = [nn.Linear(WIDTH, WIDTH).cuda() for _ in range(4)]

    def dot_product(x: Tensor, *_: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for linear in maps[:3])
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return maps[3](attended.transpose(1, 2).flatten(2))

    return {
        "ours": (lambda x, *_: attention(x, elapsed=1.0, causal=True), [x, *attention.parameters()]),
        "SDPA": (dot_product, [x, *(parameter for linear in maps for parameter in linear.parameters())]),
    }


def _trace(rule: str, batch: int) -> dict[str, tuple[Callable[..., Any], list[Tensor]]]:
    def leaf(*shape: int) -> Tensor:
        return torch.rand(batch, TOKENS, HEADS, *shape, device="cuda").requires_grad_()

    q, k, v = (leaf(WIDTH) for _ in range(3))

    def ours(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor) -> Tensor:
        return chunkwise_trace(q, F.normalize(k, dim=-1), F.normalize(v, dim=-1), decay, rate, rule=rule)[0]

    def dot_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)), is_causal=True)

    return {"ours": (ours, [q, k, v, leaf(), leaf()]), "SDPA": (dot_product, [q, k, v])}


def time_contest(contest: Contest, batch: int, rounds: int) -> dict[tuple[str, bool], list[float]]:
    """Milliseconds by form and whether the backward pass is part of it, one number a round."""
    forms = contest.build(batch)
    found: dict[tuple[str, bool], list[float]] = {}
    for turn in range(rounds + 1):
        for name in ("ours", "reference", contest.peer):
            call, leaves = forms["ours" if name == "reference" else name]
            for backward in (False, True):
                with reference_form() if name == "reference" else as_it_is():
                    spent = timed(call, leaves, backward)
                if turn:  # the first compiles
                    found.setdefault((name, backward), []).append(spent)
    return found


def timed(call: Callable[..., Any], leaves: list[Tensor], backward: bool) -> float:
    """Milliseconds on the GPU's clock."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    if backward:
        torch.autograd.grad(call(*leaves).sum(), leaves, allow_unused=True)
    else:
        with torch.no_grad():
            call(*leaves)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def print_speed(console: Console, rounds: int) -> None:
    """The table of times."""
    table = Table(title=f"{torch.cuda.get_device_name()}: milliseconds, and times as fast; {rounds} rounds")
    for column in (
        "",
        "batch",
        "forward",
        "both",
        "reference ÷ it, forward",
        "both ",
        "peer",
        "peer ÷ it, forward",
        " both",
    ):
        table.add_column(column, justify="left" if column in ("", "peer") else "right", no_wrap=True)
    for contest in contests():
        for batch in contest.batches:
            spent = time_contest(contest, batch, rounds)
            row = [contest.name if batch == contest.batches[0] else "", str(batch)]
            row += [f"{statistics.median(spent['ours', backward]):.3f}" for backward in (False, True)]
            row += [f"{ratio(spent['reference', backward], spent['ours', backward]):.1f}" for backward in (False, True)]
            row.append(contest.peer)
            row += [
                f"{ratio(spent[contest.peer, backward], spent['ours', backward]):.2f}" for backward in (False, True)
            ]
            table.add_row(*row)
        table.add_section()
    console.print(table)


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@contextmanager
def reference_form() -> Iterator[None]:
    """Layers run in their reference form."""
    before = os.environ.get("LIQUID_CONTROL_KERNELS", "auto")
    os.environ["LIQUID_CONTROL_KERNELS"] = "reference"
    try:
        yield
    finally:
        os.environ["LIQUID_CONTROL_KERNELS"] = before


@contextmanager
def as_it_is() -> Iterator[None]:
    """Layers run in the form that they choose."""
    yield


# Agreement


@dataclass
class Comparison:
    """A kernel and the reference form, both from leaves to outputs and, but for attention, a final state."""

    name: str
    kernel: Callable[..., tuple[Tensor, ...]]
    reference: Callable[..., tuple[Tensor, ...]]
    leaves: list[Tensor]
    """What both are called with; parameters stand last, for their gradients, and are not used as arguments."""


def comparisons(device: str) -> Iterator[Comparison]:
    """All kernels, at lengths and batches that fit no tile."""
    from liquid_control.kernels.cuda import lan, scan, trace

    steps, batch, inputs = 5, 5, 6
    torch.manual_seed(0)
    layers: dict[str, Any] = {
        "LTC, wired": LTC(inputs, Wiring.auto(12, 2)),
        "LTC, full": LTC(inputs, 5),
        **{
            f"CfC, wired, {mode}": CfC(inputs, Wiring.auto(12, 2), mode=mode) for mode in ("default", "no_gate", "pure")
        },
        "CfC, backbone": CfC(inputs, 7, backbone_units=20),
        "mixed memory, LTC": MixedMemory(LTC(inputs, 5)),
        "mixed memory, CfC, wired": MixedMemory(CfC(inputs, Wiring.auto(12, 2))),
        "mixed memory, CfC, backbone": MixedMemory(CfC(inputs, 7, backbone_units=20)),
    }
    for name, layer in layers.items():
        layer.to(device)
        x, state = torch.randn(steps, batch, inputs, device=device), torch.randn(batch, layer.state_size, device=device)
        elapsed, advance = 0.2 + torch.rand(steps, batch, device=device), torch.rand(steps, batch, device=device) < 0.7
        parameters = list(layer.parameters())
        yield Comparison(
            name,
            lambda x, state, *_, layer=layer: layer.fused_cuda(x, state, 1.0, None),
            lambda x, state, *_, layer=layer: layer.integrate(x, state, 1.0, None),
            [x, state, *parameters],
        )
        yield Comparison(
            f"{name}, elapsed and mask",
            lambda x, state, elapsed, *_, layer=layer, advance=advance: layer.fused_cuda(x, state, elapsed, advance),
            lambda x, state, elapsed, *_, layer=layer, advance=advance: layer.integrate(x, state, elapsed, advance),
            [x, state, elapsed, *parameters],
        )
    for rule in trace.RULES:
        q, k, v = (F.normalize(torch.randn(2, 21, 2, 6, device=device), dim=-1) for _ in range(3))
        decay, rate = (0.5 + 0.5 * torch.rand(2, 21, 2, device=device) for _ in range(2))
        yield Comparison(
            f"trace, {rule}",
            lambda *leaves, rule=rule: trace.plastic_trace(*leaves, rule=rule, chunk=16),
            lambda *leaves, rule=rule: plastic_trace(*leaves, rule=rule),
            [q, k, v, decay, rate, torch.randn(2, 2, 6, 6, device=device)],
        )
    yield Comparison(
        "scan",
        lambda *leaves: scan.liquid_scan(*leaves, 0.1),
        lambda *leaves: liquid_scan(*leaves, 0.1),
        [
            torch.randn(2, 37, 10, device=device),
            torch.randn(2, 5, device=device),
            torch.rand(2, 37, device=device),
        ],
    )
    for gate in ("affine", "mlp", "bilinear"):
        for mode in ("exact", "euler", "steady"):
            attention = LiquidAttention(8, 2, gate=gate, mode=mode).to(device)
            times = torch.rand(2, 37, device=device).cumsum(1)
            pairs = Pairs(37, 1.0, times, times, torch.rand(2, 37, device=device) < 0.8, None, True)
            tokens = [torch.randn(2, 2, attention.logits.features, 37, device=device) for _ in range(2)]
            yield Comparison(
                f"attention, {gate}, {mode}",
                lambda u, w, values, *_, own=attention, pairs=pairs: (
                    lan.attend(own.logits.for_kernels(), u, w, values, pairs),
                ),
                lambda u, w, values, *_, own=attention, pairs=pairs: own._attend(u, w, values, pairs, None, False)[:1],
                [*tokens, torch.randn(2, 2, 37, 4, device=device), *attention.logits.parameters()],
            )


def print_agreement(console: Console, device: str) -> None:
    """The table of the largest differences."""
    form = "on the GPU" if device == "cuda" else "through Triton's interpreter"
    table = Table(title=f"Largest difference of a kernel {form} from the reference form, ÷ (1 + largest value)")
    for column in ("", "outputs", "final state", "any gradient", "gradients"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for comparison in comparisons(device):
        forms = []
        for form_of in (comparison.kernel, comparison.reference):
            leaves = [leaf.requires_grad_() for leaf in comparison.leaves]
            outputs = form_of(*leaves)
            torch.manual_seed(1)
            loss = sum((output * torch.randn(output.shape).to(output)).sum() for output in outputs)
            forms.append(([*outputs], torch.autograd.grad(loss, leaves, allow_unused=True)))
        (found, found_gradients), (expected, expected_gradients) = forms
        gradients = [
            difference(*pair) for pair in zip(found_gradients, expected_gradients, strict=True) if None not in pair
        ]
        state = f"{difference(found[1], expected[1]):.1e}" if len(found) > 1 else ""
        table.add_row(
            comparison.name,
            f"{difference(found[0], expected[0]):.1e}",
            state,
            f"{max(gradients):.1e}",
            str(len(gradients)),
        )
    console.print(table)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, relative to values above 1."""
    return ((found - expected).abs().max() / (1 + expected.abs().max())).item()


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interpret", action="store_true", help="compare numbers on the CPU; needs no GPU")
    parser.add_argument("--rounds", type=argument(Count), default=20, help="turns of the timings")
    options = parser.parse_args()
    console = Console(width=150)
    if options.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported
        print_agreement(console, "cpu")
        return
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch sees no CUDA GPU; with --interpret it compares numbers on the CPU instead.")
    print_agreement(console, "cuda")
    print_speed(console, options.rounds)


if __name__ == "__main__":
    command.run(lambda _: main())
