"""The liquid student: it learns what its teacher makes, knows how wrong it is, and leaves the teacher alone."""

import pytest
import torch
from torch import nn

from liquid_control.models.cubes import Cube, CubeConfig, Recall
from liquid_control.models.student import Distillation, LiquidStudent, relative_error

WIDTH, BATCH, TIME = 12, 3, 10


def draw(seed, batch=BATCH, time=TIME):
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(seed))


def recalled(number, residual=None, novelty=0.0):
    residual = torch.zeros(number, WIDTH) if residual is None else residual
    places = torch.zeros(number, 1, dtype=torch.int64)
    return Recall(residual, torch.full((number,), 1 - novelty), torch.zeros(number), places, torch.ones(number, 1), 0)


@pytest.fixture
def student():
    torch.manual_seed(1)
    return LiquidStudent(WIDTH, 24)


@pytest.fixture
def teacher():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(WIDTH, 24), nn.GELU(), nn.Linear(24, WIDTH))


def test_step_by_step_it_guesses_as_at_once(student):
    h, recall = draw(3), recalled(BATCH * TIME, draw(4).flatten(0, 1), 0.3)
    whole = student(h, recall)
    state = student.initial_state(BATCH)
    for place in range(TIME):
        rows = torch.arange(BATCH) * TIME + place
        part = Recall(*(values[rows] for values in recall[:5]), operations=0)
        guess = student(h[:, place : place + 1], part, state)
        state = guess.state
        torch.testing.assert_close(guess.residual[:, 0], whole.residual[:, place], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(guess.log_error[:, 0], whole.log_error[:, place], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, whole.state)


def test_it_learns_a_teacher_without_memory(student, teacher):
    distillation, errors, state = Distillation(student), [], None
    for seed in range(250):
        h = draw(seed, 16)
        _, error, state = distillation.learn(h, recalled(160, novelty=1.0), teacher(h), state)
        errors.append(float(error.mean()))
    assert sum(errors[-10:]) / 10 < 0.4 * sum(errors[:3]) / 3


def test_it_trusts_a_memory_that_is_near_and_expects_to_be_right(student, teacher):
    distillation = Distillation(student)
    near = (torch.arange(160) % 2 == 0).view(16, 10)
    for seed in range(200):
        h = draw(seed, 16)
        r = teacher(h)
        held = torch.where(near[..., None], r, torch.randn_like(r)).detach().flatten(0, 1)
        recall = recalled(160, held)._replace(similarity=torch.where(near, 1.0, 0.2).flatten())
        thought, error, _ = distillation.learn(h, recall, r)
    assert float(error[near].mean()) < 0.1 < float(error[~near].mean())
    assert float(thought[near].mean()) < float(thought[~near].mean()) - 1
    gap = (thought - error.clamp(min=1e-6).log()).mean()
    assert abs(float(gap)) < 0.5


def test_the_teacher_gets_no_gradient_and_all_of_the_student_does(student, teacher):
    h = draw(5).requires_grad_()
    before = {name: value.clone() for name, value in student.named_parameters()}
    held = teacher(h).detach() + 0.1
    Distillation(student).learn(h, recalled(BATCH * TIME, held.flatten(0, 1), 0.3), teacher(h))
    assert h.grad is None and all(value.grad is None for value in teacher.parameters())
    recall = recalled(BATCH * TIME, held.flatten(0, 1), 0.3)._replace(dispersion=torch.full((BATCH * TIME,), 0.2))
    Distillation(student, 1e-2).learn(h, recall, teacher(h))
    assert [name for name, value in student.named_parameters() if torch.equal(value, before[name])] == []


def test_it_takes_what_a_cube_recalls(student, teacher):
    cube, h = Cube(CubeConfig(width=WIDTH, layers=1, blocks=2, key_size=8)), draw(6)
    flat = h.flatten(0, 1)
    assert student(h, cube.read(flat)).residual.isfinite().all()
    cube.write(flat, teacher(flat))
    recall = cube.read(flat)
    assert recall.similarity.min() > 0.9
    guess = student(h, recall)
    assert relative_error(guess.residual, teacher(h), teacher(h).square().sum(2).mean()).mean().item() < 3
    assert guess.log_error.shape == (BATCH, TIME)


def test_a_relative_error_is_that_of_its_formula():
    assert relative_error(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]), 16).item() == pytest.approx(25 / 16)
    assert relative_error(torch.zeros(2), torch.tensor([0.0, 4.0]), 8).item() == 2


def test_an_error_is_relative_to_the_mean_size_of_all_residuals(student):
    distillation, made = Distillation(student), [draw(3), 10 * draw(4), draw(5)]
    for residual in made:
        before = student(draw(1), recalled(BATCH * TIME)).residual.detach()
        _, error, _ = distillation.learn(draw(1), recalled(BATCH * TIME), residual)
    size = torch.cat(made).square().sum(2).mean()
    torch.testing.assert_close(student.energy, size)
    torch.testing.assert_close(error, (before - made[-1]).square().sum(2) / size)
    student.observe(torch.zeros(10**6, WIDTH))  # what is long past no longer counts
    assert 0 < student.energy < 1e-6


