"""Packets in and out."""

import base64
import contextlib
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from envs.udacity.packets import Command, PacketError, Telemetry, decimal, decode, read_packet, write_event
from envs.udacity.simulator_wire import LOCALES, SimulatorWire


def fields(jpeg, **changes):
    whole = {"steering_angle": "-2.5000", "throttle": "0.3000", "speed": "12.3456"}
    return whole | {"image": base64.b64encode(jpeg).decode()} | changes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", ("2", "", "", "/", None, None)),
        ("2probe", ("2", "probe", "", "/", None, None)),
        ("40", ("4", "", "0", "/", None, None)),
        ('40{"token":1}', ("4", "", "0", "/", None, {"token": 1})),
        ("40/car,", ("4", "", "0", "/car", None, None)),
        ("40/car?x=1,", ("4", "", "0", "/car", None, None)),
        ('42["telemetry",null]', ("4", "", "2", "/", None, ["telemetry", None])),
        ('4217["a",{"b":[1]}]', ("4", "", "2", "/", 17, ["a", {"b": [1]}])),
        ('42/car,17["a"]', ("4", "", "2", "/car", 17, ["a"])),
    ],
)
def test_a_packet_is_taken_apart(text, expected):
    packet = read_packet(text)
    assert (packet.engine, packet.content, packet.socket, packet.namespace, packet.ack, packet.data) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no Engine.IO packet"),
        ("x", "no Engine.IO packet"),
        ("4", "no Socket.IO packet"),
        ("49", "no Socket.IO packet"),
        ("42", "without a name"),
        ("42{}", "without a name"),
        ("42[1]", "without a name"),
        ('42["a"', "does not end in JSON"),
        ("42" + "[" * 100_000, "does not end in JSON"),
        ('451-["a",{"_placeholder":true}]', "binary"),
    ],
)
def test_what_is_no_packet_is_named(text, why):
    with pytest.raises(PacketError, match=why) as caught:
        read_packet(text)
    assert len(str(caught.value)) < 200


@given(st.text())
def test_any_text_is_a_packet_or_refused(text):
    with contextlib.suppress(PacketError):
        read_packet(text)


def test_telemetry_is_read_in_any_language(jpeg):
    expected = np.asarray(Image.open(io.BytesIO(jpeg)))
    for sent in (fields(jpeg), fields(jpeg, steering_angle="-2,5000", speed="12,3456"), fields(jpeg, speed=12.3456)):
        telemetry = Telemetry.read(sent)
        assert (telemetry.steering_angle, telemetry.throttle, telemetry.speed) == (-2.5, 0.3, 12.3456)
        assert np.array_equal(telemetry.image, expected)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"speed": "fast"}, "speed is 'fast', expected a number"),
        ({"speed": "NaN"}, "speed is nan"),
        ({"speed": float("inf")}, "speed is inf"),
        ({"speed": "1e9"}, r"speed is 1e\+09, expected one between"),
        ({"speed": None}, "speed is 'None', expected a number"),
        ({"speed": ["1"]}, "expected a number"),
        ({"speed": 10**400}, "expected a number"),
        ({"image": None}, "image is NoneType"),
        ({"image": "?"}, "not base64"),
        ({"image": ""}, "not a readable JPEG"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, "not a readable JPEG"),
    ],
)
def test_absurd_telemetry_is_refused(jpeg, changes, why):
    with pytest.raises(PacketError, match=why):
        Telemetry.read(fields(jpeg, **changes))


def test_telemetry_without_a_key_names_it(jpeg):
    with pytest.raises(PacketError, match="lacks speed, image"):
        Telemetry.read({"steering_angle": "0", "throttle": "0"})
    with pytest.raises(PacketError, match="telemetry is list"):
        Telemetry.read([])


def test_only_jpegs_of_moderate_size_are_decoded(jpeg):
    def sent(image, kind):
        file = io.BytesIO()
        image.save(file, kind)
        return file.getvalue()

    assert decode(sent(Image.new("L", (8, 4)), "JPEG")).shape == (4, 8, 3)
    with pytest.raises(PacketError, match="4097 × 1"):
        decode(sent(Image.new("RGB", (4097, 1)), "JPEG"))
    with pytest.raises(PacketError, match="not a readable JPEG"):
        decode(sent(Image.new("RGB", (8, 4)), "PNG"))
    with pytest.raises(PacketError, match="not a readable JPEG"):
        decode(jpeg[: len(jpeg) // 2])


@pytest.mark.parametrize("locale", LOCALES)
@given(value=st.floats(-1, 1))
def test_a_command_is_read_alike_in_every_language(locale, value):
    reader = SimulatorWire.__new__(SimulatorWire)
    reader.decimal_sign, reader.thousands_sign = LOCALES[locale]
    assert reader.read_number(decimal(value)) == pytest.approx(value, abs=1e-6)
    assert float(decimal(value)) == pytest.approx(value, abs=1e-6)


def test_a_plain_decimal_is_full_lock_where_a_comma_is_the_sign():
    reader = SimulatorWire.__new__(SimulatorWire)
    reader.decimal_sign, reader.thousands_sign = LOCALES["de-DE"]
    assert reader.read_number("0.25") == 25
    assert reader.write_number(-1234.5) == "-1.234,5000"


def test_a_command_is_clipped_and_never_anything_but_numbers():
    assert json.loads(Command(3.0, -2.0).write()[2:]) == [
        "steer",
        {"steering_angle": "1000000E-6", "throttle": "-1000000E-6"},
    ]
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="throttle is"):
            Command(0.0, bad)
    with pytest.raises(ValueError, match="JSON"):
        write_event("steer", math.nan)
