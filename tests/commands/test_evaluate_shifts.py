"""``evaluate --suite shift``: every episode once, whatever happens, and a page that is read in a real browser."""

import contextlib
import io
import json
import subprocess
import sys
import time

import pytest
import torch

from agents.pool import RolloutPool
from agents.road_rollout import RoadJudgement
from envs.registration import FAST, STAND_IN, UDACITY
from liquid_control.evaluate import main
from liquid_control.report.shift_results import read_results
from liquid_control.support.errors import UserError
from policies.driver import Driver, DriverConfig
from tests.commands.conftest import open_file, straight_driver

TINY = ("--suite", "shift:quick", "--shifts", "dark", "bars", "rain:3+delay:2", "--severities", "1", "5",
        "--episodes", "2", "--workers", "2")  # fmt: skip


def save_faster(folder):
    driver = straight_driver()
    with torch.no_grad():
        driver.hands.offset.copy_(torch.tensor([0.01, 0.7, 0.0]))
    driver.save(folder, {"job": {"seed": 3}})
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The folder of a suite that two policies have driven, their checkpoints, and what was printed."""
    folder = tmp_path_factory.mktemp("suite")
    straight_driver().save(folder / "straight")
    checkpoints = [str(folder / "straight"), f"faster={save_faster(folder / 'other')}"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([*checkpoints, *TINY, "--output", str(folder / "results")])
    return folder / "results", checkpoints, printed.getvalue()


def told(row):
    """All of a row that is the same whenever it is driven."""
    return {name: value for name, value in vars(row).items() if name not in ("seconds", "run")}


def test_every_policy_drives_the_same_tracks_under_every_shift(suite):
    folder, _, output = suite
    results = read_results(folder / "episodes.jsonl")
    met = {}
    for key in results.rows:
        met.setdefault((key.policy, key.training), set()).add(key[2:])
    assert met["straight", 0] == met["faster", 3]
    assert len(met["straight", 0]) == (1 + 2 * 2 + 1) * 2
    assert {key.env for key in results.rows} == {FAST}
    assert [run.primary for run in results.runs] == [("straight", "faster")]
    assert "gymnasium" in results.runs[0].versions
    kept = [key.seed for key, row in results.rows.items() if row.way]
    assert set(kept) == {2_000_000} and len(kept) == 12
    for shown in ("straight", "faster", "rain:3+delay:2", "mCE", "severities 4", "report.html"):
        assert shown in output


def test_the_markdown_and_the_curves_tell_the_same(suite):
    folder, _, _ = suite
    results, text = read_results(folder / "episodes.jsonl"), (folder / "report.md").read_text()
    scores = [row.score for row in results.rows.values() if (row.policy, row.shift) == ("faster", "clean")]
    row = next(line for line in text.splitlines() if line.startswith("| clean | – | faster |"))
    assert row.split(" | ")[3].replace("−", "-") == f"{sum(scores) / 2:.1f}"
    assert "100 %" in text and "declared before the run" in text
    assert len(list((folder / "tensorboard").iterdir())) == 1


def test_the_same_command_again_drives_nothing_and_writes_the_same_page(suite, command):
    folder, checkpoints, _ = suite
    before = {name: (folder / name).read_bytes() for name in ("episodes.jsonl", "report.html", "report.md")}
    status, output, _ = command(main, *checkpoints, *TINY, "--output", folder)
    assert status == 0
    assert "24 of them are in" in output
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert len(list((folder / "tensorboard").iterdir())) == 1


def test_what_was_stopped_and_torn_goes_on_to_the_same_rows(suite, command, tmp_path, python):
    finished, checkpoints, _ = suite
    folder = tmp_path / "killed"
    words = [python, "-m", "liquid_control.evaluate", *checkpoints, *TINY, "--workers", "1", "--output", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    path, deadline = folder / "episodes.jsonl", time.monotonic() + 100
    while not path.exists() or path.read_bytes().count(b"\n") < 4:  # most is left, so that it cannot end before
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.communicate(timeout=60)[1] == "stopped.\n"
    assert process.returncode == 143
    path.write_bytes(path.read_bytes()[:-7])  # as a kill amid a line leaves it
    there = len(read_results(path).rows)
    assert 0 < there < 24
    status, output, _ = command(main, *checkpoints, *TINY, "--output", folder)
    assert status == 0
    assert f"{there} of them are in" in output
    results = read_results(path)
    assert path.read_text().count("\n") == 1 + 2 + 24  # the head, two runs, and each episode once
    assert len(results.runs) == 2
    expected = {key: told(row) for key, row in read_results(finished / "episodes.jsonl").rows.items()}
    assert {key: told(row) for key, row in results.rows.items()} == expected


def test_a_ray_of_two_processors_drives_the_same_rows(suite, command, tmp_path, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)  # what Ray starts has loaded torch already
    finished, checkpoints, _ = suite
    words = [*TINY, "--shifts", "dark:1", "--engine", "ray", "--output", tmp_path / "ray"]
    status, _, errors = command(main, checkpoints[0], *words)
    assert status == 0, errors
    rows = read_results(tmp_path / "ray" / "episodes.jsonl").rows
    expected = read_results(finished / "episodes.jsonl").rows
    driven = [
        each
        for each in expected.values()
        if each.policy == "straight" and (each.shift, each.severity) in (("clean", 0), ("dark", 1))
    ]
    assert sorted(each.score for each in rows.values()) == sorted(each.score for each in driven)
    assert len(rows) == 4


def other_version(folder, checkpoint):
    path = folder / "episodes.jsonl"
    path.write_text(path.read_text().replace('"version":1', '"version":2', 1))


def other_weights(folder, checkpoint):
    driver = straight_driver()
    with torch.no_grad():
        driver.hands.gain += 1
    driver.save(checkpoint)


def unchanged(folder, checkpoint):
    pass


@pytest.mark.parametrize(
    ("arguments", "spoil", "message"),
    [
        (["--suite", "shift:quik"], unchanged, "did you mean 'shift:quick'?"),
        ([*TINY, "--shifts", "fogg"], unchanged, "unknown shift 'fogg'. did you mean 'fog'?"),
        ([*TINY, "--shifts", "fog:7"], unchanged, "the severity of 'fog:7'"),
        ([*TINY, "--severities", "6"], unchanged, "--severities must be at least 1 and at most 5, not 6"),
        ([*TINY, "--primary", "straight", "fastr"], unchanged, "no policy here is called 'fastr'"),
        ([*TINY, "--baseline", "strait"], unchanged, "did you mean 'straight'?"),
        ([*TINY, "--freeze-plasticity", "straigt"], unchanged, "no policy here is called 'straigt'"),
        ([*TINY, "--freeze-plasticity", "straight"], unchanged, "has no plastic synapses to freeze"),
        ([*TINY, "--primary", "straight"], unchanged, "--primary names two policies, not 1"),
        ([*TINY, "--env", "CarRacing-v4"], unchanged, "did you mean 'CarRacing-v3'?"),
        ([*TINY, "--ray-address", "auto"], unchanged, "--ray-address is for --engine ray"),
        (TINY, other_version, "has version 2 of the format"),
        (TINY, other_weights, "driven by other weights"),
    ],
)
def test_what_is_wrong_is_one_line_and_the_rows_stay(arguments, spoil, message, suite, tmp_path, command):
    finished, _, _ = suite
    folder, checkpoint = tmp_path / "results", tmp_path / "straight"
    folder.mkdir()
    straight_driver().save(checkpoint)
    (folder / "episodes.jsonl").write_bytes((finished / "episodes.jsonl").read_bytes())
    spoil(folder, checkpoint)
    before = (folder / "episodes.jsonl").read_bytes()
    status, _, errors = command(main, checkpoint, *arguments, "--output", folder)
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors
    assert (folder / "episodes.jsonl").read_bytes() == before


def test_a_checkpoint_of_another_environment_is_named_and_nothing_is_driven(checkpoint, tmp_path, command):
    Driver(DriverConfig(env=UDACITY)).save(tmp_path / "roads")
    status, _, errors = command(main, checkpoint, tmp_path / "roads", *TINY, "--output", tmp_path / "results")
    assert status == 2
    assert f"{tmp_path / 'roads'}: this driver sees" in errors and errors.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shifts", "rain"], "--shifts is an option of --suite"),
        (["--baseline", "mlp"], "--baseline is an option of --suite"),
        (["--freeze-plasticity", "mlp"], "--freeze-plasticity is an option of --suite"),
        (["--engine", "ray"], "--engine is an option of --suite"),
        (["another"], "2 checkpoints were given: one is evaluated at a time"),
    ],
)
def test_without_a_suite_its_options_are_refused(arguments, message, checkpoint, command):
    status, _, errors = command(main, checkpoint, *arguments)
    assert status == 2
    assert message in errors and errors.count("\n") == 1


def test_a_broken_checkpoint_is_one_line(broken_checkpoint, command, tmp_path):
    checkpoint, message = broken_checkpoint
    status, _, errors = command(main, checkpoint, *TINY, "--output", tmp_path / "results")
    assert status == 2
    assert message in errors and errors.count("\n") == 1


def test_drivers_of_the_simulator_are_judged_on_roads(tmp_path, command, monkeypatch):
    judged = []

    def judge(driver, track, speed, laps, shifts):
        judged.append((track, speed, laps, shifts))
        bad = shifts == "dark:3" and speed > 20
        return RoadJudgement(track, speed, "clear", laps, seconds=60.0, departures=2 * bad, touches=3)

    class Pool(RolloutPool):
        """In this process."""

        def map_as_completed(self, function, shares):
            return ((index, function(*share)) for index, share in enumerate(shares))

    monkeypatch.setattr("liquid_control.report.shift_suite.judge_road", judge)
    monkeypatch.setattr("liquid_control.evaluate.RolloutPool", Pool)
    Driver(DriverConfig(env=UDACITY)).save(tmp_path / "roads")
    words = ["--suite", "shift:full", "--shifts", "dark:3", "--episodes", "1", "--workers", "1"]
    status, output, _ = command(main, tmp_path / "roads", *words, "--output", tmp_path / "results")
    assert status == 0
    assert "departures a lap" in output and "shifts of body and time" in output
    assert judged == [("2000000", speed, 1.0, shifts) for shifts in ("", "dark:3") for speed in (15.0, 25.0)]
    clean, dark = read_results(tmp_path / "results" / "episodes.jsonl").rows.values()
    assert (clean.env, clean.score, clean.lap, clean.departures, clean.steps) == (STAND_IN, 100.0, True, 0, 120)
    assert (dark.score, dark.lap, dark.departures, dark.touches) == (90.0, False, 2, 6)  # twice 6 of 120 seconds
    text = (tmp_path / "results" / "report.md").read_text()
    assert "line crossed a lap" in text and "Bojarski" in text and "tiles" not in text
    row = next(line for line in text.splitlines() if line.startswith("| dark:3 | – |"))
    assert row.endswith("| 0/1 | 1.00 | 3.00 |")
    status, _, errors = command(main, tmp_path / "roads", "--suite", "shift:published")
    assert (status, errors.count("\n")) == (2, 1)
    assert "is of CarRacing alone: for roads there are quick and full" in errors


def test_attacks_are_driven_where_they_are_asked_for_and_go_on(tmp_path, command):
    torch.manual_seed(0)
    driver = Driver(DriverConfig(policy="plastic")).eval()
    with torch.no_grad():
        driver.hands.gain.fill_(0.01)
        driver.hands.offset.copy_(torch.tensor([0.01, 0.7, 0.0]))
    driver.save(tmp_path / "plastic")
    words = [tmp_path / "plastic", f"frozen={tmp_path / 'plastic'}", "--freeze-plasticity", "frozen"]
    words += ["--suite", "shift:quick", "--shifts", "fgsm:1", "drift:1", "--episodes", "1", "--workers", "2"]
    words += ["--output", tmp_path / "results"]
    status, output, errors = command(main, *words)
    assert (status, errors) == (0, "")
    assert "attacks" not in next(line for line in output.splitlines() if line.startswith("Left out"))
    rows = read_results(tmp_path / "results" / "episodes.jsonl").rows
    assert len(rows) == 2 * 3
    status, output, _ = command(main, *words)
    assert status == 0 and "6 of them are in" in output
    assert "fgsm:1" in (tmp_path / "results" / "report.md").read_text()


# ---- in a browser ----


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (360, "light")])
def test_a_browser_shows_all_of_it_at_any_width(browser, suite, width, scheme):
    folder, _, _ = suite
    with open_file(browser, folder / "report.html", width, scheme) as (page, said, asked):
        assert asked == [(folder / "report.html").as_uri()]
        titles = page.eval_on_selector_all("h2", "all => all.map(each => each.textContent)")
        assert titles == [
            "Summary", "Shifts and policies", "Over severity", "Performance profiles", "What the driver sees",
            "Laps side by side", "Every shift at every severity", "Comparisons", "How it was measured",
        ]  # fmt: skip
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.eval_on_selector_all("img", "all => all.every(each => each.naturalWidth === 96 && each.alt)")
        assert page.locator("img").count() == 4  # clean, and each shift once
        assert page.locator("table.heat tbody tr").count() == 4
        unnamed = "all => all.filter(each => !each.ariaHidden && !each.getAttribute('aria-label')).length"
        assert page.eval_on_selector_all("svg", unnamed) == 0
        drawn = page.eval_on_selector_all("path.line", "all => all.map(each => each.getBBox().width)")
        assert len(drawn) > 10 and sum(each > 5 for each in drawn) > 10
        assert said == []


def column(page, place):
    return page.eval_on_selector_all(
        ".card:nth-of-type(7) tbody tr", "(rows, place) => rows.map(row => row.cells[place].textContent)", place
    )


def test_tables_are_sorted_by_click_and_by_keyboard(browser, suite):
    folder, _, _ = suite
    with open_file(browser, folder / "report.html") as (page, said, _):
        table = page.locator(".card:nth-of-type(7) table")
        heads = table.locator("thead th")
        heads.nth(3).locator("button").click()  # mean
        assert heads.nth(3).get_attribute("aria-sort") == "descending"
        means = [float(text.replace("−", "-")) for text in column(page, 3)]
        assert means == sorted(means, reverse=True)
        heads.nth(3).locator("button").click()
        assert heads.nth(3).get_attribute("aria-sort") == "ascending"
        assert column(page, 3) == [f"{each:.1f}".replace("-", "−") for each in sorted(means)]
        heads.nth(0).locator("button").focus()
        page.keyboard.press("Enter")
        assert heads.nth(0).get_attribute("aria-sort") == "ascending"
        assert heads.nth(3).get_attribute("aria-sort") is None
        shifts = column(page, 0)
        assert shifts == sorted(shifts) and len(set(shifts)) == 4
        page.keyboard.press("Space")
        assert heads.nth(0).get_attribute("aria-sort") == "descending"
        assert column(page, 0) == sorted(shifts, reverse=True)
        assert said == []


def test_names_of_policies_are_text_and_no_markup(browser, command, checkpoint, tmp_path):
    name = '<img src>" & <b>'
    words = ["--suite", "shift", "--shifts", "dark:2", "--episodes", "1", "--workers", "1", "--output", tmp_path / "r"]
    status, _, _ = command(main, f"{name}={checkpoint}", *words)
    assert status == 0
    with open_file(browser, tmp_path / "r" / "report.html") as (page, said, asked):
        assert name in page.inner_text("h1")
        assert page.locator("b").count() == 0 and page.locator("img").count() == 2
        assert said == [] and len(asked) == 1
    row = json.loads((tmp_path / "r" / "episodes.jsonl").read_text().splitlines()[-1])
    assert (row["policy"], row["shift"], row["severity"]) == (name, "dark:2", 0)


def test_a_suite_does_not_write_into_the_folder_of_a_run(suite, tmp_path):
    _, checkpoints, _ = suite
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="is the folder of a run: name another --output"):
        main([*checkpoints, *TINY, "--output", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
