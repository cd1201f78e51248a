"""Mixed memory in the kernels of CfC and LTC: equal to the reference form in values, states and every gradient."""

import pytest
import torch
from torch.nn.utils import prune

from liquid_control import kernels
from liquid_control.kernels import cfc, cfc_dense, ltc
from liquid_control.nn import GRU, LTC, CfC, ClosedFormLTC, Leaky, LiquidScan, MixedMemory, Wiring
from tests.kernels.conftest import agree, outcome

INPUTS = 18
NCP = Wiring.ncp(6, 4, 3, sensory_fanout=3, inter_fanout=2, recurrent_command_synapses=4, motor_fanin=2)
CELLS = {
    "cfc": lambda: CfC(INPUTS, NCP, learn_initial_state=True),
    "cfc-no_gate": lambda: CfC(INPUTS, NCP, 2, mode="no_gate"),
    "cfc-pure": lambda: CfC(INPUTS, NCP, mode="pure"),
    "cfc-backbone": lambda: CfC(INPUTS, 17, 3, backbone_units=9),
    "cfc-no_backbone": lambda: CfC(INPUTS, 5, backbone_layers=0, mode="no_gate", learn_initial_state=True),
    "cfc-deep": lambda: CfC(INPUTS, 7, backbone_units=18, backbone_layers=2, backbone_dropout=0.3, activation="silu"),
    "cfc-deep-pure": lambda: CfC(INPUTS, 7, backbone_units=9, backbone_layers=3, backbone_dropout=0.2, mode="pure"),
    "ltc": lambda: LTC(INPUTS, NCP, learn_initial_state=True),
    "ltc-full": lambda: LTC(INPUTS, 5, ode_unfolds=2, input_mapping="linear", output_mapping=None),
}
TIMES = ("one", "a number", "zero", "batched", "zeros among them", "mask with holes", "a number and a mask", "both")
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}


def build(name="cfc", dtype=torch.float64):
    torch.manual_seed(0)
    layer = MixedMemory(CELLS[name]()).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return layer


def given(layer, batch=5, steps=4, times="both", dtype=torch.float64):
    torch.manual_seed(1)
    arguments = {
        "x": torch.randn(batch, steps, INPUTS, dtype=dtype, requires_grad=True),
        "state": torch.randn(batch, layer.state_size, dtype=dtype, requires_grad=True),
    }
    elapsed = 0.1 + torch.rand(batch, steps, dtype=dtype)
    if times in ("zeros among them", "both"):
        elapsed[torch.rand(batch, steps) < 0.3] = 0
    if times in ("a number", "zero", "a number and a mask"):
        arguments["elapsed"] = 0.0 if times == "zero" else 0.3
    elif times not in ("one", "mask with holes"):
        arguments["elapsed"] = elapsed.requires_grad_()
    if times in ("mask with holes", "a number and a mask", "both"):
        arguments["mask"] = torch.rand(batch, steps) < 0.8
        with torch.no_grad():
            arguments["x"][~arguments["mask"]] = torch.nan
    return arguments


@pytest.fixture(autouse=True)
def no_loop(monkeypatch):
    """A layer that silently took the loop would equal it."""

    def refuse(self, *arguments):
        assert kernels.kernel_device(arguments[0]) is None, "the reference form runs"
        return integrate(self, *arguments)

    integrate = MixedMemory.integrate
    monkeypatch.setattr(MixedMemory, "integrate", refuse)
    return integrate


# Equal to the reference form


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_equals_the_reference_form(reference, name, dtype):
    layer = build(name, dtype)
    arguments = given(layer, dtype=dtype)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), TOLERANCES[dtype])


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", ["cfc", "ltc"])
def test_every_kind_of_time_equals_the_reference_form(reference, name, times):
    layer = build(name)
    arguments = given(layer, times=times)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), 1e-12)


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (16, 3), (33, 5), (49, 2)])
@pytest.mark.parametrize("name", ["cfc", "cfc-deep", "ltc"])
def test_every_shape_equals_the_reference_form(reference, name, batch, steps):
    layer = build(name)
    arguments = given(layer, batch, steps)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), 1e-12)


