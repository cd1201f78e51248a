"""A driver that needs no training and ends its episodes soon, commands run as a shell would, and a real browser."""

import contextlib
import os
import shutil
import sys
import time

import pytest
import torch

from liquid_control.support.command import run
from liquid_control.support.errors import UserError
from liquid_control.support.lock import held
from policies.driver import Driver, DriverConfig


def straight_driver():
    """Half throttle, straight ahead: leaves the field within seconds. The neurons are those of an untrained driver."""
    torch.manual_seed(0)
    driver = Driver(DriverConfig()).eval()
    with torch.no_grad():
        driver.hands.gain.zero_()
        driver.hands.offset.copy_(torch.tensor([0.0, 0.5, 0.0]))
    return driver


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "driver"
    straight_driver().save(folder)
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command's ``main`` with its arguments; returns exit status, standard output and standard error."""

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        status = 0
        try:
            run(main)
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return call


def kill(process, folder):
    """Kills a command amid its work; returns when the folder that it works in is free, see :mod:`tests.warm_python`."""
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while True:
        try:
            with held(folder, "the command still works in it."):
                return
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def damage_weights(checkpoint):
    (path,) = checkpoint.glob("weights-*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])


def change_version(checkpoint):
    path = checkpoint / "config.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))


def poison_weights(checkpoint):
    driver = straight_driver()
    with torch.no_grad():
        driver.hands.gain[0] = float("nan")
    driver.save(checkpoint)


def remove(checkpoint):
    checkpoint.rename(checkpoint.with_name("elsewhere"))


@pytest.fixture(
    params=[
        (remove, "no checkpoint at"),
        (damage_weights, "truncated or changed"),
        (change_version, "format version 99"),
        (poison_weights, "NaN or infinite values in hands.gain"),
    ],
    ids=["missing", "truncated", "other version", "NaN"],
)
def broken_checkpoint(request, checkpoint):
    """A checkpoint that cannot be used, and what the error says of it."""
    spoil, message = request.param
    spoil(checkpoint)
    return checkpoint, message


CHROMIUM = shutil.which("chromium")
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no chromium on this machine, and CI must not go without: apt-get install chromium")
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def open_file(browser, file, width=1280, scheme="dark"):
    """A page that is a file, what its console says, and what it asked the network for."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(15_000)
    page.goto(file.as_uri())
    try:
        yield page, said, [url for url in asked if not url.startswith("data:")]
    finally:
        context.close()
