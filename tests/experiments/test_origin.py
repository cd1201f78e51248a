"""The study of the origin's mends: every arm is a model of its own, and the table tells them apart."""

import json
import sys

import pytest

from liquid_control.experiments import origin
from liquid_control.experiments.origin import ARMS, MENDS, RATES, STATIC, main
from liquid_control.models.language_model import load_language_model
from liquid_control.support.errors import UserError


def test_arms_mend_each_alone_all_but_each_and_all():
    mended = [set(mends) for mends in ARMS.values() if mends is not None]
    assert ARMS[STATIC] is None and len(mended) == 10 and len({frozenset(mends) for mends in mended}) == 10
    assert sorted(map(len, mended)) == [0, 1, 1, 1, 1, 3, 3, 3, 3, 4]


def test_the_table_tells_the_difference_from_no_plasticity_and_its_interval(tmp_path, monkeypatch, capsys):
    losses = {STATIC: 2.0, "as published": 2.1, "all mended": 1.9}

    def measure(arm, rate, seed, config):
        loss = losses[arm] + 0.01 * seed + (rate == RATES[0])
        row = {"arm": arm, "rate": rate, "seed": seed, "parameters": 7, "seconds": 60.0}
        return row | {"validation_loss": loss, "bits_per_byte": loss}

    monkeypatch.setattr(origin, "measure", measure)
    (tmp_path / "text.txt").write_text("a text")
    words = [str(tmp_path), str(tmp_path / "text.txt"), "--seeds", "3", "--arms", *losses]
    main(words)
    told = capsys.readouterr().out
    assert f"| all mended | 1.910 | 1.900, 1.910, 1.920 | -0.100 | -0.100 to -0.100 | {RATES[1]:g} | 7 | 1.0 |" in told
    assert f"| {STATIC} | 2.010 | 2.000, 2.010, 2.020 |  |  | {RATES[1]:g} | 7 | 1.0 |" in told
    with pytest.raises(UserError, match=r"no arm .all mendet.*all mended"):
        main([*words[:5], "all mendet"])


def test_a_training_has_the_mends_of_its_arm_and_goes_on(tmp_path, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 80)
    words = [str(tmp_path / "study"), str(tmp_path / "text.txt"), "--arms", STATIC, "all but order"]
    words += "--seeds 1 --steps 1 --width 8".split()
    main(words)
    rows = [json.loads(line) for line in (tmp_path / "study/results.jsonl").read_text().splitlines()[1:]]
    assert [row["rate"] for row in rows] == list(RATES) * 2
    static, _ = load_language_model(tmp_path / "study" / "not-plastic-0.01-0" / "best")
    plastic, _ = load_language_model(tmp_path / "study" / "all-but-order-0.01-0" / "best")
    assert not static.config.plastic
    assert plastic.config.plastic and set(plastic.config.mends) == set(MENDS) - {"order"}