def test_before_it_learns_it_is_less_sure_of_what_is_farther_and_of_what_disagrees(student):
    """By the equation of the module, without its state."""
    with torch.no_grad():
        student.expects.weight.zero_()
        student.expects.bias.fill_(0.3)
        student.energy.fill_(5.0)
    residual, novelty, dispersion = draw(4, 1, 3)[0], torch.tensor([0.0, 0.2, 0.2]), torch.tensor([0.1, 0.1, 0.4])
    recall = recalled(3, residual)._replace(similarity=1 - novelty, dispersion=dispersion)
    thought = student(draw(3, 1, 3), recall).log_error[0]
    spread = dispersion * residual.square().sum(1) / 5
    expected = 0.3 + 0.75 * (novelty + 0.01).log() + 0.75 * (spread + 0.001).log()
    torch.testing.assert_close(thought, expected)
    nothing = Recall(torch.zeros(3, WIDTH), *torch.zeros(2, 3), torch.zeros(3, 1).long(), torch.zeros(3, 1), 0)
    thought = student(draw(3, 1, 3), nothing).log_error
    torch.testing.assert_close(thought, torch.full((1, 3), 0.3075), atol=1e-4, rtol=0)


def test_it_learns_how_wrong_an_answer_is_that_lies_between_others(student, teacher):
    """Inputs lie nearer to those of before or farther; what it expects and what comes rise and fall together."""
    distillation, cube = Distillation(student), Cube(CubeConfig(width=WIDTH, layers=1, blocks=4, key_size=12))
    centres, far = draw(9, 1, 16), torch.linspace(0, 1, 16)[:, None]
    thoughts, errors = [], []
    for seed in range(60):
        h = centres + far * draw(seed, 1, 16)
        recall = cube.read(h[0])
        thought, error, _ = distillation.learn(h, recall, teacher(h))
        cube.write(h[0], teacher(h)[0].detach(), recall)
        thoughts.append(thought[0])
        errors.append(error[0])
    thought, error = torch.cat(thoughts[20:]), (torch.cat(errors[20:]) + 1e-4).log()
    assert torch.corrcoef(torch.stack([thought, error]))[0, 1] > 0.6
    assert abs(float((thought - error).mean())) < 0.5


def test_operations_are_those_of_its_matrices(student):
    matrices = [student.scan.drive.weight, student.readout.weight, student.expects.weight]
    assert student.operations() == sum(matrix.numel() for matrix in matrices) + 3 * WIDTH


def test_other_shapes_are_one_error(student):
    with pytest.raises(ValueError, match=r"inputs have shape \(3, 10\), expected \(batch, time, 12\)"):
        student(draw(1)[..., 0], recalled(30))
    with pytest.raises(ValueError, match="what is recalled is of 29 inputs, expected 30"):
        student(draw(1), recalled(29))


def test_of_what_the_teacher_did_not_make_nothing_is_learned(student, teacher):
    """However large the guess is there: nothing divided by nothing must not reach its weights."""
    one, other = Distillation(student), Distillation(LiquidStudent(WIDTH, 24))
    other.student.load_state_dict(student.state_dict())
    h, recall = draw(7), recalled(BATCH * TIME, 100 * draw(8).flatten(0, 1))
    known = torch.zeros(BATCH, TIME, dtype=torch.bool)
    known[:, :6] = True
    made = teacher(h)
    _, error, _ = one.learn(h, recall, torch.where(known[..., None], made, 0), known=known)
    assert error[:, :6].isfinite().all() and error[:, 6:].isnan().all()
    _, whole, _ = other.learn(h[:, :6], recalled(BATCH * 6, 100 * draw(8)[:, :6].flatten(0, 1)), made[:, :6])
    torch.testing.assert_close(error[:, :6], whole)
    for mine, theirs in zip(student.parameters(), other.student.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    before = student.readout.weight.clone()
    assert one.learn(h, recall, made, known=torch.zeros_like(known))[1].isnan().all()
    assert torch.equal(student.readout.weight, before)


@pytest.mark.parametrize("shape", [(1, 24), (BATCH, 23), (BATCH, 60), (BATCH, 2, 24)])
@pytest.mark.parametrize("learns", [False, True], ids=["kernel", "torch"])
def test_a_state_of_another_shape_is_refused(student, shape, learns):
    """A kernel would read what lies behind it."""
    with torch.set_grad_enabled(learns), pytest.raises(ValueError, match=r"state has shape .* expected"):
        student(draw(3), recalled(BATCH * TIME), torch.zeros(shape))
