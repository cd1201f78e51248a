"""An address where nothing answers is one error, and soon; one that answers, or is no host and port, is none."""

import socket

import pytest

from liquid_control.support import reachable
from liquid_control.support.errors import UserError
from liquid_control.support.reachable import check_ray


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_what_answers_is_left_to_ray(server, monkeypatch):
    address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for given in (address, f"ray://{address}", "auto", "local", "nonsense", "http://127.0.0.1:1", "host:"):
        check_ray(given)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_does_not_answer_is_said_with_what_to_do(server, scheme):
    address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
    server.close()
    with pytest.raises(UserError, match=f"no Ray at {address}: Connection refused. Begin one there with ray start"):
        check_ray(address)
    with pytest.raises(UserError, match=r"no Ray at .*:99999"):
        check_ray("127.0.0.1:99999")
    with pytest.raises(UserError, match=r"no Ray at a\.\.b:1"):
        check_ray("a..b:1")


def test_the_address_that_ray_would_find_is_looked_at(server, monkeypatch):
    address = f"127.0.0.1:{server.getsockname()[1]}"
    server.close()
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"no Ray at {address}"):
        check_ray("auto")


def test_a_machine_that_is_silent_is_given_seconds(monkeypatch):
    asked = []

    def silent(address, timeout):
        asked.append((address, timeout))
        raise TimeoutError("timed out")

    monkeypatch.setattr(reachable.socket, "create_connection", silent)
    with pytest.raises(UserError, match=r"no Ray at \[fd00::1\]:6379: timed out"):
        check_ray("[fd00::1]:6379")
    assert asked == [(("fd00::1", 6379), reachable.PATIENCE)] and reachable.PATIENCE <= 5
