"""One control tick in NumPy, for every layer: equal to the layer's own step."""

import copy

import numpy as np
import pytest
import torch

from liquid_control import kernels
from liquid_control.kernels import leaky, plastic
from liquid_control.nn import (
    GRU,
    LAN,
    LSTM,
    LTC,
    MLP,
    CfC,
    HybridMixer,
    Leaky,
    LiquidScan,
    MixedMemory,
    PlasticCfC,
    PlasticMemory,
    ResidualBlock,
    ResidualStack,
    Stack,
    TimedAttention,
    WindowAttention,
    Wiring,
)

INPUTS = 5


def frozen(name):
    layer = PlasticCfC(INPUTS, 4, retroactive=True, learn_initial_state=True)
    layer.freeze(name)
    return layer


def frozen_memory():
    layer = PlasticMemory(INPUTS, 4, learn_initial_state=True)
    layer.freeze("trace")
    return layer


def of_explicit_solver(inputs):
    return LTC(inputs, 4, solver="explicit")


def of_far_paces():
    """Some time constants are the bound to the last bit, some are in the dozens."""
    layer = Leaky(INPUTS, 20, adaptive=False)
    with torch.no_grad():
        layer.tau_bias.copy_(torch.linspace(-60, 60, 20))
    return layer


NCP = Wiring.ncp(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
CASES = {
    "ltc-ncp": lambda: LTC(INPUTS, NCP, learn_initial_state=True),
    "ltc-full-explicit": lambda: LTC(
        INPUTS, 20, input_mapping="linear", output_mapping=None, ode_unfolds=2, implicit_param_constraints=False
    ),
    "ltc-no-mapping": lambda: LTC(INPUTS, NCP, input_mapping=None, output_mapping="linear"),
    "cfc-ncp": lambda: CfC(INPUTS, NCP),
    "cfc-dense": lambda: CfC(INPUTS, 4, backbone_units=6),
    "cfc-no-backbone": lambda: CfC(INPUTS, 33, backbone_layers=0, mode="no_gate", learn_initial_state=True),
    "cfc-three-layers": lambda: CfC(INPUTS, 17, 2, backbone_units=70, backbone_layers=3, activation="gelu"),
    "cfc-two-layers-pure": lambda: CfC(INPUTS, 4, backbone_units=6, backbone_layers=2, mode="pure", activation="relu"),
    "lan-mlp": lambda: LAN(INPUTS, 4, 2, window=18, hidden=3),
    "lan-affine-sigmoid": lambda: LAN(INPUTS, 6, heads=3, window=4, gate="affine", pseudo_time="sigmoid"),
    "lan-bilinear-log": lambda: LAN(INPUTS, 4, 2, heads=1, window=3, gate="bilinear", pseudo_time="log"),
    "lan-euler": lambda: LAN(INPUTS, 4, 2, window=3, mode="euler", delta_t=0.2),
    "plastic-hebb": lambda: PlasticCfC(INPUTS, NCP, learn_initial_state=True),
    "plastic-oja-inputs": lambda: PlasticCfC(INPUTS, NCP, rule="oja", plastic_inputs=True, ncps_compat=False),
    "plastic-delta-dense": lambda: PlasticCfC(INPUTS, 18, rule="delta", modulated=False),
    "plastic-retroactive": lambda: PlasticCfC(INPUTS, NCP, retroactive=True, plastic_inputs=True),
    "plastic-frozen-trace": lambda: frozen("trace"),
    "plastic-frozen-eligibility": lambda: frozen("eligibility"),
    "leaky-ncp": lambda: Leaky(INPUTS, NCP, ode_unfolds=3, learn_initial_state=True),
    "leaky-explicit": lambda: Leaky(INPUTS, 18, integration="explicit", ode_unfolds=2),
    "leaky-constant-tau": lambda: Leaky(INPUTS, NCP, integration="explicit", adaptive=False, tau_min=0.5),
    "leaky-far-paces": of_far_paces,
    "scan": lambda: LiquidScan(INPUTS, 18, learn_initial_state=True),
    "scan-readout": lambda: LiquidScan(INPUTS, 4, output_size=40, tau_min=0.5),
    "lstm": lambda: LSTM(INPUTS, 4),
    "lstm-readout": lambda: LSTM(INPUTS, 18, output_size=3, learn_initial_state=True),
    "gru": lambda: GRU(INPUTS, 18, learn_initial_state=True),
    "gru-readout": lambda: GRU(INPUTS, 4, output_size=2),
    "gru-wide-readout": lambda: GRU(INPUTS, 2, output_size=150),
    "mixed-memory-cfc": lambda: MixedMemory(CfC(INPUTS, NCP, 2, learn_initial_state=True)),
    "mixed-memory-cfc-dense": lambda: MixedMemory(CfC(INPUTS, 5, backbone_units=6, backbone_layers=2)),
    "mixed-memory-ltc": lambda: MixedMemory(LTC(INPUTS, 18)),
    "mixed-memory-leaky": lambda: MixedMemory(Leaky(INPUTS, NCP)),
    "mixed-memory-scan": lambda: MixedMemory(LiquidScan(INPUTS, 4)),
    "mixed-memory-gru": lambda: MixedMemory(GRU(INPUTS, 4, output_size=2)),
    "memory": lambda: PlasticMemory(INPUTS, 4),
    "memory-readout": lambda: PlasticMemory(INPUTS, 6, 3, heads=3, key_size=5, convolution=1, learn_initial_state=True),
    "memory-hebb": lambda: PlasticMemory(INPUTS, 4, rule="hebb", convolution=2),
    "memory-timed": lambda: PlasticMemory(INPUTS, 4, timed_writing=True),
    "memory-oja": lambda: PlasticMemory(INPUTS, 8, rule="oja", key_size=3),
    "memory-frozen": frozen_memory,
    "mlp": lambda: MLP(INPUTS, 18, frames=2, learn_initial_state=True),
    "mlp-readout": lambda: MLP(INPUTS, 6, frames=3, output_size=2),
    "lstm-elapsed": lambda: LSTM(INPUTS, 4, elapsed_as_input=True),
    "gru-elapsed": lambda: GRU(INPUTS, 18, output_size=2, elapsed_as_input=True),
    "mlp-elapsed": lambda: MLP(INPUTS, 6, frames=3, elapsed_as_input=True),
    "mlp-present": lambda: MLP(INPUTS, 6, frames=1, output_size=2),
    "attention": lambda: WindowAttention(INPUTS, 8, 3, heads=2, window=4),
    "attention-elapsed": lambda: WindowAttention(INPUTS, 18, heads=1, window=2, elapsed_as_input=True),
    "attention-timed": lambda: TimedAttention(INPUTS, 8, heads=4, window=5),
    "attention-timed-wide": lambda: TimedAttention(INPUTS, 4, 40, heads=1, window=3),
    "stack": lambda: Stack([CfC(INPUTS, NCP), GRU(2, 4), LSTM(4, 3)]),
    "hybrid": lambda: HybridMixer(INPUTS, LiquidScan(INPUTS, 3, learn_initial_state=True), units=4, heads=2, window=3),
    "hybrid-untimed": lambda: HybridMixer(INPUTS, GRU(INPUTS, 18), units=4, heads=1, window=3, timed=False),
    "residual": lambda: ResidualBlock(CfC(INPUTS, 4, backbone_units=6), expansion=1.5),
    "residual-mixer-alone": lambda: ResidualBlock(TimedAttention(INPUTS, 8, INPUTS, heads=2, window=3), expansion=0),
    "residual-stack": lambda: ResidualStack(INPUTS, hybrid_blocks(20, CfC(20, NCP), LiquidScan(20, 18)), 3),
}


def hybrid_blocks(width, *cores):
    """A block around each core."""
    return [ResidualBlock(HybridMixer(width, core, units=8, heads=2, window=4)) for core in cores]


def random_layer(make, dtype):
    """A layer whose parameters, initial state and mappings too, are not what they are drawn as."""
    torch.manual_seed(0)
    layer = make().to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return layer


WITHOUT_KERNEL = {
    "ltc-explicit-solver": lambda: LTC(INPUTS, NCP, solver="explicit"),
    "plastic-memory-eligibility": lambda: PlasticMemory(INPUTS, 4, rule="hebb", eligibility=True),
    "mixed-memory-stepped-by-torch": lambda: MixedMemory(LTC(INPUTS, NCP, solver="explicit")),
    "stack-stepped-by-torch": lambda: Stack([GRU(INPUTS, 4), of_explicit_solver(4)]),
    "hybrid-stepped-by-torch": lambda: ResidualStack(INPUTS, hybrid_blocks(4, of_explicit_solver(4)), 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES | WITHOUT_KERNEL)
def test_a_compiled_step_is_the_layers_step(name, dtype):
    layer = random_layer((CASES | WITHOUT_KERNEL)[name], dtype)
    step, state = layer.compile_step(), layer.initial_state(1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for _ in range(2):
        for elapsed in (1.0, 0.3, 0.0, 2):
            x = torch.randn(INPUTS, dtype=dtype)
            expected, state = layer.step(x[None], state, elapsed)
            y = step(x.numpy(), elapsed)
            np.testing.assert_allclose(y, expected[0].detach(), rtol=0, atol=tolerance)
            np.testing.assert_allclose(step.state, state[0].detach(), rtol=0, atol=tolerance)
        step.reset()
        state = layer.initial_state(1)


@pytest.mark.parametrize("name", CASES)
def test_these_layers_have_a_kernel(name):
    assert CASES[name]().step_kernel() is not None


@pytest.mark.parametrize("name", WITHOUT_KERNEL)
def test_these_layers_are_stepped_by_torch(name):
    assert WITHOUT_KERNEL[name]().step_kernel() is None


@pytest.mark.parametrize(
    ("module", "table", "name"),
    [(leaky, "INTEGRATIONS", "leaky-ncp"), (plastic, "RULES", "plastic-hebb")],
    ids=["leaky", "plastic"],
)
def test_what_a_kernel_does_not_know_is_stepped_by_torch(monkeypatch, module, table, name):
    monkeypatch.setattr(kernels, "_said", set())
    monkeypatch.setattr(module, table, {})
    with pytest.warns(kernels.ReferenceFormWarning, match="no kernel of the"):
        assert CASES[name]().step_kernel() is None


@pytest.fixture
def step():
    return random_layer(CASES["ltc-ncp"], torch.float32).compile_step()


def test_its_weights_are_a_snapshot():
    layer = random_layer(CASES["ltc-ncp"], torch.float32)
    twin, step = copy.deepcopy(layer), layer.compile_step()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(2)
    x = np.ones(INPUTS, np.float32)
    assert np.array_equal(step(x), twin.compile_step()(x))
    assert not np.array_equal(step(x), layer.compile_step()(x))


def test_an_output_is_an_array_of_its_own(step):
    first = step(np.ones(INPUTS, np.float32))
    kept = first.copy()
    step(np.zeros(INPUTS, np.float32))
    assert np.array_equal(first, kept)


def test_a_state_that_is_written_into_is_what_the_next_step_starts_from(step):
    x = np.ones(INPUTS, np.float32)
    step(x)
    middle = step.state.copy()
    expected = step(x)
    step.reset()
    step.state[:] = middle
    assert np.array_equal(step(x), expected)


def test_lists_other_types_strides_and_frozen_arrays_are_taken(step):
    x = np.arange(2 * INPUTS, dtype=np.float64)[::2]
    expected = step(x.astype(np.float32))
    frozen = x.astype(np.float32)
    frozen.flags.writeable = False
    for same in (x, x.tolist(), frozen, np.repeat(frozen, 2)[::2]):
        step.reset()
        assert np.array_equal(step(same), expected)


def test_wrong_arguments_are_refused_with_what_was_expected(step):
    with pytest.raises(ValueError, match=r"x has shape \(4,\), expected \(input_size,\) = \(5,\)"):
        step(np.ones(4, np.float32))
    for elapsed in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a finite time"):
            step(np.ones(INPUTS, np.float32), elapsed)
    with pytest.raises(TypeError, match=r"bfloat16; NumPy steps need layer\.float\(\)"):
        random_layer(CASES["ltc-ncp"], torch.bfloat16).compile_step()


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("cfc-ncp", "rnn_cell.layer_0.ff1"),
        ("cfc-three-layers", "fc"),
        ("mixed-memory-cfc", "cell"),
        ("memory", "gate"),
        ("scan-readout", "readout"),
        ("lstm-readout", "readout"),
        ("residual", "feed"),
    ],
)
def test_a_step_calls_modules_that_have_hooks(name, inside):
    layer = random_layer(CASES[name], torch.float64)
    layer.get_submodule(inside).register_forward_hook(lambda module, given, made: _sevens(made))
    step, state, x = layer.compile_step(), layer.initial_state(1), torch.randn(INPUTS, dtype=torch.float64)
    expected, after = layer.step(x[None], state, 0.5)
    np.testing.assert_allclose(step(x.numpy(), 0.5), expected[0].detach(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(step.state, after[0].detach(), rtol=0, atol=1e-12)
    assert step._tick.__name__ == "tick" and step._arrays == ()  # torch's


def _sevens(made):
    return (torch.full_like(made[0], 7), *made[1:]) if isinstance(made, tuple) else torch.full_like(made, 7)
