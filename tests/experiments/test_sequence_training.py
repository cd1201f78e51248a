"""A training of a sequence task: which sequences a batch has, what is asked, scales, and the best weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from liquid_control.data.sequences import SequenceSet
from liquid_control.experiments import imputation, rul, walker2d
from liquid_control.experiments.sequence_task import (
    Recipe,
    accuracy,
    balanced_accuracy,
    mean_squared_error,
    root_mean_squared_error,
)
from liquid_control.experiments.sequence_training import ALIKE, Sequences, batches, build, score, train

TASK = replace(imputation.TASK, parameters=800, recipe=Recipe(rate=1e-2, batch=16))


def sequences(count=64, steps=12, seed=0, asked=True):
    """Values of which the next-but-none is asked: y = 2 x + elapsed, with padding."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, steps + 1, count)
    mask = np.arange(steps) < lengths[:, None]
    x = np.where(mask[..., None], rng.standard_normal((count, steps, 1)), 0).astype(np.float32)
    elapsed = np.where(mask, rng.uniform(0.1, 2, (count, steps)), 1).astype(np.float32)
    target = (2 * x[..., 0] + elapsed).astype(np.float32)
    return Sequences(SequenceSet(x, elapsed, mask, target if asked else np.full_like(target, np.nan)))


def test_a_pass_has_every_sequence_once_and_batches_of_about_one_length():
    data = sequences(16 * ALIKE * 4, 30)
    drawn = list(batches(data, 16, 4 * ALIKE, 0.0, np.random.default_rng(0)))
    assert sorted(np.concatenate(drawn).tolist()) == list(range(len(data)))
    spread = np.mean([data.lengths[places].max() - data.lengths[places].min() for places in drawn])
    assert spread < 4  # of 28 at random
    again = list(batches(data, 16, 4 * ALIKE, 0.0, np.random.default_rng(0)))
    assert all(np.array_equal(one, other) for one, other in zip(drawn, again, strict=True))
    longest = [data.lengths[places].max() for places in drawn[:ALIKE]]
    assert longest != sorted(longest)  # batches themselves come in any order


