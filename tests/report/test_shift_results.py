"""Results under shift on disk: no episode is lost, none is driven twice, and what is not ours is left alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from envs.shifts.suites import Cell
from liquid_control.report.shift_results import Results, ResultsWriter, Row, Run, read_results
from liquid_control.support.errors import UserError

RUN = Run(config={"suite": "quick"}, versions={"torch": "2"}, machine="a machine", primary=("cfc", "mlp"))
ROW = Row(
    run=0, policy="cfc", training=0, weights="a" * 64, env="CarRacing-v3", shift="rain", severity=3, seed=2_000_000,
    score=912.5, lap=True, tiles=1.0, off_road=0.01, steps=700, seconds=0.7, way=((1.5, 2.0), (3.0, 4.5)),
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "episodes.jsonl"


def write(path, *rows, run=RUN, number=0):
    with ResultsWriter(path, run, number) as writer:
        for row in rows:
            writer.add(row)


def test_what_was_driven_is_read_again(path):
    other = replace(ROW, seed=2_000_001, way=(), lap=False)
    write(path, ROW)
    write(path, other, run=replace(RUN, primary=()), number=1)
    results = read_results(path)
    assert results.runs == [RUN, replace(RUN, primary=())]
    assert list(results.rows.values()) == [ROW, other]
    assert ROW.key in results.rows and replace(ROW, severity=4).key not in results.rows


def test_no_file_holds_nothing(path):
    assert read_results(path) == Results()


@pytest.mark.parametrize("lost", [1, 20, 150])
def test_a_line_that_a_kill_cut_off_is_dropped_and_the_file_goes_on(path, lost):
    write(path, ROW, replace(ROW, seed=1))
    path.write_bytes(path.read_bytes()[:-lost])
    assert list(read_results(path).rows) == [ROW.key]
    write(path, replace(ROW, seed=2), number=1)
    assert [key.seed for key in read_results(path).rows] == [2_000_000, 2]


def test_a_kill_amid_the_first_line_leaves_an_empty_file(path):
    path.write_text('{"format":"liquid-con')
    assert read_results(path) == Results()
    write(path, ROW)
    assert list(read_results(path).rows) == [ROW.key]


def test_a_row_is_on_disk_as_soon_as_it_is_added(path):
    with ResultsWriter(path, RUN, 0) as writer:
        writer.add(ROW)
        assert list(read_results(path).rows) == [ROW.key]


def with_head(path, **changes):
    head, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(head) | changes), *rest]) + "\n")


def with_row(path, **changes):
    *rest, row = path.read_text().splitlines()
    path.write_text("\n".join([*rest, json.dumps(json.loads(row) | changes)]) + "\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: with_head(path, version=2), "has version 2 of the format"),
        (lambda path: with_head(path, format="something"), "holds no results under shift"),
        (lambda path: with_row(path, score=float("nan")), "an episode in .* is wrong at 0.score"),
        (lambda path: with_row(path, tiles=1.5), "wrong at 0.tiles"),
        (lambda path: with_row(path, policy=3), "wrong at 0.policy"),
        (lambda path: path.write_text(path.read_text() + "{torn}\n"), "damaged in line 4"),
        (lambda path: path.write_text("[1]\n"), "damaged in line 1"),
        (lambda path: path.write_bytes(b"\xff\xfe\n"), "is no text"),
    ],
)
def test_what_makes_no_sense_is_one_error_and_stays(path, spoil, message):
    write(path, ROW)
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=message):
        read_results(path)
    assert path.read_bytes() == before


def test_other_weights_under_a_name_are_refused(path):
    results = Results(rows={ROW.key: ROW})
    results.check_weights({("cfc", 0): "a" * 64, ("cfc", 1): "b" * 64, ("mlp", 0): "b" * 64}, path)
    with pytest.raises(UserError, match=r"'cfc' \(training seed 0\) driven by other weights \(aaaaaaaa, not bbbbbbbb"):
        results.check_weights({("cfc", 0): "b" * 64}, path)


def test_a_comparison_is_declared_before_it_is_known():
    driven = Results(rows={each.key: each for each in (ROW, replace(ROW, policy="mlp"))})
    assert Results().declare_primary(["cfc"]) == ()
    assert Results().declare_primary(["cfc", "ltc", "mlp"]) == ("cfc", "mlp")
    assert Results().declare_primary(["cfc", "ltc", "mlp"], ["ltc", "cfc"]) == ("ltc", "cfc")
    assert driven.declare_primary(["cfc", "mlp"]) == ()  # too late
    with pytest.raises(UserError, match="none was declared here, and cfc and mlp have driven already"):
        driven.declare_primary(["cfc", "mlp"], ["cfc", "mlp"])
    assert driven.declare_primary(["cfc", "mlp", "new"], ["new", "cfc"]) == ("new", "cfc")
    told = replace(driven, runs=[RUN])
    assert told.declare_primary(["mlp", "cfc"]) == ("cfc", "mlp")
    with pytest.raises(UserError, match="cfc and mlp were declared here"):
        told.declare_primary(["cfc", "mlp"], ["mlp", "cfc"])


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(), ""),
        (Cell("rain", 3), "rain:3"),
        (Cell("rain+delay", 2), "rain:2+delay:2"),
        (Cell("rain:3+delay", 2), "rain:3+delay:2"),
        (Cell("rain:3+delay:2"), "rain:3+delay:2"),
    ],
)
def test_a_cell_is_written_as_shifts_are_read(cell, text):
    assert cell.text == text
    assert str(cell) == (text or "clean")
