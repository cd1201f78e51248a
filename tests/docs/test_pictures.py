"""The pictures of the Concepts pages and of the shifts can be drawn again, and each has its page."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from docs.pictures import PICTURES, SHOWN, draw, draw_shifts
from envs.shifts import SHIFTS
from envs.shifts.base import PictureShift

DOCS = Path(__file__).parents[2] / "docs"
CONCEPTS = DOCS / "concepts"


def test_all_pictures_are_drawn(tmp_path):
    draw(tmp_path)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(drawn) == {path.name for path in CONCEPTS.glob("*.svg")}
    assert all("<path" in text and "<text" in text for text in drawn.values())


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_on_the_page_of_its_name(name):
    assert f"]({name}.svg)" in (CONCEPTS / f"{name}.md").read_text()


def test_the_picture_of_the_shifts_shows_what_they_do_now(tmp_path):
    draw_shifts(tmp_path / "shifts.jpg")
    drawn, committed = (cv2.imread(str(folder / "shifts.jpg")).astype(int) for folder in (tmp_path, DOCS / "how_to"))
    assert drawn.shape == committed.shape
    assert np.abs(drawn - committed).mean() < 2, "draw it anew: python docs/pictures.py"
    assert "](shifts.jpg)" in (DOCS / "how_to/shifts.md").read_text()


def test_the_picture_of_the_shifts_has_all_that_change_playfields():
    seen = {name for name, info in SHIFTS.items() if issubclass(info.shift, PictureShift) and not info.touches_gauges}
    assert seen <= set(SHOWN)
