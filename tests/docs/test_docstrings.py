"""Docstrings become the Markdown of the reference pages."""

from __future__ import annotations

import griffe
import pytest

from docs.docstrings import ToMarkdown

MODULE = '''
"""A module.

>>> 1 + 1
2
>>> 2 + 2
4

The end of :func:`double`, :func:`_hidden` and :class:`torch.Tensor`.
"""

def double(x):
    """Twice x."""

def _hidden(x):
    """Thrice x."""

class Base:
    """Has :meth:`step`."""

    def step(self):
        """Goes on."""

class Layer(Base):
    """Inherits :meth:`step`, and names :attr:`Base.step`."""
'''


@pytest.fixture
def room(tmp_path):
    """The module above, as the reference pages see it."""
    (tmp_path / "room.py").write_text(MODULE)
    return griffe.load("room", search_paths=[tmp_path], extensions=griffe.load_extensions(ToMarkdown))


def test_interactive_examples_become_blocks_of_code(room):
    assert "```pycon\n>>> 1 + 1\n2\n>>> 2 + 2\n4\n```\n\nThe end" in room.docstring.value


def test_roles_become_links_to_what_the_reference_shows_and_code_elsewhere(room):
    assert room.docstring.value.endswith("The end of [`double`][room.double], `_hidden` and `torch.Tensor`.")
    assert room["Base"].docstring.value == "Has [`step`][room.Base.step]."
    assert (
        room["Layer"].docstring.value == "Inherits [`step`][room.Base.step], and names [`Base.step`][room.Base.step]."
    )
