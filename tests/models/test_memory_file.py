"""What is remembered is written down and read back: it goes on to the bit, and a file that lies is one error."""

import copy
import json

import pytest
import torch

from liquid_control.models.cubes import BLOCK, CubeConfig, Cubes
from liquid_control.models.influence import InfluenceConfig
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.models.memory_file import load_memories, save_memories
from liquid_control.models.remembering import memories, remembering
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.errors import UserError
from liquid_control.support.tensor_file import read_tensors, write_tensors

RULES = InfluenceConfig(rise=0.1, low=0.1, high=0.3, memory=8, wrong=0.3, risk=0.2, audited=0.3)
CUBES = CubeConfig(width=16, layers=2, blocks=4, key_size=12)


def new_model(seed=1):
    torch.manual_seed(seed)
    config = LanguageModelConfig(vocabulary=11, width=16, blocks=2, pattern=("attention",), window=8)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(4)
    return model


def text(seed, length=40):
    return torch.randint(11, (2, length), generator=torch.Generator().manual_seed(seed))


def read(model, parts, tokens, state=None, times=1):
    with remembering(model, parts), torch.no_grad():
        for _ in range(times):
            reading = model(tokens, state)
            state = reading.state
    return reading


@pytest.fixture(scope="module")
def learned():
    """A memory that has learned and skips, in the middle of a text."""
    model = new_model()
    parts = memories(model, Cubes(CUBES), 8, RULES)
    state = read(model, parts, text(2), times=30).state
    assert any(part.skipped for part in parts)
    return model, parts, state


@pytest.fixture
def kept(learned, tmp_path):
    """The file of one, and the model."""
    model, parts, state = learned
    path = tmp_path / "memory.safetensors"
    save_memories(path, model, parts, state)
    return path, model


def test_after_a_restart_it_says_and_learns_the_same_to_the_bit(learned, kept):
    (model, parts, state), (path, _) = copy.deepcopy(learned), kept
    again, reading = load_memories(path, new_model())
    assert reading is not None and all(torch.equal(reading.layers[name], state.layers[name]) for name in state.layers)
    for seed in (2, 3, 2):  # familiar text, new text that fills and empties blocks, and the familiar one again
        one, other = read(model, parts, text(seed, 200), state), read(new_model(), again, text(seed, 200), reading)
        assert torch.equal(one.logits, other.logits)
        state, reading = one.state, other.state
    for mine, theirs in zip(parts, again, strict=True):
        assert mine.influence.record() == theirs.influence.record() and mine.cube.config == theirs.cube.config
        for name in ("inputs", "hits", "skipped", "audited", "spent", "learned"):
            assert getattr(mine, name) == getattr(theirs, name) > 0 or name == "audited"
        assert all(torch.equal(tensor, theirs.cube.tensors[name]) for name, tensor in mine.cube.tensors.items())
        for name, value in mine.distillation.student.state_dict().items():
            assert torch.equal(value, theirs.distillation.student.state_dict()[name])


def test_a_memory_that_has_seen_nothing_is_kept_too(tmp_path):
    model = new_model()
    save_memories(tmp_path / "a.safetensors", model, memories(model, Cubes(CUBES), 8, RULES))
    parts, reading = load_memories(tmp_path / "a.safetensors", model)
    assert reading is None and all(part.state is None and not len(part.cube) for part in parts)
    assert parts[0].influence.config == RULES


def test_at_its_limit_a_memory_gives_up_entries_and_stays_as_large(learned, kept, tmp_path):
    (model, parts, state), (path, _) = copy.deepcopy(learned), kept
    for seed in range(3, 6):
        read(model, parts, text(seed, 200))
    assert all(part.cube.tensors["filled"].sum() <= 4 * BLOCK for part in parts)
    save_memories(tmp_path / "later.safetensors", model, parts, state)
    assert abs((tmp_path / "later.safetensors").stat().st_size - path.stat().st_size) < 20_000  # records of audits
    assert len(load_memories(tmp_path / "later.safetensors", model)[0][0].cube) == len(parts[0].cube)