def test_a_curriculum_goes_on_when_it_is_learned_and_evenly_in_any_case():
    data = sequences(2000, 30)

    def longest(learned):
        drawn = list(batches(data, 16, 40 * ALIKE, 0.9, np.random.default_rng(0), learned))
        assert len(drawn) == 40 * ALIKE
        return [max(data.lengths[places].max() for places in drawn[k * ALIKE : (k + 1) * ALIKE]) for k in range(40)]

    quick, never = longest(lambda: True), longest(lambda: False)
    assert quick[:28] == list(range(3, 31)) and max(quick[28:]) == 30
    assert never[:36] == [max(3, 2 + 28 * k // 36) for k in range(36)] and max(never[36:]) == 30


def test_rows_are_cut_to_the_longest_of_them_and_know_no_padding_beyond():
    data = sequences()
    short = np.argsort(data.lengths)[:5]
    x, elapsed, mask, target = data.rows(short, by_step=True)
    end = data.lengths[short].max()
    assert x.shape[1] == elapsed.shape[1] == mask.shape[1] == target.shape[1] == end
    whole = SequenceSet(*(part.numpy() for part in (x, elapsed, torch.ones_like(mask), target)))
    assert Sequences(whole).rows(np.arange(2), True)[2] is None


def test_what_is_not_asked_for_enters_neither_loss_nor_score():
    data = sequences()
    torch.manual_seed(0)
    model, _ = build(TASK, TASK.recipe, "gru", data)
    model.fit_scales(data)
    x, elapsed, mask, target = data.rows(np.arange(8), True)
    holes = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    given = target.masked_fill(holes, math.nan)
    loss = model.loss(model(x, elapsed, mask), given, mask)
    answers = model(x, elapsed, mask)[..., 0]
    kept = mask & ~holes
    expected = (answers[kept] - target[kept]).square().mean() / model.answer_scale.square().mean()
    torch.testing.assert_close(loss, expected)
    model(x, elapsed, mask)  # the gradient is finite, too
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_score_is_that_of_real_steps_in_any_order():
    data = sequences(30)
    torch.manual_seed(0)
    model, _ = build(TASK, TASK.recipe, "gru", data)
    model.fit_scales(data)
    found = score(model, data)
    with torch.no_grad():
        answers = model(data.x, data.elapsed, data.mask)[..., 0]
    assert found["mse"] == pytest.approx(float((answers - data.target)[data.mask].square().mean()), rel=1e-5)
    assert found["rmse"] == pytest.approx(found["mse"] ** 0.5, rel=1e-6)


def test_an_answer_that_is_taught_at_each_step_is_scored_at_the_last():
    data = sequences(30)
    task = replace(TASK, answer="last", every_step=True)
    torch.manual_seed(0)
    model, _ = build(task, task.recipe, "gru", data)
    model.fit_scales(data)
    places = np.arange(8)
    x, elapsed, mask, target = data.rows(places, task.by_step)
    answers = model.train()(x, elapsed, mask)
    assert answers.shape == (8, x.shape[1], 1)
    expected = (answers[mask][:, 0] - target[mask]).square().mean() / model.answer_scale.square().mean()
    torch.testing.assert_close(model.loss(answers, target, mask), expected)
    asked = torch.from_numpy(data.lengths[places])[:, None] - 1
    torch.testing.assert_close(model.eval()(x, elapsed, mask)[:, 0], answers[..., 0].gather(1, asked)[:, 0])
    with torch.no_grad():
        given = model(data.x, data.elapsed, data.mask)[:, 0]
    asked = torch.from_numpy(data.lengths)[:, None] - 1
    right = data.target.gather(1, asked)[:, 0]
    assert score(model, data)["mse"] == pytest.approx(float((given - right).square().mean()), rel=1e-5)


def test_scales_are_those_of_training_data_and_a_residual_begins_at_the_input():
    data = sequences(200)
    recipe = replace(TASK.recipe, residual=True)
    model, _ = build(TASK, recipe, "gru", data)
    model.fit_scales(data)
    real = data.x[data.mask]
    torch.testing.assert_close(model.input_mean, real.mean(0))
    torch.testing.assert_close(model.answer_mean, (data.target[data.mask][:, None] - real).mean(0))
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    answers = model(data.x, data.elapsed, data.mask)
    torch.testing.assert_close(answers[data.mask], real + model.answer_mean)


def test_a_training_learns_is_the_same_again_and_keeps_its_best_weights():
    data, held_out = sequences(512), sequences(64, seed=1)
    told = []
    trained = train(TASK, data, held_out, "gru", TASK.recipe, 0, 6, lambda done, scalars: told.append((done, scalars)))
    assert trained.row["validation"]["rmse"] < 0.5 * float(held_out.target[held_out.mask].std())
    assert score(trained.model, held_out) == trained.row["validation"]
    errors = [scalars["rmse"] for _, scalars in told if scalars]
    assert len(errors) == 6 and min(errors) == trained.row["validation"]["rmse"]
    assert told[-1][0] == 1.0
    again = train(TASK, data, held_out, "gru", TASK.recipe, 0, 6)
    assert again.row["validation"] == trained.row["validation"]
    other = train(TASK, data, held_out, "gru", TASK.recipe, 1, 6)
    assert other.row["validation"] != trained.row["validation"]


def test_a_training_that_comes_to_nan_ends_and_is_worse_than_any():
    data = sequences(64)
    data.x[:] = math.inf
    trained = train(TASK, data, sequences(16), "gru", TASK.recipe, 0, 5)
    assert set(trained.row["validation"]) == set(TASK.metrics) and len(TASK.metrics) > 1, "folds are averaged"
    assert np.isnan(list(trained.row["validation"].values())).all()
    assert TASK.better(1e9, math.nan) and not TASK.better(math.nan, 1e9) and not TASK.better(math.nan, math.nan)


def test_metrics_are_what_they_say():
    logits, classes = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [1.0, 0.0]]), np.array([0, 1, 1, 0])
    assert accuracy(logits, classes) == 75.0
    assert balanced_accuracy(logits[1:], classes[1:]) == 75.0
    values, right = np.array([[1.0], [3.0]]), np.array([0.0, 0.0])
    assert mean_squared_error(values, right) == 5.0 and root_mean_squared_error(values, right) == 5**0.5


def test_velocities_are_clamped_and_lives_capped_where_a_metric_says_so():
    answers, right = np.zeros((1, 17)), np.zeros((1, 17))
    answers[0, [0, 8]] = 20.0
    assert walker2d.clamped(answers, right) == pytest.approx((400 + 100) / 17) and answers[0, 8] == 20.0
    answers, right = np.array([[130.0], [120.0]]), np.array([140.0, 120.0])
    assert rul.rmse_capped(answers, right) == 0.0 and rul.score_capped(answers, right) == 0.0
    assert rul.score(answers, right) == pytest.approx(np.exp(10 / 13) - 1)


def test_waves_are_asked_for_where_they_were_not_measured():
    x, elapsed, mask, target = imputation.waves(200, 0)
    missing = x[..., 1] == 0
    assert np.array_equal(missing, np.isfinite(target)) and 0.45 < missing.mean() < 0.55 and mask.all()
    assert (x[..., 0][missing] == 0).all() and 0.45 < elapsed.mean() < 0.55
    other = imputation.waves(200, 0)
    assert np.array_equal(x, other.x) and not np.array_equal(x, imputation.waves(200, 1).x)