@pytest.mark.parametrize("name", ["cfc", "cfc-deep", "ltc"])
def test_gradients_that_nobody_wants_are_left_out(name):
    layer = build(name)
    arguments = given(layer)
    wanted = outcome(layer, arguments)
    torch.manual_seed(5)
    y, state = layer(**{key: value.detach() for key, value in arguments.items()})
    (y.sin().sum() + state.square().sum()).backward()
    for key, parameter in layer.named_parameters():
        expected = wanted[key]
        found = torch.zeros_like(expected) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_time_first_inputs_and_strided_states_are_read_as_they_are():
    layer = build("ltc")
    arguments = given(layer)
    strided = {
        "x": arguments["x"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_(),
        "state": arguments["state"].detach().T.contiguous().T.requires_grad_(),
        "elapsed": arguments["elapsed"].detach().T.contiguous().T.requires_grad_(),
        "mask": arguments["mask"].T.contiguous().T,
    }
    agree(outcome(layer, strided), outcome(layer, arguments), 0)


@pytest.mark.parametrize("name", ["cfc", "cfc-deep", "ltc"])
def test_without_gradients_the_numbers_are_the_same_to_the_bit(name):
    layer = build(name)
    arguments = given(layer)
    torch.manual_seed(5)
    y, state = layer(**arguments)
    torch.manual_seed(5)
    with torch.no_grad():
        for value, expected in zip(layer(**arguments), (y, state), strict=True):
            assert torch.equal(value, expected) and not value.requires_grad


def test_weights_changed_after_the_pass_do_not_change_its_gradients():
    layer = build()
    arguments = given(layer)
    expected = outcome(layer, arguments)["lstm.recurrent_map.weight"]
    y, state = layer(**arguments)
    with torch.no_grad():
        for parameter in layer.lstm.parameters():
            parameter.data = 2 * parameter
    (y.sin().sum() + state.square().sum()).backward()
    assert torch.equal(layer.lstm.recurrent_map.weight.grad, expected)


def test_threads_do_not_change_a_bit(threads):
    torch.manual_seed(3)
    for cell in (CfC(INPUTS, Wiring.auto(19, 3)), CfC(INPUTS, 16, backbone_units=32), LTC(INPUTS, 8)):
        layer = MixedMemory(cell)
        arguments = {"x": torch.randn(70, 48, INPUTS), "elapsed": torch.rand(70, 48)}
        threads(1)
        alone = outcome(layer, arguments)
        threads(2)
        together = outcome(layer, arguments)
        for name, value in alone.items():
            assert torch.equal(value, together[name]), name


def test_pruned_weights_are_used_as_pruned(reference):
    layer = build()
    prune.l1_unstructured(layer.lstm.recurrent_map, "weight", 0.5)
    arguments = given(layer)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), 1e-12)


def test_second_derivatives_are_refused_with_the_way_out():
    layer = build()
    y, _ = layer(**given(layer))
    with pytest.raises(RuntimeError, match=r"the CfC with a memory .*LIQUID_CONTROL_KERNELS=reference"):
        torch.autograd.grad(y.sum(), list(layer.parameters()), create_graph=True)


# As torch asks


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", ["cfc", "cfc-backbone", "ltc"])
def test_the_operators_are_registered_as_torch_asks(name, keep):
    layer = build(name).requires_grad_(keep)
    x, state, elapsed, mask = given(layer).values()
    x, state, elapsed = (value.detach().requires_grad_(keep) for value in (x, state, elapsed))
    cell = layer.cell
    parameters = [*(cell._all_parameters() if name == "ltc" else cell._head_parameters()), *layer._lstm_parameters()]
    text, masks = (cell._dense_options, []) if name == "cfc-backbone" else cell._description()
    operator = {"cfc": cfc, "cfc-backbone": cfc_dense, "ltc": ltc}[name].integrate_with_memory.operator
    arguments = x, state, elapsed, None, mask, parameters, masks, text, keep, None
    torch.library.opcheck(
        operator, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )


@pytest.mark.parametrize("name", ["cfc", "cfc-deep", "ltc"])
def test_a_compiled_layer_has_one_graph_and_equals_the_layer_to_the_bit(name):
    torch._dynamo.reset()
    layer = build(name)
    arguments = given(layer)
    found = outcome(layer, arguments)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.manual_seed(5)
    y, state = compiled(**arguments)
    assert torch.equal(y, found["outputs"]) and torch.equal(state, found["final state"])
    weights = dict(layer.named_parameters())
    gradients = torch.autograd.grad(y.sin().sum() + state.square().sum(), list(weights.values()), allow_unused=True)
    for key, gradient in zip(weights, gradients, strict=True):
        assert gradient is None or torch.equal(gradient, found[key]), key


# What is left to the loop


@pytest.mark.parametrize("what", ["lstm", "lstm.input_map", "lstm.recurrent_map", "cell"])
def test_modules_that_have_hooks_are_called(monkeypatch, no_loop, what):
    monkeypatch.setattr(kernels, "_said", set())
    monkeypatch.setattr(MixedMemory, "integrate", no_loop)
    layer, calls = build(), []
    arguments = given(layer)
    expected = layer(**arguments)[0]
    layer.get_submodule(what).register_forward_hook(lambda *_: calls.append(what))
    with pytest.warns(kernels.ReferenceFormWarning, match="a module of a mixed memory has hooks"):
        y, _ = layer(**arguments)
    assert calls
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "cell",
    [
        lambda: Leaky(INPUTS, 4),
        lambda: GRU(INPUTS, 4),
        lambda: LiquidScan(INPUTS, 4),
        lambda: ClosedFormLTC(INPUTS, 4),
        lambda: LTC(INPUTS, 4, ode_unfolds=30, solver="explicit"),
    ],
    ids=["leaky", "gru", "scan", "closed form", "explicit solver"],
)
def test_layers_without_such_a_kernel_run_in_the_loop(monkeypatch, no_loop, cell):
    calls = []
    monkeypatch.setattr(MixedMemory, "integrate", lambda *given: calls.append(given) or no_loop(*given))
    layer = MixedMemory(cell())
    assert layer(torch.randn(2, 3, INPUTS))[0].isfinite().all() and calls


@pytest.mark.parametrize("name", ["cfc", "cfc-deep", "ltc"])
def test_an_empty_batch_has_gradients_of_zero(name):
    layer = build(name)
    found = outcome(layer, {"x": torch.zeros(0, 3, INPUTS, dtype=torch.float64)})
    assert found["outputs"].shape[:2] == (0, 3)
    assert not any(found[key].any() for key, _ in layer.named_parameters())
