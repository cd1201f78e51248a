"""The picture of a network: the weights it shows are what the network does, and activity is where the neurons are."""

import numpy as np
import pytest
import torch
from PIL import Image

from liquid_control.diagram import main
from liquid_control.nn import LTC, CfC, Wiring, close_form
from liquid_control.report.diagram import (
    BACKGROUND,
    NEGATIVE,
    POSITIVE,
    Diagram,
    Gain,
    Traces,
    activity,
    draw_wiring,
    synapses,
)
from liquid_control.support.errors import UserError
from policies.driver import Driver, DriverConfig


def driver(policy="cfc", **options):
    torch.manual_seed(0)
    return Driver(DriverConfig(policy=policy, options=options)).eval()


@pytest.mark.parametrize("policy", ["cfc", "ltc", "leaky", "plastic"])
def test_every_synapse_of_the_wiring_is_shown_and_no_other(policy):
    core = driver(policy).core
    shown = synapses(core)
    kinds = {kind: core.circuit.neurons_of_type(kind) for kind in ("inter", "command", "motor")}
    sensory = {(s.source[1], kinds[s.target[0]][s.target[1]]) for s in shown if s.source[0] == "sensory"}
    inner = {
        (kinds[s.source[0]][s.source[1]], kinds[s.target[0]][s.target[1]]) for s in shown if s.source[0] != "sensory"
    }
    assert sensory == {synapse[:2] for synapse in core.circuit.sensory_synapses}
    assert inner == {synapse[:2] for synapse in core.circuit.synapses}


def test_a_cfc_synapse_weighs_what_it_does_to_the_neuron_at_rest():
    core = driver().core
    with torch.no_grad():
        for cell in core.cells:
            for head in (cell.time_a, cell.time_b):  # the gate half open
                head.weight.zero_()
                head.bias.zero_()
            cell.ff1.bias.zero_()
            cell.ff2.bias.zero_()
    effect = torch.autograd.functional.jacobian(lambda x: core.unpack(core.step(x)[1])["inter"][0], torch.zeros(1, 39))
    shown = np.zeros((12, 39))
    for synapse in synapses(core):
        if synapse.source[0] == "sensory":
            shown[synapse.target[1], synapse.source[1]] = synapse.weight
    np.testing.assert_allclose(shown, effect[:, 0].numpy(), atol=1e-6)


def test_an_untrained_ltc_synapse_has_the_sign_of_its_polarity_and_the_size_of_its_conductance():
    core = driver("ltc").core
    conductance = torch.nn.functional.softplus(core.rnn_cell.w).detach().numpy()
    motor = core.circuit.neurons_of_type("motor")
    command = core.circuit.neurons_of_type("command")
    shown = {(command[s.source[1]], motor[s.target[1]]): s.weight for s in synapses(core) if s.target[0] == "motor"}
    expected = {
        (source, target): polarity * conductance[source, target]
        for source, target, polarity in core.circuit.synapses
        if target in motor
    }
    assert shown == pytest.approx(expected)


@pytest.mark.parametrize("policy", ["cfc", "ltc", "leaky", "plastic", "scan", "lan", "hybrid", "lstm", "gru", "mlp"])
def test_every_neuron_of_every_core_lights_up_where_it_is(policy):
    subject = driver(policy)
    diagram = Diagram(subject, 560, 640)
    columns = activity(subject)
    for sign, color in ((1, POSITIVE), (-1, NEGATIVE)):
        lit = {name: np.full(values.shape, float(sign)) for name, values in columns.items()}
        picture = diagram.draw(lit, np.full(39, float(sign)), (0, 0, 0))
        for points in diagram.positions.values():
            for x, y in points:
                np.testing.assert_allclose(picture[round(y), round(x)], color, atol=3)


def test_the_bars_show_the_controls():
    diagram = Diagram(driver(), 560, 640)
    rest = {name: np.zeros(size) for name, size in diagram.columns.items()}
    boxes = diagram._bar_boxes()
    picture = diagram.draw(rest, np.zeros(39), (-0.5, 0.25, 1.0))
    fill = [
        [(np.abs(row.astype(int) - color).sum(-1) < 12).mean() for color in (POSITIVE, NEGATIVE)]
        for row in (picture[round((t + b) / 2), round(left) : round(right)] for left, t, right, b in boxes)
    ]
    np.testing.assert_allclose(fill, [[0, 0.25], [0.25, 0], [1, 0]], atol=0.03)


