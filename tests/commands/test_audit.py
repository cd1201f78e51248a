"""``audit``: a page about a driver, which is read in a real browser, and its numbers."""

import contextlib
import io
import json
import re

import numpy as np
import pytest

from liquid_control.audit import main
from liquid_control.report.audit_page import heat
from policies.driver import Driver, DriverConfig
from tests.commands.conftest import open_file, straight_driver

TINY = ("--frames", "24", "--lesions", "1")
SECTIONS = [
    "Summary", "The lap: what the eyes look at, and the wiring at work", "Saliency under noise",
    "Neurons, the road and the car", "Time constants", "Principal components", "How steep the map of the state is",
    "Lesions", "Beside the NCP paper", "How it was measured",
]  # fmt: skip
SHIPPED = "checkpoints/CarRacing-v3/cfc"


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """The folder of the audit of a shipped driver, and what was printed."""
    folder = tmp_path_factory.mktemp("audit") / "new"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([SHIPPED, *TINY, "--output", str(folder)])
    return folder, printed.getvalue()


def test_the_numbers_are_those_of_the_page(audited):
    folder, printed = audited
    numbers, page = json.loads((folder / "audit.json").read_text()), (folder / "audit.html").read_text()
    assert numbers["checkpoint"] == SHIPPED and numbers["driver"] in page
    assert numbers["lap"] | {"score": 0} == {
        "env": "liquid_control/FastCarRacing-v3", "seed": 2_000_000, "steps": 24, "decisions": 24, "completed": False,
        "score": 0,
    }  # fmt: skip
    for each in numbers["saliency_under_noise"]:
        assert each["interval"][0] <= each["ssim"] <= each["interval"][1]
        assert f"{each['ssim']:.3f} (95 %" in page and f"{each['ssim']:.3f} (95 %" in printed
    assert [each["variance"] for each in numbers["saliency_under_noise"]] == [0.1, 0.2, 0.3]
    costs = [each["steering_rms"] for each in numbers["lesions"]["synapses"]]
    assert costs == sorted(costs, reverse=True) and costs[0] > 0.001
    lost = [each["score_lost"] for each in numbers["lesions"]["synapses"]]
    assert lost[0] is not None and lost[1:] == [None] * (len(lost) - 1)
    assert len(numbers["lesions"]["tracks"]) == 3
    assert f"{numbers['principal_components'][0]:.1%}" in page
    assert f"largest {numbers['state_map']['largest']:.3f}" in page
    for theirs in ("92.0%", "83.0%", "60.0%", "51.0%", "1,065", "79,420", "lane keeping", "no comparison of like with"):
        assert theirs in page


