"""The kernels of whole sequences as operators of torch: what tracers keep, and that it stays equal to the layer."""

import io

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from liquid_control import kernels
from liquid_control.kernels import cfc, cfc_dense, lan, ltc
from liquid_control.nn import LTC, CfC, Wiring
from liquid_control.nn.liquid_attention import LiquidAttention

INPUTS, BATCH, STEPS = 5, 3, 4
NCP = Wiring.ncp(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
LAYERS = {
    "cfc": lambda: CfC(INPUTS, NCP),
    "cfc-pure": lambda: CfC(INPUTS, NCP, mode="pure"),
    "cfc_dense": lambda: CfC(INPUTS, 7, backbone_units=9),
    "cfc_dense-deep": lambda: CfC(INPUTS, 7, backbone_units=9, backbone_layers=2, activation="silu"),
    "ltc": lambda: LTC(INPUTS, NCP),
    "ltc-explicit": lambda: LTC(INPUTS, 4, ode_unfolds=2, implicit_param_constraints=False, output_mapping=None),
}


@pytest.fixture(params=LAYERS)
def case(request):
    return request.param


@pytest.fixture
def layer(case):
    torch.manual_seed(1)
    return LAYERS[case]().double()


@pytest.fixture
def operator(case):
    return f"liquid_control.{case.partition('-')[0]}.default"


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def given(batch=BATCH, steps=STEPS):
    torch.manual_seed(2)
    elapsed = torch.rand(batch, steps, dtype=torch.float64) * 2
    elapsed[0, 1] = 0
    mask = torch.ones(batch, steps, dtype=torch.bool)
    mask[1, 2:] = False
    return {"x": torch.randn(batch, steps, INPUTS, dtype=torch.float64), "elapsed": elapsed, "mask": mask}


def names(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


# As torch asks


def arguments_of(case, layer, time, keep):
    """Of the operator of a kernel, where all tensors of numbers want gradients if it is to keep what these need."""
    x, times, mask = given().values()
    numbers = [x, torch.randn(BATCH, layer.state_size).double(), *([times] if time is None else [])]
    x, state, *times = (number.requires_grad_(keep) for number in numbers)
    layer.requires_grad_(keep)
    parameters = layer._head_parameters() if case.startswith("cfc") else layer._all_parameters()
    text, masks = (layer._dense_options, []) if case.startswith("cfc_dense") else layer._description()
    return x, state, times[0] if times else None, time, mask, parameters, masks, text, keep, None


ASKED = ("test_schema", "test_autograd_registration", "test_faketensor")
"""Not that all outputs are the same under `torch.compile`: what is kept has gaps that hold anything."""


@pytest.mark.parametrize("time", [None, 0.7])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("case", ["cfc", "cfc-pure", "cfc_dense-deep", "ltc"])
def test_an_operator_is_registered_as_torch_asks(case, layer, time, keep):
    operator = {"cfc": cfc, "cfc_dense": cfc_dense, "ltc": ltc}[case.partition("-")[0]].integrate.operator
    torch.library.opcheck(operator, arguments_of(case, layer, time, keep), test_utils=ASKED)


@pytest.mark.parametrize("case", ["cfc_dense-deep"])
def test_an_operator_that_drops_units_is_registered_as_torch_asks(case, layer):
    arguments = *arguments_of(case, layer, None, True)[:-1], layer._draw_bits(BATCH, STEPS, torch.device("cpu"))
    torch.library.opcheck(cfc_dense.integrate.operator, arguments, test_utils=ASKED)


def test_the_operator_of_attention_is_registered_as_torch_asks(monkeypatch):
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(lan, "is_traced", lambda: True)
        patch.setattr(lan, "_operator", lambda *arguments: calls.append(arguments) or torch.zeros(2, 3, 7, 4))
        LiquidAttention(12, 3).requires_grad_(False)(torch.randn(2, 7, 12), times=torch.arange(7.0), causal=True)
    torch.library.opcheck(lan._operator, *calls)


# What tracers keep


@pytest.mark.parametrize("elapsed", [0.5, 0.0])
def test_a_compiled_layer_of_one_elapsed_time_equals_the_layer_to_the_bit(layer, elapsed):
    x = given()["x"]
    found = []
    for run in (torch.compile(layer, backend="aot_eager", fullgraph=True), layer):
        y, state = run(x, elapsed=elapsed)
        found.append([y, state, *torch.autograd.grad(y.sin().sum() + state.sum(), list(layer.parameters()))])
    same(*found)


def test_a_compiled_layer_drops_the_same_units_from_the_same_seed():
    torch.manual_seed(1)
    layer = CfC(INPUTS, 7, backbone_units=9, backbone_layers=2, backbone_dropout=0.3).double()
    found = []
    for run in (torch.compile(layer, backend="aot_eager", fullgraph=True), layer):
        x = given()["x"]  # after which the generator is where it was
        y, state = run(x)
        found.append([y, state, *torch.autograd.grad(y.sin().sum() + state.sum(), list(layer.parameters()))])
    same(*found)


def test_a_compiled_layer_takes_other_numbers_of_elapsed_time(layer):
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for elapsed in (0.5, 0.7, 1.1):
        same(compiled(given()["x"], elapsed=elapsed), layer(given()["x"], elapsed=elapsed))


def test_a_compiled_layer_takes_other_sizes(layer):
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch, steps in ((3, 4), (18, 7), (2, 9)):
        arguments = given(batch, steps)
        found = []
        for run in (compiled, layer):
            y, state = run(**arguments)
            found.append([y, state, *torch.autograd.grad(y.sin().sum() + state.sum(), list(layer.parameters()))])
        same(*found)


def test_a_mask_of_the_wiring_that_is_edited_acts_in_a_compiled_layer(layer):
    masks = [mask for name, mask in layer.named_buffers() if name.endswith("sparsity_mask")]
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = given()["x"]
    before = compiled(x)
    for mask in masks:
        mask[: len(mask) // 2] = 0
    after = compiled(x)
    assert not masks or not torch.equal(before[0], after[0])
    same(after, layer(x))
    if masks:
        masks[0][0, 0] = 0.5
        with pytest.raises(ValueError, match="a mask of a wiring holds 1 where there is a synapse and 0 elsewhere"):
            compiled(x)


def test_make_fx_keeps_the_operator_and_its_backward_pass(layer, operator):
    def gradients(x, elapsed, mask):
        y, state = layer(x, elapsed=elapsed, mask=mask)
        return torch.autograd.grad(y.sum() + state.sum(), list(layer.parameters()))

    arguments = tuple(given().values())
    graph = make_fx(gradients)(*arguments)
    assert {operator, operator.replace(".default", "_backward.default")} <= set(names(graph))
    same(graph(*arguments), gradients(*arguments))


def test_tensors_without_values_go_through_the_operator(layer, monkeypatch):
    monkeypatch.setattr(type(layer), "integrate", None)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y, state = layer(**{name: mode.from_tensor(value) for name, value in given().items()})
    assert (y.shape, state.shape) == ((BATCH, STEPS, layer.output_size), (BATCH, layer.state_size))
    assert y.requires_grad


@pytest.mark.filterwarnings("ignore:No complete tensor found in the group:UserWarning")  # a mask that lies transposed
def test_an_exported_layer_is_saved_with_the_operator_and_takes_other_lengths(layer, operator):
    sizes = {0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("time", min=3, max=4096)}
    with torch.no_grad():
        program = torch.export.export(layer, (given()["x"],), dynamic_shapes={"x": sizes})
        assert operator in names(program)
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        x = given(6, 50)["x"]
        same(torch.export.load(file).module()(x), layer(x))


def test_an_exported_layer_learns(layer):
    program = torch.export.export(layer, (given()["x"],)).module()
    outcomes = []
    for run in (program, layer):
        y, state = run(given()["x"])
        loss = y.sin().sum() + state.sum()
        outcomes.append(torch.autograd.grad(loss, [run.get_parameter(name) for name, _ in layer.named_parameters()]))
    same(*outcomes)


def test_gradients_of_a_graph_that_was_traced_without_them_are_one_error():
    layer = LAYERS["cfc"]().double()
    with torch.no_grad():
        program = torch.export.export(layer, (given()["x"],)).module()
    with pytest.raises(RuntimeError, match="the CfC was traced where no gradients were wanted"):
        program(given()["x"])[0].sum().backward()


@pytest.mark.parametrize("options", [{}, {"gate": "bilinear", "pseudo_time": "log"}, {"mode": "steady"}])
def test_attention_without_gradients_stays_one_operation(options):
    torch.manual_seed(0)
    attention = LiquidAttention(12, 3, **options).double().requires_grad_(False)
    x, times = torch.randn(2, 21, 12).double(), torch.rand(2, 21).double().cumsum(1)
    expected = attention(x, times=times, causal=True)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, times=times, causal=True), expected)
    graph = make_fx(lambda x, times: attention(x, times=times, causal=True))(x, times)
    assert "liquid_control.liquid_attention.default" in names(graph)
    assert torch.equal(graph(x, times), expected)


# Where the reference form runs


@pytest.mark.parametrize("case", ["cfc", "cfc_dense"])
def test_floating_point_operations_are_counted_in_the_reference_form(layer):
    with FlopCounterMode(display=False) as counter:
        outputs = layer(**given())
    assert counter.get_total_flops() > 0
    torch.testing.assert_close(outputs, layer(**given()), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("case", ["cfc", "ltc"])
def test_transforms_within_a_compiled_function_run_in_plain_torch(layer):
    x = given()["x"]
    of_each = torch.compile(lambda x: torch.vmap(lambda row: layer(row[None])[0][0])(x), backend="eager")
    torch.testing.assert_close(of_each(x), layer(x)[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("case", ["cfc", "ltc"])
def test_the_reference_form_is_what_is_traced_if_it_is_chosen(layer, monkeypatch):
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", "reference")
    graph = make_fx(lambda x: layer(x))(given()["x"])
    assert not any(name.startswith("liquid_control.") for name in names(graph))


@pytest.mark.parametrize("case", ["cfc", "ltc"])
def test_an_onnx_model_is_of_plain_torch_because_it_runs_where_the_operator_is_not(layer, monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    assert not kernels.is_operable(given()["x"])
    graph = make_fx(lambda x: layer(x))(given()["x"])
    assert not any(name.startswith("liquid_control.") for name in names(graph))
