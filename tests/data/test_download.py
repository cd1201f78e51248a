"""Files come from a local folder, the cache or their home, and an error says where to put what."""

import hashlib
import io
import socket
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from liquid_control.data.download import VARIABLE, DataSource, find_file, find_folder
from liquid_control.support.errors import UserError

PAGE = "https://example.org/gauges"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the cache is; no local copies."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "liquid-control" / "gauges"


@pytest.fixture
def home(tmp_path):
    """A server on this machine: its folder and its address."""
    folder = tmp_path / "home"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def source(url=None, sha256=None):
    return DataSource("the gauge data set", "gauges", PAGE, url, sha256)


def zipped(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return content.getvalue()


def test_a_local_copy_is_used_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "gauges").mkdir()
    (tmp_path / "gauges" / "short.csv").write_text("1")
    assert find_file(source("http://127.0.0.1:1/a.txt", "0" * 64), "a.txt", "short.csv").name == "short.csv"
    (tmp_path / "gauges" / "a.txt").write_text("1")
    assert find_file(source("http://127.0.0.1:1/a.txt", "0" * 64), "a.txt", "short.csv").name == "a.txt"


def test_a_missing_local_copy_is_told_with_its_place_and_home(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(
        UserError, match=rf"a.txt or b.csv has to be in {tmp_path}/gauges. Get it from {PAGE}, or unset"
    ):
        find_file(source("http://127.0.0.1:1/a.txt"), "a.txt", "b.csv")
    with pytest.raises(UserError, match=rf"get it from {PAGE}, unpack it into {tmp_path}/gauges"):
        find_folder(source())


def test_a_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "gauges").mkdir()
    assert find_folder(source()) == tmp_path / "gauges"


def test_a_download_is_checked_and_kept(cache, home):
    folder, address = home
    (folder / "a.txt").write_text("17 knots")
    given = source(f"{address}/a.txt", hashlib.sha256(b"17 knots").hexdigest())
    path = find_file(given, "a.txt")
    assert path.parent == cache and path.read_text() == "17 knots"
    (folder / "a.txt").unlink()
    assert find_file(given, "a.txt") == path


def test_a_file_is_taken_from_a_zip_in_a_zip(cache, home):
    folder, address = home
    inner = zipped(**{"deep/a.txt": "17 knots", "b.txt": "no"})
    (folder / "all.zip").write_bytes(zipped(**{"__MACOSX/a.txt": "no", "Data Set/inner.zip": inner}))
    assert find_file(source(f"{address}/all.zip"), "a.txt").read_text() == "17 knots"


def test_another_checksum_is_told_and_nothing_is_kept(cache, home):
    folder, address = home
    (folder / "a.txt").write_text("a page that asks to log in")
    with pytest.raises(UserError, match=rf"what {address}/a.txt gave is not the gauge data set: .*hash.*{PAGE}"):
        find_file(source(f"{address}/a.txt", "0" * 64), "a.txt")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(("content", "what"), [(b"<html>", "cannot open"), (zipped(b="1"), "holds no a.txt")])
def test_an_archive_without_the_file_is_told(cache, home, content, what):
    folder, address = home
    (folder / "all.zip").write_bytes(content)
    with pytest.raises(UserError, match=what):
        find_file(source(f"{address}/all.zip"), "a.txt")


def test_no_network_is_told_with_what_to_do_by_hand(cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/a.txt"
    with pytest.raises(
        UserError, match=rf"cannot download the gauge data set from {address}.*Check the network.*{PAGE}"
    ):
        find_file(source(address), "a.txt")


def test_what_the_home_no_longer_has_is_told(cache, home):
    with pytest.raises(UserError, match=r"cannot download .*404"):
        find_file(source(f"{home[1]}/a.txt"), "a.txt")


def test_what_no_program_can_download_is_told(cache):
    with pytest.raises(UserError, match=rf"cannot be downloaded by a program. Get it from {PAGE}, and put a.txt"):
        find_file(source(), "a.txt")
    with pytest.raises(UserError, match=rf"get it from {PAGE}, unpack it into DIR/gauges and set {VARIABLE}"):
        find_folder(source())


def test_without_pooch_the_extra_is_named(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(UserError, match=r"pip install 'liquid-control\[sequences\]'.*in a folder gauges"):
        find_file(source("http://127.0.0.1:1/a.txt"), "a.txt")
