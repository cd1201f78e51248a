"""The kernels of cubes and students against their torch forms: the same is recalled, counted and guessed."""

import copy
import dataclasses
import itertools

import pytest
import torch

from liquid_control.models.cubes import Cube, CubeConfig
from liquid_control.models.student import LiquidStudent

CONFIG = CubeConfig(width=24, layers=1, blocks=12, key_size=20, probed=12)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(config, number, seed=1):
    """A cube of some entries; what was written stays the same whoever reads later."""
    cube = Cube(config)
    for part in range(0, number, 50):
        x = draw(seed + part, min(50, number - part), config.width)
        cube.write(x, x.roll(3, 1) * 2)
    return cube


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"probed": 3},
        {"probed": 1, "neighbours": 1},
        {"key_size": 16, "neighbours": 7, "sharpness": 3.0},
        {"width": 33, "key_size": 33, "probed": 2},
        {"width": 5, "key_size": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("number", [1, 40])
def test_what_is_recalled_is_that_of_the_torch_form(change, number, reference):
    config = dataclasses.replace(CONFIG, **change)
    cube, x = filled(config, 300), draw(9, number, config.width)
    other = copy.deepcopy(cube)
    found, expected = cube.read(x), reference(other.read, x)
    assert torch.equal(found.places, expected.places) and found.operations == expected.operations
    for one, wanted in zip(found[:5], expected[:5], strict=True):
        torch.testing.assert_close(one, wanted, rtol=2e-4, atol=2e-5)
    for name, tensor in cube.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], rtol=1e-4, atol=1e-5)
    assert int(cube.tensors["clock"]) == 300 + number
    assert float(cube.tensors["use"].sum()) == pytest.approx(number, rel=1e-4)


@pytest.mark.parametrize("entries", [0, 1, 2])
def test_with_fewer_entries_than_are_recalled_together_the_rest_counts_for_nothing(entries, reference):
    cube = Cube(CONFIG)
    if entries:
        cube.write(draw(1, entries, 24), draw(2, entries, 24))
    x = draw(3, 5, 24)
    found, expected = cube.look_up(draw(4, 5, 20)), reference(cube.look_up, draw(4, 5, 20))
    torch.testing.assert_close(found.residual, expected.residual)
    torch.testing.assert_close(found.weights, expected.weights)
    assert (found.weights > 0).sum(1).tolist() == [entries] * 5 and found.operations == expected.operations
    assert cube.read(x[:0]).residual.shape == (0, 24)


def test_a_copy_of_a_cube_that_was_read_is_a_cube_of_its_own():
    cube = filled(CONFIG, 100)
    cube.read(draw(5, 1, 24))
    other = copy.deepcopy(cube)
    other.read(draw(6, 4, 24))
    assert int(cube.tensors["clock"]) == 101 and int(other.tensors["clock"]) == 105
    other.tensors["residuals"].zero_()
    assert not other.read(draw(6, 4, 24)).residual.any() and cube.read(draw(6, 4, 24)).residual.all()


def test_an_input_that_is_no_number_spoils_nothing():
    cube = filled(CONFIG, 200)
    x = draw(5, 2, 24)
    x[0] = torch.nan
    found = cube.read(x)
    assert found.residual[0].isnan().all() and found.residual[1].isfinite().all()
    assert all(tensor.isfinite().all() for tensor in cube.tensors.values() if tensor.is_floating_point())


def student_of(units):
    torch.manual_seed(1)
    student = LiquidStudent(24, units)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return student


@pytest.mark.parametrize("units", [5, 16, 40])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 7), (3, 4)])
def test_a_guess_is_that_of_the_torch_form(units, batch, steps, reference):
    student, h, state = student_of(units), draw(2, batch, steps, 24), draw(3, batch, units).tanh()
    student.energy.fill_(3.0)
    cubes = filled(CONFIG, 200), Cube(CONFIG)
    for recall, begin in itertools.product([cube.read(h.flatten(0, 1)) for cube in cubes], (state, None)):
        with torch.no_grad():
            found, expected = student(h, recall, begin), reference(student, h, recall, begin)
        for one, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(state, draw(3, batch, units).tanh())


@torch.no_grad()
def test_a_guess_is_by_the_weights_as_they_are():
    student, h = student_of(8), draw(2, 1, 1, 24)
    recall = filled(CONFIG, 200).read(h[0])
    before, other = student(h, recall), copy.deepcopy(student)
    student.readout.weight.mul_(2)
    assert not torch.equal(student(h, recall).residual, before.residual)
    for one, wanted in zip(other(h, recall), before, strict=True):
        assert torch.equal(one, wanted)
    student.load_state_dict(other.state_dict())
    assert torch.equal(student(h, recall).residual, before.residual)
    doubled = copy.deepcopy(other).double().float()
    doubled.doubt[0] += 1
    doubled.energy.fill_(1e9)  # so that all residuals are as good as equal
    doubled.doubt[1] = 0
    far = (1 - recall.similarity + 0.01).log()
    spread = recall.dispersion * recall.residual.square().sum(1)
    expected = before.log_error + far - student.doubt[1] * (spread + 0.001).log()
    torch.testing.assert_close(doubled(h, recall).log_error, expected, atol=1e-5, rtol=1e-5)