def test_a_memory_of_another_model_is_refused(kept):
    with pytest.raises(UserError, match="holds no memory of this model"):
        load_memories(kept[0], new_model(5))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content[:-5], "is damaged"),
        (lambda content: content[: len(content) // 2], "is damaged"),
        (lambda content: content[:-1] + b"\x01", "its sha256 differs"),
        (lambda content: b"", "is damaged"),
        (lambda content: bytes(range(256)) * 40, "is damaged"),
        (
            lambda content: (
                (head := b'{"0.keys":{"dtype":"F32","shape":[9999999999,64],"data_offsets":[0,2559999999744]}}')
                and len(head).to_bytes(8, "little") + head
            ),
            "is damaged",
        ),
        (lambda content: b"\xff" * 7 + b"\x7f" + content[8:], "is damaged"),
    ],
    ids=["a little short", "half", "one bit", "empty", "random bytes", "huge shapes", "a huge header"],
)
def test_a_damaged_file_is_one_error(kept, spoil, said):
    path, model = kept
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=said) as error:
        load_memories(path, model)
    assert "\n" not in str(error.value)


def first(record):
    return record["parts"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors, told: tensors.pop("cubes.1.keys"), "not those of the cubes that it tells of"),
        (lambda tensors, told: told["cubes"].update(blocks=2**16, layers=256), "not those of the cubes"),
        (lambda tensors, told: told.update(units=8000), "have not the 8000 units"),
        (lambda tensors, told: told.update(units=-1), "is wrong at units"),
        (lambda tensors, told: told.update(more=1), "is wrong at more"),
        (lambda tensors, told: told["parts"].pop(), "tells of 1 parts, and has cubes of 2"),
        (lambda tensors, told: first(told)["counters"].pop("hits"), "does not have the counters"),
        (lambda tensors, told: first(told)["counters"].update(hits=-1), "is wrong at parts.0.counters.hits"),
        (lambda tensors, told: first(told)["influence"].update(cap=2.0), "the record of an influence is wrong"),
        (lambda tensors, told: first(told).update(learning_rate=0.0), "is wrong at parts.0.learning_rate"),
        (lambda tensors, told: first(told)["rules"].update(low=0.9, high=0.1), "low must not be above high"),
        (lambda tensors, told: tensors.pop("parts.0.student.trust"), "student.trust of a part is not what"),
        (lambda tensors, told: tensors.pop("parts.1.optimizer.doubt.step"), "optimizer.doubt.step of a part is not"),
        (lambda tensors, told: tensors["parts.0.student.trust"].fill_(torch.nan), "holds what no student can"),
        (lambda tensors, told: tensors["parts.0.student.energy"].fill_(-1), "student.energy of a part holds what no"),
        (lambda tensors, told: tensors.pop("parts.0.student.seen"), "student.seen of a part is not what"),
        (lambda tensors, told: tensors["parts.0.optimizer.trust.exp_avg_sq"].fill_(-1), "holds what no student can"),
        (lambda tensors, told: tensors.update({"parts.0.state": torch.zeros(3)}), "state of a part is not what"),
        (lambda tensors, told: tensors["parts.0.generator"].fill_(255), "its generator of audits is none"),
        (lambda tensors, told: tensors.update({"parts.7.state": torch.zeros(3)}), "'parts.7.state', which no memory"),
        (lambda tensors, told: tensors.update({"reading.blocks.0": torch.zeros(1, 3)}), "its state of reading is none"),
    ],
)
def test_a_file_that_lies_is_one_error(kept, change, said):
    path, model = kept
    tensors, told = read_tensors(path)
    record = json.loads(told["memory"])
    change(tensors, record)
    write_tensors(path, tensors, {"model": weights_digest(model), "memory": json.dumps(record)})
    with pytest.raises(UserError, match=said):
        load_memories(path, model)


def test_a_file_that_says_nothing_is_one_error(kept):
    path, model = kept
    for memory in ("{", "[" * 100_000, "3"):
        write_tensors(path, read_tensors(path)[0], {"model": weights_digest(model), "memory": memory})
        with pytest.raises(UserError, match=r"memory|remembers"):
            load_memories(path, model)
    path.unlink()
    with pytest.raises(UserError, match="there is no such file"):
        load_memories(path, model)
