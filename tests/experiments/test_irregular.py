"""Curves at irregular moments: what is asked, arms of one size, and a study that goes on where it was stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from liquid_control.experiments import irregular
from liquid_control.experiments.irregular import (
    ARMS,
    FIRST,
    NOISE,
    RATES,
    IrregularConfig,
    curves,
    error,
    gain,
    main,
    matched,
)
from liquid_control.support.errors import UserError


@pytest.mark.parametrize("task", NOISE)
def test_what_is_seen_lies_about_the_curve_and_what_is_wanted_is_the_next_of_it(task):
    inputs, times, wanted = curves(task, 400, 32, 1)
    assert torch.equal(times[:, 0], torch.zeros(400, dtype=torch.float64))
    torch.testing.assert_close(inputs[:, :-1, -1].double(), times.diff(dim=1), rtol=1e-5, atol=1e-6)
    apart = inputs[:, 1:, :-1] - wanted[:, :-1]  # the next moment is seen at the next
    assert float(apart.mean()) == pytest.approx(0, abs=0.01)
    assert float(apart.std()) == pytest.approx(NOISE[task], rel=0.03)
    assert float(inputs[..., -1].mean()) == pytest.approx(0.5, rel=0.03)
    assert float(wanted.std()) == pytest.approx(0.9, abs=0.25)
    assert all(torch.equal(one, other) for one, other in zip(curves(task, 4, 8, 1), curves(task, 4, 8, 1), strict=True))
    assert not torch.equal(curves(task, 4, 8, 1)[0], curves(task, 4, 8, 2)[0])


def test_spirals_turn_at_a_steady_pace_and_waves_are_smooth():
    _, times, wanted = curves("spiral", 50, 32, 3)
    angle = torch.atan2(wanted[..., 1], wanted[..., 0])[:, :-1].double()
    turned = (angle.diff(dim=1) + torch.pi).remainder(2 * torch.pi) - torch.pi
    gaps = times.diff(dim=1)[:, 1:]
    short = gaps < 1
    pace = (turned / gaps)[short]
    of_row = torch.arange(50)[:, None].expand_as(gaps)[short]
    for row in range(50):
        mine = pace[of_row == row]
        assert mine.numel() > 5 and float(mine.std()) < 1e-3 and 0.3 <= abs(float(mine.mean())) <= 1.2


@pytest.mark.parametrize("task", NOISE)
def test_all_arms_have_the_parameters_of_the_first(task):
    config = IrregularConfig(Path("results"))
    counts = {arm: matched(arm, task, config).parameter_count() for arm in ARMS}
    assert all(abs(count - counts["cfc"]) < 0.01 * counts["cfc"] for count in counts.values()), counts
    assert [block.mixer.name for block in matched("none", task, config).blocks.layers] == ["timed_attention"]


def test_an_error_is_that_of_the_moments_from_which_it_can_be_known():
    inputs, times, wanted = curves("spiral", 300, 8, 1)

    class Oracle(torch.nn.Module):
        def forward(self, inputs, times):
            answers = wanted[: len(inputs)] if len(inputs) == 250 else wanted[250:]
            answers = answers + torch.tensor([3.0, 4.0])
            answers[:, :FIRST] = 1e9
            return answers

    assert error(Oracle(), inputs, times, wanted) == pytest.approx(np.full(300, 5.0))


def test_a_gain_is_a_share_and_its_interval_knows_both_sides():
    share, low, high = gain([0.8, 0.8], [1.0, 1.0])
    assert (share, low, high) == pytest.approx((0.2, 0.2, 0.2))
    share, low, high = gain([0.7, 0.9], [0.9, 1.1])
    assert share == pytest.approx(0.2) and low < 0.05 and high > 0.3


TINY = "--arms cfc none --steps 2 --batch 4 --moments 8 --width 8 --tested 8 --seeds 2 --tasks sine".split()


def test_a_study_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    words = [str(tmp_path), *TINY]
    main(words)
    report, results = (tmp_path / "report.md").read_text(), (tmp_path / "sine/results.jsonl").read_text()
    assert "## Sine" in report and "| cfc |" in report and "| none |" in report and " to " in report
    rows = [json.loads(line) for line in results.splitlines()[1:]]
    assert len(rows) == 2 * (len(RATES) + 1)  # three rates of seed 0, and the best one of seed 1

    (tmp_path / "sine/results.jsonl").write_text("".join(line + "\n" for line in results.splitlines()[:-2]))
    measured, honest = [], irregular.measure
    monkeypatch.setattr(irregular, "measure", lambda *of: measured.append(of) or honest(*of))
    main(words)
    assert len(measured) == 2
    again = [json.loads(line) for line in (tmp_path / "sine/results.jsonl").read_text().splitlines()[1:]]
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in rows]


def test_what_makes_no_sense_is_one_error(tmp_path):
    for words, said in (
        (["--arms", "cfx"], "no arm 'cfx'.*'cfc'"),
        (["--tasks", "spirals"], "no task 'spirals'.*'spiral'"),
        (["--width", "12"], "--width must be a multiple of 8, given 12"),
    ):
        with pytest.raises(UserError, match=said):
            main([str(tmp_path), *words])
