"""Influence: earned slowly, lost at once, nothing at the beginning; and skips that are seldom wrong."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from liquid_control.models.influence import Influence, InfluenceConfig
from liquid_control.support.errors import UserError

CONFIG = InfluenceConfig(rise=0.1, low=0.05, high=0.2, memory=4.0, wrong=0.1, risk=0.1)


def audited(errors, config=CONFIG, thought=None):
    influence, errors = Influence(config), torch.as_tensor(errors, dtype=torch.float64)
    influence.judge(errors.clamp(min=1e-9).log() if thought is None else torch.as_tensor(thought), errors)
    return influence


def settled(number=9, config=CONFIG):
    """Nine audits are what a risk of a tenth asks for before there is a threshold: here it is -4."""
    return audited([0.01] * number, config, [-4.0] * number)


def judged(influence, errors, thought=-5.0):
    influence.judge(torch.full((len(errors),), thought, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64))
    return influence


def test_without_influence_nothing_is_touched():
    residual, guessed, thought = torch.randn(5, 3), torch.full((5, 3), torch.nan), torch.full((5,), -9.0)
    for influence in (Influence(CONFIG), settled()):
        assert influence.cap == 0 and influence.mix(residual, guessed, thought) is residual
        assert not influence.skips(thought).any() and not influence.of(thought).any()


def test_it_rises_by_steps_while_errors_are_small():
    caps = [judged(settled(), [0.01] * number).cap for number in range(14)]
    assert caps == pytest.approx([min(1.0, 0.1 * number) for number in range(14)])
    assert caps[-1] == 1


def test_a_threshold_comes_first_and_each_audit_is_judged_by_that_before_it():
    assert [settled(number).threshold for number in (8, 9)] == [-math.inf, -4.0]
    assert settled(9).cap == 0 and settled(10).cap == pytest.approx(0.1) and settled(14).sure == 5
    one, other = settled(), settled()
    one.judge(torch.tensor([-3.0]), torch.tensor([0.01]))  # less sure than anything that was audited
    assert one.sure == 0 and one.threshold == -3.0
    judged(one, [0.01], -3.0)
    assert one.sure == 1
    for error in (0.01, 0.3):
        other.judge(torch.tensor([-4.0]), torch.tensor([error]))
    assert other.sure == 2 and other.threshold == -math.inf  # a wrong one is as sure as the others


def test_only_what_it_stands_for_is_judged():
    """Half of the inputs are easy, half are hard, and it knows which: the hard ones take nothing from the easy ones."""
    thought, error = torch.tensor([-4.0, 2.0] * 40), torch.tensor([0.01, 2.0] * 40)
    influence = Influence(CONFIG)
    influence.judge(thought, error)
    assert influence.cap == 1 and influence.error == pytest.approx(0.01) and influence.threshold == -4.0
    assert influence.skips(torch.tensor([-4.0, 2.0])).tolist() == [True, False]
    unknowing = Influence(CONFIG)
    unknowing.judge(torch.zeros(80), error)
    assert unknowing.cap == 0 and unknowing.threshold == -math.inf and not unknowing.sure


def test_between_the_bounds_it_stays():
    resting = judged(settled(200), [0.09] * 20)  # right, but above what it rises by
    resting.cap = 0.5
    judged(resting, [0.09] * 40)
    assert resting.cap == 0.5 and resting.threshold == -4.0
    assert resting.error == pytest.approx(0.09, rel=0.01)


def test_it_is_halved_at_every_audit_of_a_sure_student_while_errors_are_great_and_recovers():
    influence = judged(settled(200), [0.01] * 20)
    assert influence.cap == 1
    judged(influence, [2.0, 2.0])
    assert influence.cap == 0.25
    influence.judge(torch.linspace(5, 50, 60), torch.full((60,), 2.0))  # where it is not sure, an error means nothing
    assert influence.cap == 0.25
    judged(influence, [2.0] * 30)
    assert influence.cap < 0.1 and influence.threshold == -math.inf
    judged(influence, [0.01] * 600)
    assert influence.cap == 1


def test_mixing_is_by_what_is_earned_where_the_student_is_sure_and_nowhere_else():
    influence = judged(settled(), [0.01] * 5)
    assert influence.threshold == -4.0 and influence.cap == pytest.approx(0.5)
    residual, guessed, thought = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([-100.0, -4.0, -3.9])
    mixed = influence.mix(residual, guessed, thought)
    torch.testing.assert_close(mixed[:2], (residual + guessed)[:2] / 2)
    assert torch.equal(mixed[2], residual[2])
    torch.testing.assert_close(influence.of(thought), torch.tensor([0.5, 0.5, 0.0]))
    judged(influence, [0.01] * 5)
    assert torch.equal(influence.mix(residual, guessed, thought)[:2], guessed[:2])


def test_without_a_threshold_nothing_is_mixed_and_nothing_skipped_whatever_was_earned():
    influence = judged(settled(20), [0.01] * 10)
    judged(influence, [2.0, 2.0, 2.0, 2.0], -9.0)
    assert influence.threshold == -math.inf and influence.cap > 0
    residual, thought = torch.randn(3, 2), torch.full((3,), -100.0)
    assert influence.mix(residual, torch.randn(3, 2), thought) is residual
    influence.cap = 1.0
    assert not influence.skips(thought).any() and not influence.skipping


def test_only_with_all_influence_are_inputs_skipped():
    thought = torch.tensor([-5.0, -4.0, -3.0])
    assert judged(settled(), [0.01] * 15).skips(thought).tolist() == [True, True, False]
    assert not judged(settled(), [0.01] * 5).skips(thought).any()


def naive(thought, error, config):
    """The greatest ℓ for which the corrected share of wrong skips is within the risk, and the mean error is low."""
    best = -math.inf
    for bound in thought:
        skipped = [e for t, e in zip(thought, error, strict=True) if t <= bound]
        wrong = sum(e > config.wrong for e in skipped)
        if (wrong + 1) / (len(thought) + 1) <= config.risk and np.mean(skipped) <= config.low:
            best = max(best, bound)
    return best


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [3, 9, 19, 60])
@pytest.mark.parametrize("low", [0.05, 9.0])
def test_the_threshold_is_the_greatest_within_the_risk(seed, number, low):
    rng, config = np.random.default_rng(seed), dataclasses.replace(CONFIG, low=low, high=9.0)
    thought = rng.normal(size=number).round(1)  # with ties
    error = np.exp(thought + rng.normal(size=number) - 1.5)
    assert audited(error, config, thought).threshold == naive(thought.tolist(), error.tolist(), config)


def test_where_few_are_easy_the_risk_alone_does_not_make_a_student_sure():
    """A tenth of all may be wrong, and a tenth is easy: by the risk alone half of what it stood for would be wrong."""
    thought = np.linspace(-5, 0, 200)
    error = np.where(np.arange(200) < 20, 0.02, 1.0)
    assert audited(error, dataclasses.replace(CONFIG, low=9.0, high=9.0), thought).threshold == thought[38]
    assert audited(error, CONFIG, thought).threshold == thought[19]


def test_skips_are_wrong_no_more_often_than_was_allowed():
    rng, wrong, skipped = np.random.default_rng(0), [], []
    config = InfluenceConfig(wrong=0.1, risk=0.1, low=9.0, high=9.0)

    def draw(number):
        thought = rng.normal(-2, 1, number)
        return thought, np.exp(thought + rng.normal(0, 1, number))

    for _ in range(300):
        thought, error = draw(60)
        bound = audited(error, config, thought).threshold
        thought, error = draw(200)
        wrong.append(np.mean((thought <= bound) & (error > config.wrong)))
        skipped.append(np.mean(thought <= bound))
    assert 0.07 < np.mean(wrong) < 0.1 and np.mean(skipped) > 0.3


def test_only_the_last_audits_set_the_threshold():
    config = InfluenceConfig(calibration=30, risk=0.1)
    influence = audited([5.0] * 100, config, [-4.0] * 100)
    assert influence.threshold == -math.inf
    influence.judge(torch.full((30,), -3.0), torch.full((30,), 0.01))
    assert influence.threshold == -3.0 and len(influence.record()["audits"]) == 30
    rng = np.random.default_rng(3)
    thought, error = rng.normal(size=200).round(1), np.exp(rng.normal(-2, 1, 200))
    influence.judge(torch.from_numpy(thought), torch.from_numpy(error))
    assert influence.threshold == naive(thought[-30:].tolist(), error[-30:].tolist(), config)


def test_audits_are_drawn_from_all_alike():
    influence = judged(settled(config=InfluenceConfig(audited=0.03, risk=0.1)), [0.01] * 60)
    drawn = influence.audits(100_000, torch.Generator().manual_seed(1))
    assert float(drawn.float().mean()) == pytest.approx(0.03, rel=0.1)
    assert torch.equal(drawn, influence.audits(100_000, torch.Generator().manual_seed(1)))


def test_while_nothing_is_skipped_all_inputs_are_audits():
    for influence in (Influence(CONFIG), settled(), judged(settled(), [0.01] * 9)):
        assert not influence.skipping and influence.audits(1000, torch.Generator()).all()
    assert judged(settled(), [0.01] * 11).skipping


def test_a_record_restores_it():
    influence = audited([0.01] * 12 + [0.3] + [0.02] * 20, thought=[-4.0] * 12 + [-1.0] + [-3.0] * 20)
    assert 0 < influence.cap < 1.01 and influence.sure > 5
    again = Influence.restore(CONFIG, json.loads(json.dumps(influence.record())))
    for name in ("cap", "error", "sure", "threshold"):
        assert getattr(again, name) == getattr(influence, name)
    for one in (influence, again):
        one.judge(torch.full((5,), -3.5), torch.full((5,), 0.15))
    assert again.record() == influence.record() and again.threshold == influence.threshold
    assert Influence.restore(CONFIG, Influence(CONFIG).record()).record() == Influence(CONFIG).record()


@pytest.mark.parametrize(
    "change",
    [
        {"cap": 2.0},
        {"cap": math.nan},
        {"error": -1.0},
        {"sure": -1},
        {"audits": [[0.0]]},
        {"audits": [[math.nan, 1.0]]},
    ],
)
def test_a_record_of_none_is_one_error(change):
    with pytest.raises(UserError, match="the record of an influence is wrong"):
        Influence.restore(CONFIG, Influence(CONFIG).record() | change)


def test_impossible_audits_are_one_error():
    influence = Influence(CONFIG)
    for thought, error in (([math.nan], [0.1]), ([0.0], [math.inf]), ([0.0], [-0.1])):
        with pytest.raises(ValueError, match="audits hold NaN, infinity or a negative error"):
            influence.judge(torch.tensor(thought), torch.tensor(error))
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(1,\), expected two equal \(number,\)"):
        influence.judge(torch.zeros(2), torch.zeros(1))
    assert influence.record() == Influence(CONFIG).record()
    with pytest.raises(UserError, match=r"low must not be above high, given 0\.3 and 0\.2"):
        Influence(InfluenceConfig(low=0.3, high=0.2))
