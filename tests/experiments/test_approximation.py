"""Approximation by attention: what is asked, that one key learns nothing, and the GIF."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from liquid_control.experiments.approximation import FRAMES, STEPS, Approximator, histories, main
from liquid_control.nn.liquid_attention import SingleKeyWarning


def test_what_is_asked_is_a_weighted_mean_of_the_history():
    x, elapsed, y = (part.double() for part in histories(2, [1]))
    ends = elapsed.cumsum(1)
    for step in (0, 7, STEPS - 1):
        weights = torch.exp(-(ends[:, step : step + 1] - ends[:, : step + 1]) / 2)
        mean = (weights * x[:, : step + 1]).sum(1) / weights.sum(1)
        torch.testing.assert_close(y[:, step], torch.sin(math.pi * mean), atol=1e-5, rtol=0)


def test_with_one_key_neither_history_nor_time_nor_gates_matter():
    x, elapsed, _ = histories(2, [1])
    model = Approximator("one key")
    with pytest.warns(SingleKeyWarning):
        before = model(x, elapsed)
    torch.testing.assert_close(model(x, 3 * elapsed), before)
    with torch.no_grad():
        for parameter in model.attention.logits.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(model(x, elapsed), before)
    torch.testing.assert_close(model(x.flip(1), elapsed).flip(1), before)


def test_a_study_tables_its_arms_draws_a_film_and_goes_on(tmp_path):
    words = [str(tmp_path), "--steps", "8", "--batch", "4", "--arms", "exact", "one key"]
    main(words)
    first = (tmp_path / "results.jsonl").read_text()
    rows = [json.loads(line) for line in first.splitlines()[1:]]
    assert [row["arm"] for row in rows] == ["exact", "one key"]
    assert rows[0]["gate_gradient"] > 0 and rows[1]["gate_gradient"] == 0
    assert all(len(frame) == STEPS and np.isfinite(frame).all() for row in rows for frame in row["frames"])
    with Image.open(tmp_path / "approximation.gif") as film:
        assert 1 < film.n_frames <= FRAMES
    main(words)
    assert (tmp_path / "results.jsonl").read_text() == first
