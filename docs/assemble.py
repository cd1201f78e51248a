"""Lays the pages of the documentation site together in build/: `make docs` runs this, then the site generator.

Pages keep their places in the repository, so that a link works on the site as it does among the files. What a page
links to comes along. A name of ours in code, such as `liquid_control.nn.CfC`, becomes a link to the reference.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import yaml

PACKAGES = ("liquid_control", "policies", "agents", "envs")
FENCE = re.compile(r"^ *(```|~~~)")
LINK = re.compile(r"\]\(<?([^)\s>#]+)")
NAME = re.compile(rf"(?<![\[`])`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`(?!`)")

#: Pages that tell what once was: a name in them need not exist any more.
HISTORY = ("CHANGELOG.md", "benchmarks/README.md")


def expand(nav: list[Any], root: Path, named: set[str]) -> list[Any]:
    """The navigation with its patterns replaced by the pages that match and that no other entry names.

    Raises:
        ValueError: if a page does not exist, or a pattern matches none.
    """
    expanded: list[Any] = []
    for entry in nav:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(value, list):
            expanded.append({title: expand(value, root, named)})
        elif "*" in value:
            found = sorted(str(path.relative_to(root)) for path in root.glob(value) if path.suffix == ".md")
            pages = [page for page in found if page not in named]
            if not pages:
                raise ValueError(f"the navigation's {value} matches no page")
            expanded.extend([{title: pages}] if title else pages)
        elif (root / value).is_file():
            expanded.append(entry)
        else:
            raise ValueError(f"the navigation names {value}, which does not exist")
    return expanded


def pages_of(nav: list[Any]) -> Iterator[str]:
    """The paths of all pages that a navigation names, patterns among them, in order."""
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, list):
            yield from pages_of(value)
        else:
            yield value


def link_names(text: str, page: str, known: griffe.ModulesCollection) -> str:
    """The page's text with each name of ours that stands as code outside of code blocks made a link to the reference.

    Raises:
        ValueError: if there is no such name, unless the page tells history.
    """

    def link(match: re.Match[str]) -> str:
        try:
            found = known[match[1]]
            path = found.final_target.path if found.is_alias else found.path
        except (KeyError, griffe.AliasResolutionError):
            if page in HISTORY:
                return match[0]
            raise ValueError(f"{page} names {match[1]}, which does not exist") from None
        return f"[`{match[1]}`][{path}]"

    lines, fenced = [], False
    for line in text.splitlines(keepends=True):
        if FENCE.match(line):
            fenced = not fenced
        lines.append(line if fenced else NAME.sub(link, line))
    return "".join(lines)


def assemble(root: Path, build: Path) -> Path:
    """Writes pages, what they link to and the generator's configuration into ``build``; returns the latter's path.

    Raises:
        ValueError: if navigation or pages name something that does not exist, or a page of docs/ is in no navigation.
    """
    config = yaml.safe_load((root / "docs/mkdocs.yml").read_text().replace("{root}", str(root)))
    named = {page for page in pages_of(config["nav"]) if "*" not in page}
    config["nav"] = expand(config["nav"], root, named)
    pages = list(pages_of(config["nav"]))
    if left := {str(path.relative_to(root)) for path in root.glob("docs/**/*.md")} - set(pages):
        raise ValueError(f"no entry of the navigation leads to {', '.join(sorted(left))}")

    known = griffe.ModulesCollection()
    loader = griffe.GriffeLoader(modules_collection=known, search_paths=[root])
    for package in PACKAGES:
        loader.load(package)
    loader.resolve_aliases()

    shutil.rmtree(build / "docs", ignore_errors=True)
    for page in pages:
        text = (root / page).read_text()
        target = build / "docs" / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(link_names(text, page, known))
        for link in LINK.findall(text):
            source = (root / page).parent / link
            if source.is_file() and source.suffix != ".md":
                copy = build / "docs" / source.resolve().relative_to(root.resolve())
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)

    path = build / "mkdocs.yml"
    path.write_text(
        yaml.safe_dump(config | {"docs_dir": "docs", "site_dir": "site"}, sort_keys=False, allow_unicode=True)
    )
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--build", type=Path, default=Path("build"), help="where pages and configuration are written")
    print(assemble(Path(__file__).resolve().parent.parent, parser.parse_args().build))
