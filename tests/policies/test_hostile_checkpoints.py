"""Checkpoints of strangers: whatever stands in one, it is a driver or one short error, soon, in little memory."""

import copy
import hashlib
import json
import random
import resource
import time

import pytest
import torch
from safetensors.torch import save

from liquid_control.support.checkpoint import load_checkpoint
from liquid_control.support.errors import UserError
from policies.driver import Driver, DriverConfig, load_driver
from policies.registry import CORES


def write(folder, config, weights=None):
    folder.mkdir(exist_ok=True)
    content = json.dumps(config) if isinstance(config, dict) else config
    (folder / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    if weights is not None:
        (folder / "weights.safetensors").write_bytes(weights)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The config of a driver, and its weights."""
    folder = tmp_path_factory.mktemp("whole") / "driver"
    torch.manual_seed(0)
    Driver(DriverConfig()).save(folder)
    (weights,) = folder.glob("weights-*.safetensors")
    config = json.loads((folder / "config.json").read_text())
    return config | {"weights": "weights.safetensors"}, weights.read_bytes()


def refused(folder):
    begin = time.monotonic()
    with pytest.raises(UserError) as error:
        load_driver(folder)
    assert time.monotonic() - begin < 20
    text = str(error.value).replace(str(folder), "FOLDER")
    assert len(text) <= 300 and text.replace("\n", "").isprintable(), text
    return text


CORE = {"input_size": 39, "units": 16, "output_size": 3}
HOSTILE = {
    "a playfield of 12,000²": (("driver", "playfield"), [12_000, 12_000]),
    "a playfield of 1,024² and as many features as may be": (
        ("driver",),
        {"playfield": [1024, 1024], "features": 4096},
    ),
    "channels beyond count": (("driver", "channels"), [4096] * 3),
    "no end of unfolds": (("core",), CORE | {"layer": "ltc", "ode_unfolds": 10**9}),
    "no end of a window": (
        ("core",),
        {"layer": "lan", "input_size": 39, "units": 16, "output_size": 3, "window": 10**6},
    ),
    "units beyond memory": (("core",), CORE | {"layer": "lstm", "units": 10**7}),
    "units up to what is allowed": (("core",), CORE | {"layer": "lstm", "units": 8192, "input_size": 8192}),
    "frames beyond count": (
        ("core",),
        {"layer": "mlp", "input_size": 39, "units": 9, "output_size": 3, "frames": 10**9},
    ),
    "an action for ever": (("driver", "action_repeat"), 10**12),
    "no speed": (("driver", "speed"), -1.0),
    "a view of a billion numbers": (("driver",), {"vector": {"size": 10**9, "low": [], "high": []}, "env": "X-v0"}),
    "a name with escape codes": (("driver", "policy"), "\x1b[31mcfc\x07"),
    "a name with a NUL": (("weights",), "a\0b"),
    "a name that is none": (("weights",), 17),
    "a layer that is none": (("core",), {"layer": "lstn"}),
    "a core that is a list": (("core",), [1, 2]),
    "a driver that is null": (("driver",), None),
    "an unknown field": (("driver", "colour"), "red"),
    "a wrong type": (("driver", "features"), "many"),
    "a wrong type deep inside": (("core", "units", "synapses"), "none"),
    "another size": (("driver", "features"), 33),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_is_one_short_error(name, whole, tmp_path):
    config, weights = copy.deepcopy(whole[0]), whole[1]
    path, value = HOSTILE[name]
    place = config
    for key in path[:-1]:
        place = place[key]
    merged = isinstance(value, dict) and path == ("driver",)
    place[path[-1]] = place[path[-1]] | value if merged else value
    write(tmp_path / "driver", config, weights)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "driver")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 1024**2  # KiB


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\x00\xff",
        b"",
        b"null",
        b"[]",
        b"1" * 10_000,
        b'{"format_version": 1}',
        b'{"format_version": 1, "weights": "w", "sha256": "x", "a": NaN}',
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_config_that_is_no_config_is_one_short_error(content, tmp_path):
    write(tmp_path / "driver", content)
    refused(tmp_path / "driver")


def test_weights_of_types_that_no_layer_has_are_refused(whole, tmp_path):
    for dtype in (torch.float8_e4m3fn, torch.complex64):
        weights = save({"hands.gain": torch.zeros(3).to(dtype)})
        digest = hashlib.sha256(weights).hexdigest()
        write(tmp_path / "driver", whole[0] | {"sha256": digest}, weights)
        assert "of a type that no layer has" in refused(tmp_path / "driver")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "nowhere"])
def test_a_folder_that_cannot_be_is_no_checkpoint(name):
    with pytest.raises(UserError, match="no checkpoint at") as error:
        load_checkpoint(name)
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize("policy", CORES)
def test_every_kind_of_driver_can_be_built_without_memory_and_loaded(policy, tmp_path):
    torch.manual_seed(0)
    driver = Driver(DriverConfig(policy=policy)).eval()
    driver.save(tmp_path)
    loaded = load_driver(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in driver.state_dict().items())
    with torch.device("meta"):
        assert {value.device.type for value in Driver(DriverConfig(policy=policy)).parameters()} <= {"meta", "cpu"}


VALUES = [None, True, -1, 0, 7, 10**30, 1e300, float("nan"), "", "x" * 500, "\x1b[2J", [], [[]], {}, {"layer": "cfc"}]


def mutate(value, rng):
    """The value, something in it removed, replaced or added."""
    places = [value]
    for place in places:  # the list grows while it is walked
        inside = place.values() if isinstance(place, dict) else place
        places += [each for each in inside if isinstance(each, dict | list)]
    place = rng.choice([place for place in places if place])
    key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    match rng.randrange(3):
        case 0:
            del place[key]
        case 1:
            place[key] = rng.choice(VALUES)
        case _ if isinstance(place, dict):
            place[rng.choice(["layer", "units", "seed", "mode", "x"])] = rng.choice(VALUES)
        case _:
            place.append(rng.choice(VALUES))


def test_mutated_checkpoints_load_or_are_one_short_error(whole, tmp_path):
    rng, refusals = random.Random(0), []
    for _ in range(400):
        config, weights = copy.deepcopy(whole[0]), bytearray(whole[1])
        for _ in range(rng.randint(1, 3)):
            mutate(config, rng)
        if rng.random() < 0.2:
            weights[rng.randrange(len(weights))] ^= 1 << rng.randrange(8)
            if rng.random() < 0.5:
                config["sha256"] = hashlib.sha256(weights).hexdigest()
        text = json.dumps(config).encode()
        if rng.random() < 0.1:
            text = text[: rng.randrange(len(text))]
        write(tmp_path / "driver", text, weights)
        try:
            load_driver(tmp_path / "driver")
        except UserError as error:
            refusals.append(str(error).replace(str(tmp_path), ""))
    assert len(refusals) > 200 and max(map(len, refusals)) <= 300
