"""Suites: which cells they have, that every shift they name is there, and how they are found."""

import pytest

from envs.registration import FAST, OFFICIAL
from envs.shifts import SHIFTS
from envs.shifts.suites import ALL, SUITES, Cell, choose_cells, find_suite
from liquid_control.support.errors import UserError


@pytest.mark.parametrize("name", SUITES)
def test_every_shift_of_a_suite_is_there_and_is_for_car_racing(name):
    suite = SUITES[name]
    assert suite.shifts
    assert all("CarRacing" in SHIFTS[shift].environments for shift in suite.shifts)
    cells = choose_cells(suite)
    assert cells[0] == Cell()
    assert len(cells) == 1 + len(suite.shifts) * len(suite.severities)


def test_a_suite_without_a_shift_is_refused():
    with pytest.raises(UserError, match="needs a shift beside clean"):
        choose_cells(SUITES["quick"], ["clean"])


def test_the_quick_suite_has_every_family_and_about_250_episodes():
    quick = SUITES["quick"]
    assert {SHIFTS[shift].family for shift in quick.shifts} == {SHIFTS[shift].family for shift in ALL}
    assert 200 <= len(choose_cells(quick)) * quick.episodes <= 260
    assert quick.env == SUITES["full"].env == FAST and SUITES["published"].env == OFFICIAL


def test_shifts_and_severities_may_be_others():
    suite = SUITES["quick"]
    assert choose_cells(suite, ("fog", "clean", "rain:3+delay:2", "rain+fog"), (5, 2, 5)) == (
        Cell(), Cell("fog", 2), Cell("fog", 5), Cell("rain:3+delay:2"), Cell("rain+fog", 2), Cell("rain+fog", 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("suite", "found"),
    [("shift", "quick"), ("shift:quick", "quick"), ("shift:full", "full"), ("shift:published", "published")],
)
def test_suites_are_found_by_name(suite, found):
    assert find_suite(suite).name == found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_suite("shift:quik"), "unknown suite 'shift:quik'. did you mean 'shift:quick'?"),
        (lambda: find_suite("quick"), "unknown suite 'quick'"),
        (lambda: choose_cells(SUITES["quick"], ("fogg",)), "unknown shift 'fogg'. did you mean 'fog'?"),
        (lambda: choose_cells(SUITES["quick"], ("fog:9",)), "the severity of 'fog:9'"),
        (lambda: choose_cells(SUITES["quick"], ("rain+fogg",)), "did you mean 'fog'?"),
    ],
)
def test_what_is_unknown_is_answered_with_the_nearest(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
