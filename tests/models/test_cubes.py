"""Cubes: what comes back is recalled, what is new is written, nothing grows, and a file goes on or is refused."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from liquid_control.models.cubes import BLOCK, Cube, CubeConfig, Cubes
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.errors import UserError
from liquid_control.support.tensor_file import read_tensors, write_tensors

WIDTH = 12
CONFIG = CubeConfig(width=WIDTH, layers=2, blocks=4, key_size=6, probed=4)


def draw(number, seed, width=WIDTH):
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def teacher():
    torch.manual_seed(1)
    part = nn.Sequential(nn.Linear(WIDTH, 24), nn.GELU(), nn.Linear(24, WIDTH))
    return lambda x: part(x).detach()


# Reading


def test_what_was_written_is_recalled_when_it_comes_back(teacher):
    cube, x = Cube(CONFIG), draw(100, 2)
    error, written = cube.write(x, teacher(x))
    assert error.tolist() == [1.0] * 100 and written.all() and len(cube) <= 100
    back, new = cube.read(x), cube.read(draw(100, 3))
    torch.testing.assert_close(back.similarity, torch.ones(100), rtol=0, atol=0.02)

    def wrong(recall, x):
        return float((recall.residual - teacher(x)).square().mean() / teacher(x).square().mean())

    assert wrong(back, x) < 0.2 < 0.5 < wrong(new, draw(100, 3))
    assert back.dispersion.mean() < new.dispersion.mean() and back.similarity.min() > new.similarity.mean()


def test_reading_is_the_exact_nearest_and_its_softmax(teacher):
    cube, x = Cube(dataclasses.replace(CONFIG, neighbours=3, sharpness=7.0)), draw(150, 2)
    cube.write(x, teacher(x))
    of, query = cube.tensors, draw(20, 4)
    recall = cube.read(query)
    entries = [
        (of["keys"][block, slot], of["residuals"][block, slot])
        for block in range(CONFIG.blocks)
        for slot in range(int(of["filled"][block]))
    ]
    for row, each in enumerate(query):
        white = of["whiten"] @ (of["projection"] @ each - of["centre"])
        key = white / white.norm()
        near = sorted(((float(key @ other), residual) for other, residual in entries), key=lambda pair: -pair[0])[:3]
        shares = torch.tensor([score for score, _ in near]).mul(7.0).softmax(0)
        mean = sum(share * residual for share, (_, residual) in zip(shares, near, strict=True))
        spread = sum(
            share * (residual - mean).square().sum() for share, (_, residual) in zip(shares, near, strict=True)
        )
        torch.testing.assert_close(recall.residual[row], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(float(recall.similarity[row]), near[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(recall.dispersion[row], spread / mean.square().sum(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(recall.weights.sum(1), torch.ones(20))


def test_many_inputs_are_looked_up_as_few(teacher):
    cube, x = Cube(CONFIG), draw(100, 2)
    cube.write(x, teacher(x))
    query = draw(600, 5)
    whole, parts = cube.read(query), [cube.read(part) for part in query.split(7)]
    torch.testing.assert_close(whole.residual, torch.cat([part.residual for part in parts]))
    assert whole.operations == sum(part.operations for part in parts)


def test_few_blocks_are_enough_where_inputs_lie_in_groups_and_cost_less():
    """Groups of inputs, each of a residual of its own, in more blocks than are looked at."""
    config = CubeConfig(width=32, layers=1, blocks=24, key_size=24, probed=3, novel=0.0)
    centres = 4 * draw(12, 6, 32)

    def near(number, seed):
        group = torch.arange(number) % len(centres)
        return centres[group] + draw(number, seed, 32), centres[group]

    few, all_of_them = Cube(config), Cube(dataclasses.replace(config, probed=24))
    for cube in (few, all_of_them):
        cube.write(*near(120, 8))
        cube.write(*near(900, 7))
    x, wanted = near(200, 9)
    one, other = few.read(x), all_of_them.read(x)
    assert int((few.tensors["filled"] > 0).sum()) > 6
    assert float((one.similarity >= other.similarity - 1e-5).float().mean()) > 0.8
    assert float((one.residual - wanted).norm() / wanted.norm()) < 0.1
    assert one.operations < 0.7 * other.operations


def test_an_empty_cube_knows_nothing():
    recall = Cube(CONFIG).read(draw(3, 1))
    assert not recall.residual.any() and not recall.similarity.any() and not recall.weights.any()
    assert Cube(CONFIG).read(draw(0, 1)).residual.shape == (0, WIDTH)


# Writing


def test_what_is_familiar_and_right_is_not_written_and_what_is_wrong_is(teacher):
    cube, x = Cube(CONFIG), draw(60, 2)
    for _ in range(3):  # keys settle as statistics do
        cube.write(x, teacher(x))
    number = len(cube)
    error, written = cube.write(x, teacher(x))
    assert float(error.mean()) < 0.1 and int(written.sum()) < 20 and len(cube) == number
    error, written = cube.write(x, -teacher(x))  # the same inputs, another answer
    assert error.min() > 1 and written.all() and len(cube) == number  # merged, not added
    for _ in range(40):
        error, _ = cube.write(x, -teacher(x))
    assert float(error.mean()) < 0.2


def test_errors_and_use_are_told_of_each_entry(teacher):
    cube, x = Cube(CONFIG), draw(60, 2)
    cube.write(x, teacher(x))
    assert not cube.tensors["use"].any() and not cube.tensors["error"].any()
    for _ in range(5):
        cube.read(x[:10])
    assert float(cube.tensors["use"].sum()) == pytest.approx(50, rel=1e-4)
    touched, clock = cube.tensors["touched"], int(cube.tensors["clock"])
    assert clock == 60 + 5 * 10 and int(touched.max()) == clock
    cube.write(x[:10], 3 * teacher(x[:10]))
    assert float(cube.tensors["error"].max()) == pytest.approx(4 / 9 / 16, rel=0.1)  # (3 - 1)² / 3², a sixteenth


def test_keys_are_those_of_the_present_statistics_whenever_they_were_written(teacher):
    cube = Cube(CONFIG)
    skewed = torch.tensor([5.0] * 3 + [0.2] * 9)
    for seed in range(6):
        x = draw(40, seed) * skewed + 3
        cube.write(x, teacher(x))
    of = cube.tensors
    for block in range(CONFIG.blocks):
        filled = int(of["filled"][block])
        white = (of["projected"][block, :filled] - of["centre"]) @ of["whiten"].T
        torch.testing.assert_close(
            of["keys"][block, :filled], nn.functional.normalize(white, dim=1), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(of["summaries"][block], of["keys"][block, :filled].mean(0), atol=1e-5, rtol=1e-4)
    p = (torch.cat([draw(40, seed) for seed in range(4)]) * skewed + 3) @ of["projection"].T  # up to 160: past 2^7
    white = (p - of["centre"]) @ of["whiten"].T
    torch.testing.assert_close(white.T.cov(correction=0), torch.eye(6), atol=0.05, rtol=0)
    torch.testing.assert_close(of["projection"] @ of["projection"].T, torch.eye(6), atol=1e-5, rtol=0)


def test_in_batches_or_one_by_one_statistics_are_the_same(teacher):
    one, other, x = Cube(CONFIG), Cube(CONFIG), draw(64, 2)
    one.write(x, teacher(x))
    for each in x.split(1):
        other.write(each, teacher(each))
    for name in ("count", "mean", "scatter", "centre"):
        torch.testing.assert_close(one.tensors[name], other.tensors[name], rtol=1e-4, atol=1e-5)


# Bounds


def test_bytes_are_what_was_said_however_much_is_written(teacher):
    cubes = Cubes(CONFIG)
    for layer in cubes.layers:
        for seed in range(12):
            x = draw(100, seed)
            layer.write(x, teacher(x))
    assert cubes.bytes == CONFIG.bytes
    assert all(len(layer) <= CONFIG.blocks * BLOCK for layer in cubes.layers)
    assert len(cubes.layers[0]) > (CONFIG.blocks - 1) * BLOCK * 0.8


@pytest.mark.parametrize("limit", [30_000, 100_000, 1_000_001])
def test_as_many_blocks_as_fit_are_taken(limit):
    config = CONFIG.within(limit)
    assert config.bytes <= limit < dataclasses.replace(config, blocks=config.blocks + 1).bytes
    assert Cubes(config).bytes == config.bytes


def full(use, touched, clock=1000):
    """A cube of three full blocks, of orthogonal summaries, with so much use and touched so long ago."""
    cube = Cube(CubeConfig(width=8, layers=1, blocks=3, key_size=8))
    of = cube.tensors
    of["summaries"].copy_(torch.eye(3, 8))
    of["filled"].fill_(BLOCK)
    of["use"][:, 0] = torch.tensor(use)
    of["touched"].copy_(torch.tensor(touched))
    of["clock"].fill_(clock)
    return cube


@pytest.mark.parametrize(
    ("use", "touched", "alike", "gone"),
    [
        ([5.0, 0.0, 5.0], [900, 900, 900], None, 1),  # used least
        ([5.0, 5.0, 5.0], [900, 900, 100], None, 2),  # longest ago
        ([5.0, 5.0, 4.0], [900, 900, 900], (0, 1), 0),  # most like another
    ],
)
def test_what_is_given_up_is_what_was_used_least_longest_ago_or_is_most_like_another(use, touched, alike, gone):
    cube = full(use, touched)
    if alike:
        cube.tensors["summaries"][alike[1]] = cube.tensors["summaries"][alike[0]] + 0.1
    cube.write(draw(1, 3, 8) * 100, draw(1, 4, 8))
    filled = [BLOCK] * 3
    filled[gone] = 1
    assert cube.tensors["filled"].tolist() == filled
    kept = [place for place in range(3) if place != gone]
    assert cube.tensors["use"][kept, 0].tolist() == [use[place] / 2 for place in kept]


# Files


@pytest.fixture
def kept(teacher, tmp_path):
    torch.manual_seed(2)
    model, cubes = nn.Linear(3, 3), Cubes(CONFIG)
    for layer in cubes.layers:
        layer.write(draw(90, 2), teacher(draw(90, 2)))
        layer.read(draw(5, 3))
    path = tmp_path / "cubes.safetensors"
    cubes.save(path, model)
    return path, model, cubes


def test_saved_cubes_go_on_as_if_nothing_had_been(kept, teacher):
    path, model, cubes = kept
    loaded = Cubes.load(path, model)
    assert loaded.config == cubes.config
    for _ in range(2):
        for one, other in zip(cubes.layers, loaded.layers, strict=True):
            for mine, theirs in zip(one.read(draw(30, 4))[:5], other.read(draw(30, 4))[:5], strict=True):
                assert torch.equal(mine, theirs)
            for cube in (one, other):
                cube.write(draw(150, 5), teacher(draw(150, 5)))
            assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_layers_have_maps_of_their_own(kept):
    one, other = (cube.tensors["projection"] for cube in kept[2].layers)
    assert not torch.equal(one, other)


def test_cubes_of_another_model_are_refused(kept):
    with pytest.raises(UserError, match="holds no cubes of this model"):
        Cubes.load(kept[0], nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"), "its sha256 differs"),
        (lambda path: path.write_bytes(b"a" * 100), "is damaged"),
        (lambda path: path.unlink(), "there is no such file"),
    ],
)
def test_a_damaged_file_is_one_error(kept, spoil, said):
    path, model, _ = kept
    spoil(path)
    with pytest.raises(UserError, match=said):
        Cubes.load(path, model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors, config: tensors.pop("1.keys"), "its tensors are not those of the cubes that it tells of"),
        (lambda tensors, config: config.update(blocks=2**16, layers=256), "its tensors are not those"),
        (lambda tensors, config: config.update(blocks=2**40), "is wrong at blocks"),
        (lambda tensors, config: config.update(bloks=2), "is wrong at bloks"),
        (lambda tensors, config: tensors["0.filled"].fill_(65), "0.filled holds what no cube can"),
        (lambda tensors, config: tensors["0.count"].fill_(-1), "0.count holds what no cube can"),
        (lambda tensors, config: tensors["1.residuals"].fill_(torch.nan), "1.residuals holds what no cube can"),
        (lambda tensors, config: config.clear(), "is wrong at width"),
    ],
)
def test_a_file_that_lies_is_one_error(kept, change, said):
    path, model, cubes = kept
    tensors, _ = read_tensors(path)
    config = dataclasses.asdict(cubes.config)
    change(tensors, config)
    write_tensors(path, tensors, {"model": weights_digest(model), "cubes": json.dumps(config)})
    with pytest.raises(UserError, match=said):
        Cubes.load(path, model)
    write_tensors(path, tensors, {"model": weights_digest(model), "cubes": "{"})
    with pytest.raises(UserError, match="does not say what its cubes are"):
        Cubes.load(path, model)


def test_what_must_not_be_remembered_is_one_error(teacher):
    cube, x = Cube(CONFIG), draw(3, 1)
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="hold NaN or infinity"):
            cube.write(x, torch.full_like(x, wrong))
        with pytest.raises(ValueError, match="hold NaN or infinity"):
            cube.write(torch.full_like(x, wrong), x)
    assert not len(cube) and not cube.tensors["count"]
    with pytest.raises(ValueError, match=r"inputs have shape \(3, 11\), expected \(number, 12\)"):
        cube.read(x[:, 1:])
    with pytest.raises(ValueError, match=r"residuals have shape \(2, 12\), expected \(3, 12\)"):
        cube.write(x, x[:2])
    with pytest.raises(UserError, match="a key of 13 numbers cannot be of 12"):
        Cube(dataclasses.replace(CONFIG, key_size=13))
    with pytest.raises(UserError, match="bytes are too few for cubes: two blocks in each layer take"):
        CONFIG.within(1000)
