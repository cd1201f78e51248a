"""What torch's own tools do to a module, done to every layer of the package."""

import contextlib
import copy
import pickle
import re
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.functional import jacobian
from torch.func import functional_call, grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

from liquid_control import kernels
from liquid_control.nn import LTC, CfC, parameters

from tests.nn.test_contract import BATCH, CASES, INPUTS, NCP, STEPS, close  # isort: skip

WIRED = [name for name in CASES if "ncp" in name or "full" in name or name.startswith(("plastic", "mixed-memory-ltc"))]


@pytest.fixture(params=CASES)
def make(request):
    """Makes the layer, of other weights each time."""
    torch.manual_seed(1)
    return lambda: CASES[request.param]().double()


@pytest.fixture
def given(make):
    torch.manual_seed(2)
    x = torch.randn(BATCH, STEPS, INPUTS, dtype=torch.float64)
    elapsed = torch.rand(BATCH, STEPS, dtype=torch.float64) * 2
    mask = torch.ones(BATCH, STEPS, dtype=torch.bool)
    mask[1, 3] = mask[2, 5] = False
    return {"x": x, "elapsed": elapsed, "mask": mask}


def in_reference_form(layer, **given):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIQUID_CONTROL_KERNELS", "reference")
        return layer(**given)


@contextlib.contextmanager
def right_or(error, message):
    """What happens within holds, or is the one error."""
    try:
        yield
    except error as given:
        if not re.search(message, str(given)):
            raise


# What is inside a layer may be exchanged


def test_exchanged_modules_act_after_a_call_too(make, given):
    layer, donor = make(), make()
    before = layer(**given)
    for name, child in donor.named_children():
        setattr(layer, name, child)
    for name, parameter in donor.named_parameters(recurse=False):
        setattr(layer, name, parameter)
    after = layer(**given)
    assert not torch.equal(after[0], before[0])
    close(after, donor(**given))


def test_exchanged_parts_of_modules_act_after_a_call_too(make, given):
    layer, donor = make(), make()
    layer(**given)
    modules = dict(layer.named_modules())
    for name, module in donor.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            setattr(modules[name], own, nn.Parameter(parameter.detach().clone()))
    close(layer(**given), donor(**given))


