"""What an audit measures, against values that are known."""

import copy
import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from envs.registration import STAND_IN, UDACITY
from liquid_control.nn import LTC, CfC, Wiring
from liquid_control.report.audit import build_audit
from liquid_control.report.audit_lap import track_curvature
from liquid_control.report.audit_lesions import connections, names_of, steering_changes, without
from liquid_control.report.audit_measures import (
    add_noise,
    neuron_activity,
    pearson,
    principal_shares,
    spearman,
    ssim,
    state_norms,
    time_constants,
)
from liquid_control.report.audit_page import write_page
from liquid_control.support.errors import UserError
from policies.driver import Driver, DriverConfig
from policies.registry import CORES

SMALL = {name: {"neurons": 11} for name in CORES} | {"lan": {"units": 4}, "hybrid": {"units": 8, "neurons": 4}}
"""Options of cores that are soon looked into."""


def driver_of(policy, env="CarRacing-v3"):
    torch.manual_seed(0)
    return Driver(DriverConfig(env, policy, SMALL[policy], features=4)).eval()


# ---- structural similarity ----


def slow_ssim(x, y):
    """Equation 13 of the paper, window by window."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (picture[top : top + 11, left : left + 11] for picture in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 1e-4)
                * (2 * both + 9e-4)
                / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
            )
    return np.mean(values)


def test_ssim_is_that_of_the_slow_form():
    rng = np.random.default_rng(0)
    x = rng.random((28, 32))
    for y in (rng.random((28, 32)), np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1), 1 - x):
        assert ssim(x, y) == pytest.approx(slow_ssim(x, y), abs=1e-9)
    assert ssim(x, x) == pytest.approx(1)


def test_ssim_of_even_pictures_is_what_their_means_make_it():
    one, other = np.full((12, 15), 0.2), np.full((12, 15), 0.8)
    assert ssim(one, other) == pytest.approx((2 * 0.16 + 1e-4) / (0.04 + 0.64 + 1e-4))


def test_ssim_refuses_pictures_that_the_window_does_not_fit():
    with pytest.raises(ValueError, match="at least 11"):
        ssim(np.zeros((10, 20)), np.zeros((10, 20)))


def test_noise_has_its_variance_in_pictures_scaled_to_one():
    noisy = add_noise(np.full((400, 400), 128, np.uint8), 0.01, np.random.default_rng(0))
    assert (noisy / 255).var() == pytest.approx(0.01, rel=0.03)


# ---- neurons ----


def test_correlations_are_exact_where_they_are_known():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1)
    assert pearson(np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])) == pytest.approx(0)
    assert spearman(x, np.exp(5 * x)) == pytest.approx(1)
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    assert spearman(np.array([0.0, 7, 7, 9]), x) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(pearson(x, np.ones(4)))


def test_principal_shares_are_those_of_a_known_matrix():
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    turned = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    activity = np.stack([3 * np.cos(angle), np.sin(angle), 0 * angle], 1) @ turned + 5
    np.testing.assert_allclose(principal_shares(activity), [0.9, 0.1, 0], atol=1e-12)
    assert principal_shares(np.ones((5, 3))).sum() == 0


def test_the_norm_of_a_linear_map_is_its_largest_singular_value():
    torch.manual_seed(0)
    weight = torch.randn(5, 5, dtype=torch.float64)
    linear = SimpleNamespace(
        initial_state=lambda batch: torch.zeros(batch, 5, dtype=torch.float64),
        step=lambda x, state, elapsed: (x, state @ (elapsed[:, None] * weight).T + x.sum()),
    )
    norms = state_norms(linear, np.zeros((3, 2)), np.zeros((3, 5)), np.array([1.0, 1.0, 2.0]))
    largest = np.linalg.svd(weight.numpy())[1][0]
    np.testing.assert_allclose(norms, [largest, largest, 2 * largest])


@pytest.mark.parametrize("policy", ["cfc", "ltc", "plastic", "lstm"])
def test_the_norm_of_a_core_is_what_differences_of_states_become(policy):
    core = driver_of(policy).core.double()
    rng = np.random.default_rng(0)
    x, state = torch.from_numpy(rng.normal(size=(1, core.input_size))), torch.zeros(1, core.state_size).double()
    state = core.step(x, state)[1].detach()
    (norm,) = state_norms(core, x.numpy(), state.numpy(), np.ones(1))
    columns = []
    with torch.no_grad():
        for push in 1e-6 * torch.eye(core.state_size, dtype=torch.float64):
            columns.append((core.step(x, state + push)[1] - core.step(x, state - push)[1])[0] / 2e-6)
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(torch.stack(columns), 2)), rel=1e-5)


def test_the_pace_of_a_cfc_is_what_its_heads_say():
    torch.manual_seed(0)
    layer = CfC(6, Wiring.auto(units=9, outputs=2))
    x, state = torch.randn(3, 6), torch.randn(3, layer.state_size)
    said = []
    for cell in layer.cells:
        cell.time_a.register_forward_hook(lambda module, given, output: said.append(output.detach()))
    after = layer.step(x, state)[1]
    for row, name in enumerate(("first", "second", "third")):
        pace = time_constants(layer, x[row : row + 1].numpy(), torch.stack([state[row], after[row].detach()]).numpy())
        expected = 1 / torch.cat([head[row] for head in said]).abs()
        np.testing.assert_allclose([tau[0] for tau in pace.neurons.values()], expected, rtol=1e-4, err_msg=name)
    assert "a(z)" in pace.formula


def test_the_time_constants_of_an_ltc_are_its_own():
    layer = LTC(6, Wiring.auto(units=9, outputs=2))
    inputs, states = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)[0], np.zeros((5, 9), np.float32)
    pace = time_constants(layer, inputs, states)
    own = layer.time_constants(torch.from_numpy(inputs), torch.zeros(4, 9))
    np.testing.assert_allclose(pace.neurons["motor 1"], own[:, 1].detach(), rtol=1e-6)
    assert "Theorem 1" in pace.formula


def test_the_neurons_of_an_mlp_are_its_hidden_layer():
    core = driver_of("mlp").core
    inputs = np.random.default_rng(0).normal(size=(6, core.input_size)).astype(np.float32)
    states, outputs = [np.zeros(core.state_size, np.float32)], []
    with torch.no_grad():
        for x in torch.from_numpy(inputs):
            y, state = core.step(x[None], torch.from_numpy(states[-1])[None])
            states.append(state[0].numpy())
            outputs.append(y[0])
    hidden = torch.from_numpy(np.stack(list(neuron_activity(core, inputs, np.stack(states)).values()), 1))
    torch.testing.assert_close(core.readout(hidden).detach(), torch.stack(outputs))


def test_the_curvature_of_a_circle_is_one_over_its_radius():
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    left = np.stack([angle, 50 * np.cos(angle), 50 * np.sin(angle)], 1)  # heading 0 is along y
    curvature, spacing = track_curvature(left)
    np.testing.assert_allclose(curvature, -1 / 50, rtol=1e-3)
    assert spacing == pytest.approx(2 * np.pi * 50 / 90, rel=1e-3)


# ---- lesions ----


def lap_of(driver, steps=12):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(steps, driver.core.input_size)).astype(np.float32)
    return SimpleNamespace(inputs=inputs, elapsed=np.ones(steps))


@pytest.mark.parametrize("policy", [name for name in CORES if name not in ("lan", "hybrid", "mlp")])
def test_a_synapse_that_is_cut_carries_nothing(policy):
    core = driver_of(policy).core.double()
    if policy in ("ltc", "leaky"):
        core.ode_unfolds = 1  # else there is a way round within a step
    torch.manual_seed(0)
    x, state = torch.randn(1, core.input_size).double(), torch.randn(1, core.state_size).double()
    if policy == "plastic":
        state[:, core.cfc.state_size :] = 0  # no trace

    def after(source, push):
        given, before = x.clone(), state.clone()
        (given if source < 0 else before)[0, -1 - source if source < 0 else source] += push
        return core.step(given, before)[1][0]

    group = {place: name for name, places in core.parts.items() for place in places}
    found = connections(core)
    assert len({(each.source, each.target) for each in found}) == len(found)
    # From another group a neuron is driven within the step, by what that group has just become. And a neuron's own
    # state may stay without a synapse.
    direct = [
        each
        for each in found
        if each.source < 0 or (each.source != each.target and group[each.source] == group[each.target])
    ]
    with torch.no_grad():
        for each in direct[:: max(1, len(direct) // 12)]:
            intact = after(each.source, 0.5)
            with without(core, each):
                assert after(each.source, 0.5)[each.target] == after(each.source, 0.0)[each.target]
            assert torch.equal(after(each.source, 0.5), intact)
            assert intact[each.target] != after(each.source, 0.0)[each.target]


def test_an_mlp_without_any_synapse_sees_nothing():
    core = driver_of("mlp").core
    for each in connections(core):
        for name, index in each.places:
            with torch.no_grad():
                dict(core.named_parameters())[name][index] = 0
    assert not core.hidden.weight.any()


@pytest.mark.parametrize("policy", ["cfc", "plastic", "gru"])
def test_a_synapse_that_does_nothing_costs_nothing(policy):
    driver = driver_of(policy)
    found = connections(driver.core)
    # The trace of a plastic synapse does something, too: its gain is of the neuron.
    if policy == "plastic":
        with torch.no_grad():
            driver.core.alpha.zero_()
    before = copy.deepcopy(driver.state_dict())
    changes = list(steering_changes(driver, lap_of(driver), found))
    assert max(changes) > 1e-4
    with torch.no_grad():
        for name, index in found[3].places:
            dict(driver.core.named_parameters())[name][index] = 0
    assert list(steering_changes(driver, lap_of(driver), [found[3]])) == [0.0]
    after = driver.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == list(
        dict.fromkeys(f"core.{name}" for name, _ in found[3].places)
    )


def test_the_trace_of_a_plastic_synapse_that_is_cut_stays_empty():
    driver = driver_of("plastic")
    of_pair = dict(zip(driver.core.synapses, driver.core.parts["trace"], strict=True))
    for each in connections(driver.core):
        assert each.held == ((of_pair[each.source, each.target],) if each.source >= 0 else ())
    with torch.no_grad():
        driver.core.alpha.fill_(3.0)
    recurrent = next(each for each in connections(driver.core) if each.held)
    alive = dataclasses.replace(recurrent, held=())
    cut, weights_only = steering_changes(driver, lap_of(driver), [recurrent, alive])
    assert cut != weights_only


def test_a_lesion_of_a_wired_ltc_is_an_edit_of_its_mask():
    driver = driver_of("ltc")
    lap, found = lap_of(driver), connections(driver.core)
    changes = list(steering_changes(driver, lap, found))
    place = int(np.argmax(changes))
    intact, hurt = driver.core.compile_step(), copy.deepcopy(driver.core)
    with torch.no_grad():
        for name, index in found[place].places:
            dict(hurt.named_buffers())[name][index] = 0
    hurt = hurt.compile_step()
    gain = driver.hands.gain[0].item()
    steering = [gain * (hurt(x)[0] - intact(x)[0]) for x in lap.inputs]
    assert changes[place] == pytest.approx(np.sqrt(np.mean(np.square(steering))), rel=1e-4)


def test_synapses_are_called_by_what_they_join():
    driver = driver_of("cfc")
    name, last = names_of(driver), connections(driver.core)[-1]
    assert name(-1) == "feature 0" and name(-5) == "speed"
    assert name(last.target).startswith("motor")


# ---- every core ----


@pytest.mark.parametrize("policy", CORES)
def test_every_core_is_audited_or_told_why_not(policy):
    audit = build_audit(driver_of(policy), policy, seed=0, frames=6, costliest=0)
    numbers, page = json.loads(audit.to_json()), write_page(audit)
    assert len(audit.lap) == numbers["lap"]["decisions"] == 6
    assert [each["frames"] for each in numbers["saliency_under_noise"]] == [6, 6, 6]
    assert all(-1 <= each["ssim"] <= 1 for each in numbers["saliency_under_noise"])
    assert list(numbers["correlations"]["neurons"]) == list(audit.neurons)
    assert sum(numbers["principal_components"]) == pytest.approx(1)
    assert bool(numbers["time_constants"]["neurons"]) == (policy in ("cfc", "ltc", "leaky", "plastic", "scan"))
    assert (numbers["state_map"]["largest"] is None) == (policy in ("lan", "hybrid", "mlp"))
    assert bool(numbers["state_map"]["left_out"]) == (policy in ("lan", "hybrid", "mlp"))
    assert bool(numbers["lesions"]["synapses"]) == (policy not in ("lan", "hybrid"))
    assert numbers["time_constants"]["formula"].rstrip(".") in page
    assert "{{" not in page and ">nan" not in page


def test_a_driver_of_the_udacity_simulator_drives_on_the_stand_in():
    audit = build_audit(driver_of("cfc", UDACITY), "roads", seed=0, frames=4, costliest=1)
    numbers = json.loads(audit.to_json())
    assert numbers["lap"]["env"] == STAND_IN and numbers["lap"]["steps"] == 4
    assert numbers["lesions"]["synapses"][0]["score_lost"] == pytest.approx(0, abs=1)
    assert "mph" in write_page(audit)


def test_a_driver_of_anything_else_is_refused():
    config = DriverConfig("Pendulum-v1", "cfc", SMALL["cfc"], vector={"size": 3, "low": [-2.0], "high": [2.0]})
    with pytest.raises(UserError, match=r"audits are for drivers of CarRacing-v3 and .*; this one drives Pendulum-v1"):
        build_audit(Driver(config), "other", seed=0, frames=4, costliest=0)
