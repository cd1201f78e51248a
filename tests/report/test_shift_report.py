"""What a report prints."""

import io
import itertools

import numpy as np
import pytest
from rich.console import Console

from envs.registration import FAST
from envs.shifts.suites import Cell
from liquid_control.report.shift_report import MOST_COLUMNS, Report
from liquid_control.report.shift_results import Row
from liquid_control.report.shift_summary import summarize_shifts

CELLS = (Cell(), Cell("rain", 1))


def report(policies):
    rows = [
        Row(
            run=0, policy=policy, training=0, weights="", env=FAST, shift=cell.shift, severity=cell.severity, seed=seed,
            score=900.0 - 100 * cell.severity, lap=True, tiles=1.0, off_road=0.0, steps=100, seconds=1.0,
        )
        for policy, cell, seed in itertools.product(policies, CELLS, (100, 101))
    ]  # fmt: skip
    summary = summarize_shifts(
        {row.key: row for row in rows}, dict.fromkeys(policies, (0,)), FAST, CELLS, (100, 101), (), ""
    )
    return Report("full", "", summary, [], {}, {}, np.empty((0, 2)), {})


@pytest.mark.parametrize("count", [MOST_COLUMNS, 2 * MOST_COLUMNS])
def test_a_terminal_shows_every_policy_by_its_name(count):
    policies = [f"core-{index}" for index in range(count)]
    output = io.StringIO()
    Console(width=100, file=output).print(report(policies).table())
    printed = output.getvalue()
    assert "…" not in printed and all(policy in printed for policy in policies)
    assert ("│ rain " in printed) == (count <= MOST_COLUMNS)
    assert "800.0" in printed