@pytest.mark.parametrize("name", WIRED)
def test_a_lesion_acts_after_a_call_too(name):
    torch.manual_seed(1)
    layer = CASES[name]().double()
    x = torch.randn(BATCH, STEPS, INPUTS, dtype=torch.float64)
    untouched = layer(x)[0]
    masks = [mask for own, mask in layer.named_buffers() if own.endswith("connected") or own.endswith("sparsity_mask")]
    for mask in masks:
        kept = mask.clone()
        with torch.no_grad():
            mask[: max(1, len(mask) // 2)] = 0
        lesioned = layer(x)[0]
        close(in_reference_form(layer, x=x)[0], lesioned)
        with torch.no_grad():
            mask.copy_(kept)
        close(layer(x)[0], untouched)
        layer_changed = not torch.allclose(lesioned, untouched)
        assert layer_changed or not kept[: max(1, len(mask) // 2)].any() or name.startswith("plastic"), name
    assert masks


@pytest.mark.parametrize("kind", [CfC, LTC])
@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_lesion_of_a_layer_that_was_called_goes_into_its_copies(kind, copied_by):
    torch.manual_seed(1)
    layer, x = kind(INPUTS, NCP), torch.randn(BATCH, STEPS, INPUTS)
    layer.load_state_dict(layer.state_dict())  # writes to the masks once, as copying does
    layer(x)
    (layer.rnn_cell["layer_0"] if kind is CfC else layer.rnn_cell).sparsity_mask[:4] = 0
    copied = copied_by(layer)(x)[0]
    step = layer.compile_step()
    stepped = torch.stack([torch.from_numpy(step(each)) for each in x[0].numpy()])
    torch.testing.assert_close(copied, layer(x)[0])
    torch.testing.assert_close(stepped, copied[0])


def test_a_mask_that_scales_is_refused():
    for layer, mask in ((cfc := CfC(INPUTS, NCP), cfc.rnn_cell["layer_0"]), (ltc := LTC(INPUTS, NCP), ltc.rnn_cell)):
        mask.sparsity_mask[0, 0] = 0.5
        with pytest.raises(ValueError, match="a mask of a wiring holds 1 where there is a synapse and 0 elsewhere"):
            layer(torch.zeros(1, 2, INPUTS))


# Weights that torch computes from others


def test_every_parameter_can_be_pruned_and_trained(make, given):
    layer, plain = make(), make()
    plain.load_state_dict(layer.state_dict())
    masks = {}
    for (name, module), other in zip(layer.named_modules(), plain.modules(), strict=True):
        for own, parameter in list(module.named_parameters(recurse=False)):
            if own == "cm":
                continue  # a capacitance of zero is no neuron
            prune.random_unstructured(module, own, 0.4)
            masks[f"{name}.{own}".removeprefix(".")] = getattr(module, f"{own}_mask")
            with torch.no_grad():
                getattr(other, own).mul_(getattr(module, f"{own}_mask"))
            assert parameter.requires_grad
    for _ in range(2):
        both = []
        for one in (layer, plain):
            one.zero_grad()
            y, state = one(**given)
            (y.square().sum() + state.sin().sum()).backward()
            both.append((y, state))
        close(*both)
        with torch.no_grad():
            for name, ours in layer.named_parameters():
                theirs = plain.get_parameter(name.removesuffix("_orig"))
                if theirs.grad is not None:
                    mask = masks.get(name.removesuffix("_orig"), 1)
                    close(ours.grad, theirs.grad * mask)
                    ours -= 0.1 * ours.grad
                    theirs -= 0.1 * theirs.grad * mask
    close(layer.step(given["x"][:, 0]), plain.step(given["x"][:, 0]))


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_normed_weights_are_the_ones_used(norm, make, given):
    layer = make()
    for module in list(layer.modules()):
        if isinstance(module, nn.Linear):
            norm(module)
    layer.eval()
    y, _ = layer(**given)
    y.sum().backward()
    with torch.no_grad():
        for module in layer.modules():
            for name in ("weight_g", "parametrizations.weight.original0", "parametrizations.weight.original"):
                try:
                    module.get_parameter(name).mul_(0.5)
                except AttributeError:
                    continue
    after, _ = layer(**given)
    close(in_reference_form(layer, **given)[0], after)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_quantised_linear_maps_work_or_are_one_error(make):
    layer = make().float().eval()
    quantised = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear, nn.LSTM, nn.GRU})
    with right_or(TypeError, "cannot compute with quantised ones"):
        assert quantised(torch.zeros(BATCH, STEPS, INPUTS))[0].shape == (BATCH, STEPS, layer.output_size)


# Hooks


def test_hooks_run_or_a_warning_says_that_they_do_not(make, given):
    layer = make()
    expected = layer(**given)
    heard, hooked = set(), {}
    for name, module in layer.named_modules():
        if type(module).forward is not nn.Module.forward and not isinstance(module, nn.Identity):
            hooked[name] = type(module).__name__
            module.register_forward_hook(lambda *_, name=name: heard.add(name))
    parameters._said.clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        close(layer(**given), expected)
    told = {str(warning.message).split()[4] for warning in said if str(warning.message).startswith("a hook of a ")}
    silent = {name for name, kind in hooked.items() if name not in heard and kind not in told}
    assert not {name for name in silent if "synapses" not in name}


# Replicas of torch.nn.DataParallel


def replicate(module, factor):
    """What `torch.nn.parallel.replicate` does, with one copy on the CPU: parameters become tensors of the replica."""
    modules = list(module.modules())
    copies = {original: original._replicate_for_data_parallel() for original in modules}
    for original, replica in copies.items():
        replica._former_parameters = {}
        for name, child in original._modules.items():
            replica._modules[name] = None if child is None else copies[child]
        for name, parameter in original._parameters.items():
            replica._parameters[name] = None
            if parameter is not None:
                del replica._parameters[name]
                replica._former_parameters[name] = parameter * factor
                setattr(replica, name, replica._former_parameters[name])
        for name, buffer in original._buffers.items():
            replica._buffers[name] = None if buffer is None else buffer.clone()
    return copies[module]


@pytest.mark.parametrize("called", [False, True])
def test_a_replica_computes_with_its_own_parameters(called, make, given):
    layer = make()
    wanted = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in wanted.parameters():
            parameter.mul_(1.5)
    if called:
        layer(**given)
    replica = replicate(layer, 1.5)
    close(replica(**given), wanted(**given))
    close(replica(**given, state=layer.initial_state(BATCH)), wanted(**given, state=layer.initial_state(BATCH)))


# Transforms and derivatives


def test_vmap_over_everything_equals_a_loop(make, given):
    layer = make()

    def outputs(x, elapsed, mask):
        return layer(x[None], elapsed=elapsed[None], mask=mask[None])

    batched = vmap(outputs)(*given.values())
    close(tuple(part[:, 0] for part in batched), layer(**given))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_gradients_of_single_samples_are_those_of_a_loop(make, given):
    layer = make()
    weights = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(weights, x, elapsed):
        y, state = functional_call(layer, weights, (x[None],), {"elapsed": elapsed[None]})
        return y.square().sum() + state.sin().sum()

    of_samples = vmap(grad(loss), in_dims=(None, 0, 0))(weights, given["x"], given["elapsed"])
    for row in range(BATCH):
        y, state = layer(given["x"][row : row + 1], elapsed=given["elapsed"][row : row + 1])
        leaves = torch.autograd.grad(
            y.square().sum() + state.sin().sum(), list(layer.parameters()), allow_unused=True, materialize_grads=True
        )
        close([of_samples[name][row] for name in weights], list(leaves))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_equals_reverse_mode(make, given):
    layer = make()
    direction = torch.randn_like(given["x"])
    _, tangent = jvp(lambda x: layer(x, elapsed=given["elapsed"])[0], (given["x"],), (direction,))
    full = jacobian(lambda x: layer(x, elapsed=given["elapsed"])[0], given["x"])
    close(tangent, torch.tensordot(full, direction, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_vectorised_jacobians_are_right_or_one_error(strategy, make, given):
    layer = make()
    x = given["x"][:1, :3]
    wanted = jacobian(lambda x: layer(x)[0], x)
    with right_or(RuntimeError, r"has no vectorised derivatives.*LIQUID_CONTROL_KERNELS=reference"):
        close(jacobian(lambda x: layer(x)[0], x, vectorize=True, strategy=strategy), wanted)


# Tracers

OPERATORS = {
    "cfc": "cfc",
    "cfc-dense": "cfc_dense",
    "ltc-full": "ltc",
    "ltc-ncp": "ltc",
    "scan": "liquid_scan",
    "mixed-memory-cfc": "cfc_dense_with_memory",
    "mixed-memory-ltc": "ltc_with_memory",
    "stack": "cfc_dense",
    "hybrid": "liquid_scan",
    "residual": "cfc_dense",
    "residual-stack": "liquid_scan",
}
"""The operators of layers, by the longest of these that their name begins with."""
IN_PLAIN_TORCH = ("ltc-ncp-euler", "ltc-ncp-rk4", "hybrid-untimed")
"""Solvers that no kernel has, and a core of torch's own."""


def operator_of(case):
    """The operator that a layer of the table is in a graph, or None."""
    begins = [name for name in OPERATORS if case.startswith(name)]
    return OPERATORS[max(begins, key=len)] if begins and case not in IN_PLAIN_TORCH else None


def operators(graph):
    return {str(node.target).split(".")[1] for node in graph.graph.nodes if "liquid_control" in str(node.target)}


FORWARD_ALONE = (
    "ltc-ncp-euler", "ltc-closed-form-full", "leaky-full", "plastic-delta", "plastic-oja-inputs", "fast-weights-delta",
    "fast-weights-hebb-readout", "fast-weights-oja-present", "lan-mlp", "lan-affine-euler", "lan-euler-delta_t",
    "lan-steady", "lstm", "gru", "mlp", "mlp-present", "window-attention", "window-attention-one-head",
)  # fmt: skip
"""Layers in plain torch of which another of their kind has its backward pass traced. That of these is torch's own."""


# The backend "aot_eager" traces forward and backward pass as "inductor" does, but has nothing to compile for a minute;
# "eager" traces the forward pass alone, in a third of the time. Two steps make short graphs.
@pytest.mark.parametrize("case", CASES)
def test_a_compiled_layer_has_one_graph_and_equals_the_layer(case):
    torch.manual_seed(1)
    layer, graphs = CASES[case]().double(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("eager" if case in FORWARD_ALONE else "aot_eager")(graph, inputs)

    arguments = {
        "x": torch.randn(BATCH, 2, INPUTS, dtype=torch.float64).requires_grad_(),
        "state": torch.randn(BATCH, layer.state_size, dtype=torch.float64).requires_grad_(),
        "elapsed": torch.tensor([[0.5, 1], [0, 2], [0.3, 0.4]], dtype=torch.float64).requires_grad_(),
        "mask": torch.tensor([[False, True], [True, True], [True, False]]),
    }
    leaves = [*(value for value in arguments.values() if value.requires_grad), *layer.parameters()]
    found = []
    torch._dynamo.reset()
    for run in (torch.compile(layer, backend=backend, fullgraph=True), layer):
        y, state = run(**arguments)
        loss = y.square().sum() + state.sin().sum()
        found.append([y, state, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)])
    close(*found)
    assert len(graphs) == 1
    assert operators(graphs[0]) == ({operator_of(case)} - {None})


def test_make_fx_gives_a_graph_that_computes_the_same(make, given):
    layer = make()
    x, elapsed = given["x"][:, :2], given["elapsed"][:, :2]
    graph = make_fx(lambda x, elapsed: layer(x, elapsed=elapsed))(x, elapsed)
    x, elapsed = x.flip(0), elapsed.flip(0)
    close(graph(x, elapsed), layer(x, elapsed=elapsed))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_jit_trace_gives_a_program_that_computes_the_same(make, given):
    layer = make()
    state = layer.initial_state(BATCH).detach()
    x, elapsed = given["x"][:, :2], given["elapsed"][:, :2]
    program = torch.jit.trace(layer, (x, state, elapsed))
    x, elapsed = x.flip(0), elapsed.flip(0)
    close(program(x, state, elapsed), layer(x, state, elapsed))


def test_tensors_without_values_have_shapes(make, given):
    layer = make().requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {name: mode.from_tensor(value) for name, value in given.items()}
        y, state = layer(**fake)
    assert y.shape == (BATCH, STEPS, layer.output_size)
    assert layer(fake["x"][:, :2], state)[1].shape == (BATCH, layer.state_size)  # outside of the mode, too


class Counter(TorchDispatchMode):
    """Counts operations, as torch's counter of floating point operations does."""

    operations = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.operations += 1
        return operation(*args, **(kwargs or {}))


def test_operations_can_be_counted(make, given):
    layer = make()
    with Counter() as counter:
        outputs = layer(**given)
    assert counter.operations > 10
    close(outputs, layer(**given))


class Labelled(torch.Tensor):
    """A tensor of a kind of its own."""


def test_a_subclass_of_tensors_is_computed_by_torch(make, given):
    layer = make()
    y, _ = layer(given["x"].as_subclass(Labelled), elapsed=given["elapsed"])
    assert isinstance(y, Labelled)
    close(y.as_subclass(torch.Tensor), layer(given["x"], elapsed=given["elapsed"])[0])


# The meta device


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("built_there", [True, False])
def test_a_layer_comes_back_from_the_meta_device(built_there, assign, make, given):
    trained = make()
    if built_there:
        with torch.device("meta"):
            layer = make()
    else:
        layer = make().to("meta")
    assert layer.parameter_count() == trained.parameter_count()
    if not assign:
        layer = layer.to_empty(device="cpu")
    layer.load_state_dict(trained.state_dict(), assign=assign)
    close(layer(**given), trained(**given))


def test_the_warning_of_a_slow_form_points_at_the_line_of_the_user(monkeypatch):
    monkeypatch.setattr(kernels, "_said", set())
    layer = LTC(INPUTS, 4, solver="rk4", ode_unfolds=20)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        layer(torch.zeros(1, 2, INPUTS))
    assert [warning.filename for warning in said] == [__file__]
