"""Influence: earned slowly, lost at once, nothing at the beginning; and skips that are seldom wrong."""

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


def test_without_influence_nothing_is_touched():
    influence = Influence(CONFIG)
    residual, guessed, thought = torch.randn(5, 3), torch.full((5, 3), torch.nan), torch.full((5,), -9.0)
    assert influence.mix(residual, guessed, thought) is residual
    assert not influence.skips(thought).any()


def test_it_rises_by_steps_while_errors_are_small():
    caps = [audited([0.01] * number).cap for number in range(1, 14)]
    assert caps == pytest.approx([min(1.0, 0.1 * number) for number in range(1, 14)])
    assert caps[-1] == 1


def test_between_the_bounds_it_stays():
    assert audited([0.01] * 5 + [0.1]).cap == audited([0.01] * 5).cap + 0.1  # the mean is still small
    resting = audited([0.01] * 5 + [0.1] * 40)
    assert resting.error == pytest.approx(0.1, rel=0.01) and resting.cap == audited([0.01] * 5 + [0.1] * 60).cap


def test_it_is_halved_at_every_audit_while_errors_are_great_and_recovers():
    influence = audited([0.01] * 20)
    assert influence.cap == 1
    influence.judge(torch.zeros(2), torch.tensor([2.0, 2.0]))
    assert influence.cap == 0.25
    influence.judge(torch.zeros(20), torch.full((20,), 2.0))
    assert influence.cap < 1e-6
    influence.judge(torch.full((60,), -5.0), torch.full((60,), 0.01))
    assert influence.cap == 1


def test_mixing_follows_the_cap_and_how_sure_the_student_is():
    influence = audited([0.01] * 15, thought=[-4.0] * 15)
    assert influence.threshold == -4.0
    residual, guessed = torch.zeros(3, 2), torch.ones(3, 2)
    share = influence.mix(residual, guessed, torch.tensor([-100.0, -4.0, 100.0]))[:, 0]
    torch.testing.assert_close(share, torch.tensor([1.0, 0.5, 0.0]))
    influence.judge(torch.tensor([0.0]), torch.tensor([2.0]))
    assert float(influence.mix(residual, guessed, torch.tensor([-100.0] * 3))[0, 0]) == influence.cap == 0.5


def test_only_with_all_influence_are_inputs_skipped():
    thought = torch.tensor([-5.0, -4.0, -3.0])
    assert audited([0.01] * 15, thought=[-4.0] * 15).skips(thought).tolist() == [True, True, False]
    assert not audited([0.01] * 5, thought=[-4.0] * 5).skips(thought).any()


def naive(thought, error, config):
    """The greatest ℓ for which the corrected share of wrong skips is within the risk."""
    best = -math.inf
    for bound in thought:
        wrong = sum(t <= bound and e > config.wrong for t, e in zip(thought, error, strict=True))
        if (wrong + 1) / (len(thought) + 1) <= config.risk:
            best = max(best, bound)
    return best


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [3, 9, 19, 60])
def test_the_threshold_is_the_greatest_within_the_risk(seed, number):
    rng = np.random.default_rng(seed)
    thought = rng.normal(size=number).round(1)  # with ties
    error = np.exp(thought + rng.normal(size=number) - 1.5)
    assert audited(error, thought=thought).threshold == naive(thought.tolist(), error.tolist(), CONFIG)


def test_skips_are_wrong_no_more_often_than_was_allowed():
    rng, wrong, skipped = np.random.default_rng(0), [], []
    config = InfluenceConfig(wrong=0.1, risk=0.1)

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
    assert influence.threshold == -3.0


def test_audits_are_drawn_from_all_alike():
    influence = Influence(InfluenceConfig(audited=0.03))
    drawn = influence.audits(100_000, torch.Generator().manual_seed(1))
    assert float(drawn.float().mean()) == pytest.approx(0.03, rel=0.1)
    assert torch.equal(drawn, influence.audits(100_000, torch.Generator().manual_seed(1)))


def test_a_record_restores_it():
    influence = audited([0.01] * 8 + [0.3], thought=[-4.0] * 8 + [-1.0])
    again = Influence.restore(CONFIG, json.loads(json.dumps(influence.record())))
    assert (again.cap, again.error, again.threshold) == (influence.cap, influence.error, influence.threshold)
    for one in (influence, again):
        one.judge(torch.full((5,), -2.0), torch.full((5,), 0.15))
    assert again.record() == influence.record()
    assert Influence.restore(CONFIG, Influence(CONFIG).record()).record() == Influence(CONFIG).record()


@pytest.mark.parametrize(
    "change", [{"cap": 2.0}, {"cap": math.nan}, {"error": -1.0}, {"audits": [[0.0]]}, {"audits": [[math.nan, 1.0]]}]
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
