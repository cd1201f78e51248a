"""What the docstrings have that Markdown has not, made Markdown for the reference pages.

Sphinx roles, such as :class:`CfC`, become links, and interactive examples become blocks of code. Griffe, which reads
the docstrings for mkdocstrings, loads this file by its path.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|attr|data|mod):`~?([^`]+)`")
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class ToMarkdown(griffe.Extension):
    """Rewrites every docstring once the whole package has been read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites the docstring of ``obj``."""
        if obj.docstring:
            text = EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", obj.docstring.value)
            obj.docstring.value = ROLE.sub(lambda role: link(obj, role[1]), text)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrites the package's own docstring: Griffe announces the package itself apart from what it holds."""
        self.on_object(obj=pkg)


def link(obj: griffe.Object, name: str) -> str:
    """A link to what ``name`` means in the docstring of ``obj``, or plain code where the reference does not have it."""
    target = find(obj, name)
    return f"[`{name}`][{target}]" if target else f"`{name}`"


def find(obj: griffe.Object, name: str) -> str | None:
    """The path of the documented public object that ``name`` means where ``obj`` is defined."""
    first, _, rest = name.partition(".")
    path = name
    scope: griffe.Object | None = obj
    while scope is not None:
        members = scope.all_members if scope.is_class else scope.members
        if first in members:
            member = members[first]
            path = (member.target_path if isinstance(member, griffe.Alias) else member.path) + (rest and f".{rest}")
            break
        scope = scope.parent
    try:
        found = obj.modules_collection[path]
    except (KeyError, griffe.AliasResolutionError):
        return None
    return path if found.is_public and found.has_docstring else None
