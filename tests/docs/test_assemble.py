"""The site's pages are laid together, and what is missing or misspelt in them is found."""

from __future__ import annotations

import griffe
import pytest
import yaml

from docs.assemble import assemble, expand, link_names


@pytest.fixture
def repository(tmp_path):
    """A small repository with a package, two pages, a picture and a navigation."""
    (tmp_path / "docs/more").mkdir(parents=True)
    (tmp_path / "docs/mkdocs.yml").write_text(
        'nav: [Home: README.md, {More: ["docs/more/*"]}]\nplugins: ["{root}/policies"]'
    )
    (tmp_path / "README.md").write_text("# Home\n\n![a car](docs/car.png) and [more](docs/more/one.md)\n")
    (tmp_path / "docs/more/one.md").write_text(
        "# One\n\n`policies.driver.Driver` drives, see [the file](../../drive.py).\n"
    )
    (tmp_path / "docs/car.png").write_bytes(b"picture")
    (tmp_path / "drive.py").write_text("print()\n")
    for package in ("liquid_control", "agents", "envs", "policies"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "policies/driver.py").write_text('class Driver:\n    """Drives."""\n')
    return tmp_path


def test_pages_keep_their_places_and_bring_what_they_link_to(repository):
    config = yaml.safe_load(assemble(repository, repository / "build").read_text())
    assert config["nav"] == [{"Home": "README.md"}, {"More": ["docs/more/one.md"]}]
    assert config["plugins"] == [f"{repository}/policies"]
    assert (repository / "build/docs/docs/car.png").read_bytes() == b"picture"
    assert (repository / "build/docs/drive.py").exists()
    assert (
        "[`policies.driver.Driver`][policies.driver.Driver] drives"
        in (repository / "build/docs/docs/more/one.md").read_text()
    )


def test_what_an_earlier_build_left_is_gone(repository):
    assemble(repository, repository / "build")
    (repository / "docs/more/one.md").rename(repository / "docs/more/two.md")
    (repository / "README.md").write_text("# Home\n")
    assemble(repository, repository / "build")
    assert not (repository / "build/docs/docs/more/one.md").exists()


def test_a_page_that_the_navigation_forgets_is_named(repository):
    (repository / "docs/left.md").write_text("# Left\n")
    with pytest.raises(ValueError, match=r"leads to docs/left\.md"):
        assemble(repository, repository / "build")


def test_a_pattern_leaves_out_pages_with_an_entry_of_their_own(repository):
    (repository / "docs/more/index.md").write_text("# More\n")
    nav = [{"More": ["docs/more/index.md", "docs/more/*"]}]
    assert expand(nav, repository, {"docs/more/index.md"}) == [{"More": ["docs/more/index.md", "docs/more/one.md"]}]


@pytest.mark.parametrize(("entry", "message"), [("docs/gone.md", "does not exist"), ("docs/gone/*", "matches no page")])
def test_a_navigation_to_nothing_is_an_error(repository, entry, message):
    with pytest.raises(ValueError, match=message):
        expand([{"Gone": entry}], repository, set())


class TestNames:
    @pytest.fixture
    def known(self, repository):
        """Griffe's view of the small repository."""
        loader = griffe.GriffeLoader(search_paths=[repository])
        loader.load("policies")
        return loader.modules_collection

    def test_a_name_that_does_not_exist_is_an_error(self, known):
        with pytest.raises(ValueError, match=r"page\.md names policies\.driver\.Rider, which does not exist"):
            link_names("`policies.driver.Rider`", "page.md", known)

    def test_the_changelog_may_name_what_is_gone(self, known):
        assert link_names("`policies.driver.Rider`", "CHANGELOG.md", known) == "`policies.driver.Rider`"

    @pytest.mark.parametrize(
        "text",
        [
            "```python\nx = `policies.driver`\n```\n",
            "[`policies.driver`](driver.md)",
            "`python -m policies.driver`",
            "``policies.driver``",
        ],
    )
    def test_code_blocks_links_and_commands_stay_as_they_are(self, known, text):
        assert link_names(text, "page.md", known) == text
