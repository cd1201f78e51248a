"""Some thousand tokens: influence is earned on a familiar stream, not on a shuffled one, and lost with the domain."""

import pytest
import torch

from liquid_control.models.cubes import CubeConfig, Cubes
from liquid_control.models.influence import InfluenceConfig
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.models.remembering import memories, remembering

TEXT, PASSES = 48, 24
RULES = InfluenceConfig(rise=0.05, low=0.05, high=0.15, memory=32, wrong=0.1, risk=0.1, audited=0.2)


@pytest.fixture(scope="module")
def model():
    """What its feed-forward parts are given depends on the tokens before as much as on the token."""
    torch.manual_seed(1)
    model = LanguageModel(LanguageModelConfig(vocabulary=64, width=16, blocks=2, pattern=("attention",), window=8))
    with torch.no_grad():
        model.embedding.weight.mul_(4)
        for block in model.blocks:
            block.mixer.readout.weight.mul_(8)
    return model.eval()


def text(seed, first):
    """A text of one of two domains: tokens 0 to 31, or 32 to 63."""
    return first + torch.randint(32, (1, TEXT), generator=torch.Generator().manual_seed(seed))


def shuffled(seed):
    return text(1, 0)[:, torch.randperm(TEXT, generator=torch.Generator().manual_seed(seed))]


def read(model, parts, texts):
    """Reads texts one after another; the least of the parts' mean influence on each."""
    begun, state = len(parts[0].shares), None
    with remembering(model, parts), torch.no_grad():
        for each in texts:
            state = model(each, state).state
    return [min(values) for values in zip(*(part.shares[begun:] for part in parts), strict=True)]


def fresh(model):
    return memories(model, Cubes(CubeConfig(width=16, layers=2, blocks=8, key_size=16)), 6, RULES)


def test_influence_rises_on_the_familiar_falls_with_the_domain_and_recovers(model):
    parts = fresh(model)
    rising = read(model, parts, [text(1, 0)] * PASSES)
    assert rising[0] == 0 and min(rising[-3:]) > 0.9
    skipped = parts[0].skipped
    assert skipped > 0.1 * parts[0].inputs
    switched = read(model, parts, [text(2, 32)] * PASSES)
    lowest = switched.index(min(switched))
    assert switched[lowest] < 0.3 and lowest < PASSES // 2 and min(switched[-3:]) > 0.9
    back = read(model, parts, [text(1, 0)] * PASSES)
    assert min(back[-3:]) > 0.9


def test_influence_stays_low_on_shuffled_text(model):
    parts = fresh(model)
    shares = read(model, parts, [shuffled(seed) for seed in range(PASSES)])
    assert max(shares) < 0.3 and not parts[0].skipped + parts[1].skipped