def test_gas_and_brake_are_beside_the_pedal():
    diagram = Diagram(Driver(DriverConfig(pedals=True)), 560, 640)
    steer, gas, brake = ((top + bottom) / 2 for _, top, _, bottom in diagram._bar_boxes())
    (_, steering), (_, pedal) = diagram.positions["motor"]
    assert steer == pytest.approx(steering)
    assert gas < pedal < brake
    assert gas + brake == pytest.approx(2 * pedal)


@pytest.mark.parametrize("policy", ["cfc", "ltc", "leaky", "plastic", "scan", "lan", "hybrid", "lstm", "gru", "mlp"])
def test_the_wiring_of_every_core_can_be_drawn_at_any_size(policy):
    for size in ((900, 720), (300, 200)):
        picture = draw_wiring(driver(policy), *size)
        assert picture.shape == (*size[::-1], 3)
        assert (picture != BACKGROUND).any(-1).mean() > 0.05


def test_a_circuit_and_a_layer_are_drawn_where_a_driver_is_not_there_yet():
    """A bare circuit shows polarities; a layer of it, with weights that are one, the same picture."""
    layer = LTC(5, Wiring.auto(9, 2), implicit_param_constraints=False)
    with torch.no_grad():
        for weight in (layer.rnn_cell.w, layer.rnn_cell.sensory_w):
            weight.fill_(1)
    picture = draw_wiring(layer.circuit, 400, 300)
    assert (draw_wiring(layer, 400, 300) == picture).all()
    assert (draw_wiring(close_form(layer), 400, 300) == picture).all()
    for color in (POSITIVE, NEGATIVE):
        assert (np.abs(picture.astype(int) - color).sum(-1) < 12).any()
    assert {synapse.weight for synapse in synapses(layer.circuit)} == {-1.0, 1.0}
    assert (draw_wiring(CfC(5, 8), 400, 300) != BACKGROUND).any()


def test_the_command_writes_the_picture_of_a_checkpoint(tmp_path):
    subject = driver("ltc")
    subject.save(tmp_path / "driver")
    arguments = [str(tmp_path / "driver"), "--output", str(tmp_path / "out.png"), "--width", "500", "--height", "400"]
    main(arguments)
    with Image.open(tmp_path / "out.png") as picture:
        assert np.array_equal(np.array(picture), draw_wiring(subject, 500, 400))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "10"], "--width must be at least 300 and at most 10000, not 10"),
        (["--height", "10"], "--height must be at least 200 and at most 10000, not 10"),
        (["--output", "wiring.svg"], "should be a .png file"),
    ],
)
def test_a_picture_that_cannot_be_made_is_refused(arguments, message, tmp_path):
    driver().save(tmp_path)
    with pytest.raises(UserError, match=message):
        main([str(tmp_path), *arguments])


def test_traces_scroll_and_the_present_is_at_the_right():
    traces = Traces({"motor": 1}, 400, 60, steps=50)
    for value in [0.0] * 49 + [1.0]:
        traces.append({"motor": np.array([value])})

    def last_lit():
        lit = np.abs(traces.draw()[:, 100:].astype(int) - BACKGROUND).max(-1) > 40
        return 100 + np.flatnonzero(lit[:20].any(0)).max(initial=-100)

    assert last_lit() >= 390
    for _ in range(25):
        traces.append({"motor": np.array([0.0])})
    assert 220 <= last_lit() <= 260
    for _ in range(25):
        traces.append({"motor": np.array([0.0])})
    assert last_lit() == 0


def test_gain_shows_quiet_neurons_but_not_rounding_noise():
    gain = Gain(floor=0.1)
    np.testing.assert_allclose(gain({"motor": np.array([4.0, 0.2, 1e-6])})["motor"], [1, 1, 1e-5])
    np.testing.assert_allclose(gain({"motor": np.array([-2.0, 0.1, 0.05])})["motor"], [-0.5, 0.5, 0.5])
