"""The pictures of the Concepts pages can be drawn again, and each has its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.pictures import PICTURES, draw

CONCEPTS = Path(__file__).parents[2] / "docs/concepts"


def test_all_pictures_are_drawn(tmp_path):
    draw(tmp_path)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(drawn) == {path.name for path in CONCEPTS.glob("*.svg")}
    assert all("<path" in text and "<text" in text for text in drawn.values())


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_on_the_page_of_its_name(name):
    assert f"]({name}.svg)" in (CONCEPTS / f"{name}.md").read_text()
