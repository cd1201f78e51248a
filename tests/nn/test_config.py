"""What a checkpoint holds of a layer stays as it is: its config as JSON, and where the parts of its state stand.

`configs.json` has both of every layer below, as version 0.1.0 wrote them. The parts are those of the state 0, 1, 2, ….
"""

import json
from pathlib import Path

import pytest
import torch

from liquid_control.nn import (
    GRU,
    LAN,
    LAYERS,
    LSTM,
    LTC,
    MLP,
    Bidirectional,
    CfC,
    ClosedFormLTC,
    HybridMixer,
    Leaky,
    LiquidScan,
    MixedMemory,
    PlasticCfC,
    PlasticMemory,
    ResidualBlock,
    ResidualStack,
    Stack,
    TimedAttention,
    WindowAttention,
    Wiring,
    build_layer,
    close_form,
    ncps_api,
)
from liquid_control.nn.wiring import Circuit

NCP = Wiring.ncp(3, 2, 2, sensory_fanout=2, inter_fanout=1, recurrent_command_synapses=2, motor_fanin=1)
SCATTERED = Circuit(
    sensory=2,
    types=("motor", "inter", "command", "inter"),
    layers=((3, 1), (2,), (0,)),
    sensory_synapses=((0, 1, 1), (1, 3, -1)),
    synapses=((1, 2, 1), (3, 2, -1), (2, 0, 1)),
)
"""Neurons of a type are neither neighbours nor in order."""
EXAMPLES = {
    "cfc": lambda: CfC(3, 2),
    "cfc, every option": lambda: CfC(
        *(3, 2, 4),
        mode="no_gate",
        activation="silu",
        backbone_units=5,
        backbone_layers=2,
        backbone_dropout=0.1,
        learn_initial_state=True,
    ),
    "cfc, no backbone": lambda: CfC(3, 2, mode="pure", backbone_layers=0, ncps_compat=False),
    "cfc, wired": lambda: CfC(3, NCP),
    "cfc, wired, every option": lambda: CfC(3, NCP, 4, mode="pure", ncps_compat=False, learn_initial_state=True),
    "cfc, scattered": lambda: CfC(2, SCATTERED),
    "ltc": lambda: LTC(3, 2),
    "ltc, every option": lambda: LTC(
        *(3, NCP),
        input_mapping="linear",
        output_mapping=None,
        ode_unfolds=3,
        epsilon=1e-5,
        implicit_param_constraints=False,
        learn_initial_state=True,
        solver="rk4",
    ),
    "ltc, scattered": lambda: LTC(2, SCATTERED),
    "ltc_closed_form": lambda: ClosedFormLTC(3, NCP),
    "ltc_closed_form, every option": lambda: ClosedFormLTC(
        *(3, 2),
        input_mapping=None,
        output_mapping="linear",
        sweeps=7,
        epsilon=1e-5,
        implicit_param_constraints=False,
        learn_initial_state=True,
    ),
    "ltc_closed_form, of a solver": lambda: close_form(LTC(3, NCP, ode_unfolds=2, learn_initial_state=True)),
    "leaky": lambda: Leaky(3, 2),
    "leaky, every option": lambda: Leaky(
        3, NCP, integration="explicit", adaptive=False, tau_min=0.3, ode_unfolds=2, learn_initial_state=True
    ),
    "leaky, scattered": lambda: Leaky(2, SCATTERED),
    "scan": lambda: LiquidScan(3, 2),
    "scan, every option": lambda: LiquidScan(3, 2, 4, tau_min=0.3, longest_tau=512.0, learn_initial_state=True),
    "plastic": lambda: PlasticCfC(3, NCP),
    "plastic, every option": lambda: PlasticCfC(
        *(3, 2),
        rule="oja",
        modulated=False,
        plastic_inputs=True,
        longest_half_life=64.0,
        ncps_compat=False,
        learn_initial_state=True,
    ),
    "plastic, retroactive": lambda: PlasticCfC(2, SCATTERED, retroactive=True),
    "plastic_memory": lambda: PlasticMemory(3, 2),
    "plastic_memory, every option": lambda: PlasticMemory(
        *(3, 2, 4),
        heads=1,
        key_size=3,
        rule="oja",
        convolution=2,
        shortest_half_life=2.0,
        longest_half_life=64.0,
        timed_writing=True,
        learn_initial_state=True,
    ),
    "plastic_memory, eligibility": lambda: PlasticMemory(3, 2, heads=1, rule="hebb", convolution=1, eligibility=True),
    "lan": lambda: LAN(3, 2),
    "lan, every option": lambda: LAN(
        *(3, 3, 2),
        heads=3,
        window=3,
        gate="bilinear",
        mode="euler",
        hidden=2,
        euler_steps=4,
        delta_t=0.1,
        pseudo_time="log",
    ),
    "lstm": lambda: LSTM(3, 2),
    "lstm, every option": lambda: LSTM(3, 2, 2, learn_initial_state=True),
    "gru": lambda: GRU(3, 2),
    "gru, every option": lambda: GRU(3, 2, 4, learn_initial_state=True),
    "mlp": lambda: MLP(3, 2),
    "mlp, every option": lambda: MLP(3, 2, 3, 4, learn_initial_state=True),
    "lstm, elapsed time": lambda: LSTM(3, 2, elapsed_as_input=True),
    "mlp, elapsed time": lambda: MLP(2, 3, 2, elapsed_as_input=True),
    "mixed_memory": lambda: MixedMemory(CfC(3, NCP, learn_initial_state=True)),
    "stack": lambda: Stack([LAN(3, 2, window=2), MixedMemory(Leaky(2, 2)), MLP(2, 2, 1)]),
    "bidirectional": lambda: Bidirectional(GRU(3, 2), Stack([LSTM(3, 2), CfC(2, 2)])),
    "window_attention": lambda: WindowAttention(3, 2, 4, heads=1, window=3),
    "timed_attention": lambda: TimedAttention(3, 2, 4, heads=1, window=3),
    "hybrid": lambda: HybridMixer(2, PlasticMemory(2, 2, heads=1, convolution=2), heads=1, window=2),
    "hybrid, every option": lambda: HybridMixer(3, CfC(3, NCP), units=4, heads=2, window=3, timed=False),
    "residual": lambda: ResidualBlock(GRU(3, 2), expansion=1.5, dropout=0.1),
    "residual stack": lambda: ResidualStack(2, [ResidualBlock(GRU(3, 3)), ResidualBlock(CfC(3, NCP))], 4),
    "cfc, as in ncps": lambda: ncps_api.CfC(3, 2, 4, False, mixed_memory=True, activation="gelu"),
    "cfc cell, as in ncps": lambda: ncps_api.CfCCell(3, 2, backbone_activation="relu"),
    "ltc, as in ncps": lambda: ncps_api.LTC(3, 2, False, epsilon=1e-5),
}


@pytest.fixture(scope="module")
def written():
    return json.loads(Path(__file__).with_name("configs.json").read_text())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_config_is_what_it_was(written, name):
    assert json.loads(json.dumps(EXAMPLES[name]().config)) == written[name]["config"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_parts_of_the_state_are_where_they_were(written, name):
    layer = EXAMPLES[name]()
    parts = layer.unpack(torch.arange(layer.state_size)[None])
    expected = written[name]["parts"]
    assert {part: places[0].tolist() for part, places in parts.items()} == expected
    assert list(parts) == list(expected)


def test_a_layer_is_built_from_what_was_written(written):
    for name, example in EXAMPLES.items():
        if "as in ncps" not in name:
            assert build_layer(written[name]["config"]).state_size == example().state_size


def test_no_layer_is_left_out(written):
    assert {of["config"]["layer"] for of in written.values()} == set(LAYERS)
