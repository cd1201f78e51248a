"""Compiles every kernel that the layers below launch, for GPUs that need not be there: ``compile_only.py 80 90``.

The interpreter runs Python and forgives what the compiler refuses. Here a launch compiles the kernel for its arguments,
down to the machine code that ptxas makes, and runs nothing: a kernel's first variant for all of the GPUs, further ones
for the last. Prints a line for each.
"""

import os
import sys

os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

TARGETS = [GPUTarget("cuda", int(capability), 32) for capability in sys.argv[1:]]
compiled = set()


def compile_instead(kernel, *args, grid, warmup, **keywords):
    """Stands in for `JITFunction.run`."""
    values = dict(zip(kernel.arg_names, args, strict=False))
    values |= {name: value for name, value in keywords.items() if name in kernel.arg_names}
    options = {name: value for name, value in keywords.items() if name not in kernel.arg_names}
    # As Triton itself does: an absent tensor and an integer 1 are constants.
    fixed = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    constant = {
        name: value
        for name, value in values.items()
        if name in fixed or value is None or (isinstance(value, int) and value == 1)
    }
    signature = {name: "constexpr" if name in constant else mangle_type(value) for name, value in values.items()}
    variant = (kernel, *signature.values(), *constant.values(), *options.items())
    if variant in compiled:
        return
    targets = TARGETS if kernel not in {known for known, *_ in compiled} else TARGETS[-1:]
    compiled.add(variant)
    for target in targets:
        binary = triton.compile(ASTSource(kernel, signature, constant), target=target, options=options)
        assert binary.metadata.shared <= 99 * 1024, f"{kernel.fn.__name__} needs {binary.metadata.shared} bytes shared"
        print(f"sm_{target.arch} {kernel.fn.__name__} {binary.metadata.shared} bytes shared", flush=True)


JITFunction.run = compile_instead


def whole(layer, integrate, elapsed, advance, steps=2, batch=3):
    """Forward and backward of a sequence."""
    x = torch.randn(steps, batch, layer.input_size, requires_grad=True)
    if elapsed is not None:
        elapsed = torch.full((steps, batch), elapsed)
    if advance is not None:
        advance = torch.full((steps, batch), advance)
    outcome = integrate(layer, x, torch.randn(batch, layer.state_size), 1.0 if elapsed is None else elapsed, advance)
    sum(value.sum() for value in outcome).backward()


def compile_ltc():
    """Nineteen neurons, one row for one step, and the most neurons that the kernel takes."""
    from liquid_control.kernels.cuda import ltc
    from liquid_control.nn import LTC, Wiring

    layer = LTC(32, Wiring.auto(19, 3))
    whole(layer, LTC.fused_cuda, None, None)
    whole(layer, LTC.fused_cuda, 0.5, True)
    whole(layer, LTC.fused_cuda, None, None, steps=1, batch=1)
    whole(LTC(32, Wiring.random(ltc.LARGEST_CIRCUIT, sparsity=0.99)), LTC.fused_cuda, None, None)


def compile_cfc():
    """Wired in every mode, and behind a backbone."""
    from liquid_control.nn import CfC, Wiring
    from liquid_control.nn.cfc import MODES

    for mode in MODES:
        whole(CfC(32, Wiring.auto(19, 3), mode=mode), CfC.fused_cuda, 0.5, True)
    whole(CfC(32, Wiring.auto(19, 3)), CfC.fused_cuda, None, None)
    whole(CfC(32, 19, backbone_units=64), CfC.fused_cuda, 0.5, True)
    whole(CfC(32, 19, backbone_units=64), CfC.fused_cuda, None, None, steps=1, batch=1)
    whole(CfC(32, 19, backbone_units=64, activation="gelu"), CfC.fused_cuda, None, None)


def compile_memory():
    """The LSTM of mixed memory before each of these, with as many neurons as it takes, too."""
    from liquid_control.kernels.cuda import memory
    from liquid_control.nn import LTC, CfC, MixedMemory, Wiring

    for elapsed, advance in ((0.5, True), (None, None)):
        whole(MixedMemory(CfC(32, Wiring.auto(19, 3))), MixedMemory.fused_cuda, elapsed, advance)
        whole(MixedMemory(CfC(32, 19, backbone_units=64)), MixedMemory.fused_cuda, elapsed, advance)
        whole(MixedMemory(LTC(32, Wiring.auto(19, 3))), MixedMemory.fused_cuda, elapsed, advance)
    whole(MixedMemory(CfC(32, memory.LARGEST)), MixedMemory.fused_cuda, None, None)
    whole(MixedMemory(LTC(32, Wiring.random(memory.LARGEST, sparsity=0.99))), MixedMemory.fused_cuda, None, None)


def compile_trace():
    """Both rules; oja runs the two of them."""
    from liquid_control.kernels.cuda import trace

    for rule in ("hebb", "delta"):
        q, k, v = (torch.randn(2, 3, 4, 16, requires_grad=True) for _ in range(3))
        outcome = trace.plastic_trace(q, k, v, torch.ones(2, 3, 4), torch.ones(2, 3, 4), rule=rule, chunk=16)
        sum(value.sum() for value in outcome).backward()


def compile_scan():
    """A block of neurons that is full, and one that is not."""
    from liquid_control.kernels.cuda import scan

    for units in (32, 5):
        drive, state = torch.randn(2, 40, 2 * units, requires_grad=True), torch.randn(2, units)
        sum(value.sum() for value in scan.liquid_scan(drive, state, torch.ones(2, 40), 0.1)).backward()


def compile_lan():
    """Every gate, mode and time, padding, causal windows."""
    from liquid_control.kernels.attention import Pairs
    from liquid_control.kernels.cuda import lan
    from liquid_control.nn.liquid_logits import LiquidLogits

    for gate, mode, pseudo_time in (
        ("affine", "exact", "sigmoid"),
        ("mlp", "euler", "log"),
        ("bilinear", "exact", "linear"),
    ):
        logits = LiquidLogits(8, 2, gate, mode, pseudo_time=pseudo_time)
        times = torch.ones(1, 3)
        real = torch.ones(3, 3, dtype=torch.bool) if gate == "mlp" else None
        pairs = Pairs(3, 1.0, times, times, real, None, gate != "affine")
        u, w = (torch.randn(3, 2, logits.features, 3, requires_grad=True) for _ in range(2))
        lan.attend(logits.for_kernels(), u, w, torch.randn(3, 2, 3, 16, requires_grad=True), pairs).sum().backward()
    query, keys, values = (
        torch.randn(3, 2, 2, logits.features),
        torch.randn(6, 2, 2 * logits.features),
        torch.randn(6, 2, 8),
    )
    now, since, known = torch.ones(3, 2), torch.ones(6, 2), torch.ones(6, 2, dtype=torch.bool)
    lan.attend_window(logits.for_kernels(), query, keys, values, now, since, known, 4).sum().backward()


compile_ltc()
compile_cfc()
compile_memory()
compile_trace()
compile_scan()
compile_lan()