def test_the_same_command_again_finds_the_same(audited, tmp_path, command):
    folder, _ = audited
    status, _, _ = command(main, SHIPPED, *TINY, "--output", tmp_path)
    assert status == 0
    for name in ("audit.json", "audit.html"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_by_default_it_is_among_the_runs(checkpoint, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output, _ = command(main, checkpoint, "--frames", "1", "--lesions", "0")
    assert status == 0
    assert "written: runs/audit-driver/audit.html, runs/audit-driver/audit.json" in output
    numbers = json.loads((tmp_path / "runs/audit-driver/audit.json").read_text())
    # It steers straight on whatever its neurons do.
    assert {each["steering_rms"] for each in numbers["lesions"]["synapses"]} == {0}
    assert numbers["correlations"]["neurons"]["inter 0"]["speed"] == {"pearson": None, "spearman": None}


def test_a_broken_checkpoint_is_one_line_and_status_2(broken_checkpoint, command):
    checkpoint, message = broken_checkpoint
    status, _, errors = command(main, checkpoint)
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "0"], "--frames must be at least 1"),
        (["--lesions", "-1"], "--lesions must be at least 0"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--output", "{checkpoint}/config.json"], "cannot write .*config.json"),
        (["--output", "/proc/nowhere"], "cannot write /proc/nowhere/audit.html"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(words, message, checkpoint, command):
    status, _, errors = command(main, checkpoint, *(word.format(checkpoint=checkpoint) for word in words))
    assert status == 2
    assert re.match(f"error: {message}", errors) and errors.count("\n") == 1


def test_drivers_of_other_environments_and_of_tiny_pictures_are_refused(tmp_path, command):
    vector = {"size": 3, "low": [-2.0], "high": [2.0]}
    Driver(DriverConfig("Pendulum-v1", vector=vector)).save(tmp_path / "pendulum")
    Driver(DriverConfig(playfield=(8, 20), kernels=(3, 2, 1))).save(tmp_path / "tiny")
    for name, message in (("pendulum", "this one drives Pendulum-v1"), ("tiny", "this driver's is 8 × 20")):
        status, _, errors = command(main, tmp_path / name, "--output", tmp_path / "audit")
        assert status == 2 and message in errors and errors.count("\n") == 1
    assert not (tmp_path / "audit").exists()


def test_the_name_of_a_checkpoint_is_text_and_no_markup(tmp_path, command):
    folder = tmp_path / "<b>&amp;<script>{{content}}"
    straight_driver().save(folder)
    status, _, _ = command(main, folder, "--frames", "1", "--lesions", "0", "--output", tmp_path / "audit")
    assert status == 0
    page = (tmp_path / "audit/audit.html").read_text()
    assert page.count("&lt;b&gt;&amp;amp;&lt;script&gt;{{content}}") == 2 and "<b>" not in page


def test_saliency_lights_up_what_is_salient():
    camera, salient = np.full((84, 96, 3), 200, np.uint8), np.zeros((28, 32), np.float32)
    salient[10, 20] = 1
    picture = heat(camera, salient)
    assert picture.shape == camera.shape and picture.dtype == np.uint8
    assert picture[31, 61].sum() > 400 > picture[80, 5].sum()
    assert (picture[80, 5] == picture[5, 90]).all()


# ---- in a browser ----


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (360, "light")])
def test_a_browser_shows_all_of_it_at_any_width(browser, audited, width, scheme):
    folder, _ = audited
    with open_file(browser, folder / "audit.html", width, scheme) as (page, said, asked):
        assert asked == [(folder / "audit.html").as_uri()]
        assert page.eval_on_selector_all("h2", "all => all.map(each => each.textContent)") == SECTIONS
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not page.locator("#sheet").is_visible()
        assert page.locator("#wiring circle").count() == 39 + 19
        assert page.locator("table.signed tbody tr").count() == 19
        unnamed = "all => all.filter(each => !each.getAttribute('aria-label')).length"
        assert page.eval_on_selector_all("svg, canvas, input", unnamed) == 0
        drawn = page.eval_on_selector_all("path.line", "all => all.map(each => each.getBBox().width)")
        assert len(drawn) == 3 and min(drawn) > 100
        assert said == []


FILM = "() => document.getElementById('film').toDataURL()"
FILLS = "all => all.map(each => each.style.fill).join()"


def test_the_slider_moves_film_and_wiring_and_play_goes_on(browser, audited):
    folder, _ = audited
    with open_file(browser, folder / "audit.html") as (page, said, _):
        slider = page.locator("#moment")

        def seen():
            return page.evaluate(FILM), page.eval_on_selector_all("#wiring circle", FILLS), page.inner_text("#told")

        first = seen()
        slider.focus()
        page.keyboard.press("End")
        last = seen()
        assert "decision 24 of 24" in last[2]
        assert all(one != other for one, other in zip(first, last, strict=True))
        page.select_option("#shown", "mean")
        assert page.eval_on_selector_all("#wiring circle", FILLS) != last[1]
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("() => Number(document.getElementById('moment').value) < 12")
        page.get_by_role("button", name="Pause").click()
        stopped = slider.input_value()
        page.wait_for_timeout(250)
        assert slider.input_value() == stopped
        assert said == []
