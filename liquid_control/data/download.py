"""Where data sets come from: a local folder, a cache, or their official home, by ``pooch`` with a sha256."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.schema import shortened

VARIABLE = "LIQUID_CONTROL_DATA"
"""The environment variable that names a folder of local copies, with a folder for each data set."""
INSTALL = "Install it with: pip install 'liquid-control[sequences]'"


@dataclass(frozen=True)
class DataSource:
    """The home of a data set."""

    name: str
    """What people call it, for messages."""
    folder: str
    """Where its files are below ``LIQUID_CONTROL_DATA`` and below the cache."""
    page: str
    """The page of its home, for people who download by hand."""
    url: str | None = None
    """What is downloaded: the file itself, or a zip that holds it (zips inside of it are opened, too). None where the
    home gives no address that a program can use."""
    sha256: str | None = None
    """Of what ``url`` gives. None where nobody published one; the loader then checks the content."""


def find_file(source: DataSource, name: str, *others: str) -> Path:
    """The path of a file of a data set; it is downloaded when it has to be.

    Where ``LIQUID_CONTROL_DATA`` is set, the file has to be in ``source.folder`` there, and nothing is downloaded. Such
    a copy is not compared with a checksum, because people pack and shorten theirs; the loaders check the content.
    Otherwise it is in pooch's cache for ``liquid-control``, or comes there now.

    Args:
        source: the data set.
        name: of the file, as its home has it.
        others: names that a local copy may have instead, in other forms that the loader reads.

    Raises:
        UserError: if the file is not there and cannot be downloaded, or the download has another checksum. Says where
            to put what.
    """
    if local := os.environ.get(VARIABLE):
        folder = Path(local) / source.folder
        for path in (folder / given for given in (name, *others)):
            if path.is_file():
                return path
        raise UserError(
            f"{source.name} is not there: {VARIABLE} is {local}, so {' or '.join((name, *others))} has to be in "
            f"{folder}. Get it from {source.page}, or unset {VARIABLE} to let it be downloaded."
        )
    folder = cache_folder(source.folder)
    if (path := folder / name).is_file():
        return path
    if source.url is None:
        raise UserError(
            f"{source.name} cannot be downloaded by a program. Get it from {source.page}, and put {name} into a folder "
            f"{source.folder} of the folder that {VARIABLE} names."
        )
    archive = _download(source, source.url, folder)
    if archive.name != name:
        _take(archive, name, path, source)
    return path


def find_folder(source: DataSource) -> Path:
    """The folder of a data set that people download by hand.

    Raises:
        UserError: if ``LIQUID_CONTROL_DATA`` is not set or has no such folder. Says where to put what.
    """
    local = os.environ.get(VARIABLE)
    if local and (folder := Path(local) / source.folder).is_dir():
        return folder
    where = f"{Path(local) / source.folder}" if local else f"DIR/{source.folder} and set {VARIABLE} to DIR"
    raise UserError(f"{source.name} is not there: get it from {source.page}, unpack it into {where}.")


def cache_folder(name: str) -> Path:
    """The folder of that name in pooch's cache for ``liquid-control``; it may not be there yet.

    Raises:
        UserError: if pooch is not installed.
    """
    try:
        import pooch
    except ImportError:
        raise UserError(
            f"downloads and the cache need the package pooch. {INSTALL}. Or set {VARIABLE} to a folder that has the "
            f"files in a folder {name}."
        ) from None
    return Path(pooch.os_cache("liquid-control")) / name


def _download(source: DataSource, url: str, folder: Path) -> Path:
    import pooch

    by_hand = (
        f"Or download it yourself from {source.page} into a folder {source.folder}, and set {VARIABLE} to the folder "
        "above that."
    )
    try:
        return Path(pooch.retrieve(url, source.sha256, fname=url.rsplit("/", 1)[-1], path=folder))
    except ValueError as error:  # pooch's word for a wrong checksum
        raise UserError(
            f"what {url} gave is not {source.name}: {shortened(error).rstrip('.')}. Nothing of it was kept. Try again, "
            f"for a download may be cut off. {by_hand}"
        ) from None
    except OSError as error:  # those of requests are among them
        raise UserError(
            f"cannot download {source.name} from {url} into {folder}: {shortened(error).rstrip('.')}. Check the "
            f"network and the folder. {by_hand}"
        ) from None


def _take(archive: Path, name: str, path: Path, source: DataSource) -> None:
    """Writes the file called ``name`` of a zip, or of a zip inside of it, to ``path``."""
    try:
        content = _member(archive, name)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot open {archive}, which was downloaded for {source.name}: {error}. Delete it and try again."
        ) from None
    if content is None:
        raise UserError(
            f"{archive}, which was downloaded for {source.name}, holds no {name}: its home may have changed. Get it "
            f"from {source.page}."
        )
    write_atomically(path, content)


def _member(archive, name: str) -> bytes | None:
    with zipfile.ZipFile(archive) as opened:
        members = [member for member in opened.namelist() if not member.startswith("__MACOSX/")]
        for member in members:
            if member.rsplit("/", 1)[-1] == name:
                return opened.read(member)
        for member in members:
            if member.endswith(".zip"):
                with opened.open(member) as inner:
                    if (content := _member(inner, name)) is not None:
                        return content
    return None
