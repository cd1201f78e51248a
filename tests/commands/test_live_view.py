"""The live view: over real sockets, and in a real browser."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import logging
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from envs.registration import UDACITY
from liquid_control.report import live_view
from liquid_control.report.live_view import LiveView, Moment
from liquid_control.support.errors import UserError
from policies.driver import Driver, DriverConfig
from policies.saliency import saliency

CORES = ["cfc", "ltc", "lan", "hybrid", "leaky", "plastic", "scan", "lstm", "gru", "mlp"]


def make_driver(policy="cfc", env=UDACITY):
    torch.manual_seed(0)
    return Driver(DriverConfig(env=env, policy=policy)).eval()


def make_moment(driver, seed=0, number=1, **changes):
    """A step of a drive through noise; the state is that of a driver that has seen it twice."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (10, 20, 3), np.uint8)).resize((320, 160))
    camera = np.asarray(coarse) if driver.config.env == UDACITY else np.asarray(coarse.resize((96, 96)))
    observation = {"image": camera, "speed": np.array([9.0]), "elapsed": np.array([0.08])}
    image, gauges = driver.view(observation if driver.config.env == UDACITY else camera)
    step = driver.compile_step()
    for _ in range(2):
        step.tick(image, gauges)
    moment = Moment(camera, image, gauges, step.state.copy(), -0.25, 0.5, 12.34, (0.0012, 0.0034), 12.5, number, 15.0)
    return replace(moment, **changes)


class RunningView:
    """A view in a thread of its own, as the bridge's event loop would run it."""

    def __init__(self, driver, **options):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.driver = driver
        self.view = self.call(self._make, driver, options)

    async def _make(self, driver, options):
        return LiveView(driver, **options)

    def call(self, function, *arguments):
        return asyncio.run_coroutine_threadsafe(function(*arguments), self.loop).result(timeout=20)

    async def _show(self, moments):
        for moment in moments:
            self.view.show(moment)

    def show(self, *moments):
        self.call(self._show, moments)

    @property
    def address(self):
        return self.view.url.replace("http", "ws", 1) + "live"


@contextlib.contextmanager
def run_view(driver, **options):
    running = RunningView(driver, **options)
    try:
        running.call(running.view.__aenter__)
        try:
            yield running
        finally:
            running.call(running.view.__aexit__, None, None, None)
    finally:
        running.loop.call_soon_threadsafe(running.loop.stop)
        running.thread.join(timeout=10)
        running.loop.close()


@pytest.fixture
def running():
    with run_view(make_driver()) as running:
        yield running


class Page:
    """What the page does, without a browser: asks for moments."""

    def __init__(self, running, **options):
        self.connecting = connect(running.address, **options)

    def receive(self, kind, timeout=10):
        """The next message of that kind; those of other kinds before it are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            message = json.loads(self.socket.recv(timeout=max(0.0, deadline - time.monotonic())))
            if message["kind"] == kind:
                return message

    def ask(self, client=None):
        self.socket.send(json.dumps({"client": client}))

    def next(self, client=None, timeout=10):
        self.ask(client)
        return self.receive("moment", timeout)

    def __enter__(self):
        self.socket = self.connecting.__enter__()
        self.network, self.clients = self.receive("network"), self.receive("clients")["clients"]
        return self

    def __exit__(self, *failure):
        self.connecting.__exit__(*failure)


def request(view, path="/", **headers):
    """Status, headers and body; a header that is None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=10)
    connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"Host": f"127.0.0.1:{view.port}"} | headers).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


@pytest.mark.parametrize(("policy", "env"), [*((policy, UDACITY) for policy in CORES), ("cfc", "CarRacing-v3")])
def test_neurons_and_synapses_of_every_core_are_shown_at_work(policy, env):
    driver = make_driver(policy, env)
    moment = make_moment(driver)
    parts = {name: part[0].numpy() for name, part in driver.core.unpack(torch.from_numpy(moment.state)[None]).items()}
    with torch.no_grad():
        seen = driver.perceive(torch.from_numpy(moment.image)[None], torch.from_numpy(moment.gauges)[None])[0]
    with run_view(driver) as running, Page(running) as page:
        running.show(moment)
        shown = page.next()
    columns = page.network["columns"]
    assert columns[0]["name"] == "sensory" and len(columns[0]["neurons"]) == driver.inputs
    assert [len(c["y"]) for c in columns] == [len(c["neurons"]) for c in columns] == [len(v) for v in shown["light"]]
    assert all(0 <= place <= 1 for column in columns for place in [column["x"], *column["y"]])
    np.testing.assert_allclose(shown["activity"][0], seen, atol=1e-4)
    for column, values in zip(columns[1:], shown["activity"][1:], strict=True):
        name, _, back = column["name"].partition(" ")
        np.testing.assert_allclose(values, parts[name][int(back)] if back else parts[name], atol=1e-4)
    assert max(abs(value) for values in shown["light"] for value in values) <= 1
    circuit = getattr(driver.core, "circuit", None)
    wired = 0 if circuit is None else circuit.synapse_count + circuit.sensory_synapse_count
    assert len(page.network["synapses"]) == wired
    names = {(columns[a]["name"], columns[b]["name"]) for a, _, b, _, _ in page.network["synapses"]}
    assert not wired or names >= {("sensory", "inter"), ("inter", "command"), ("command", "motor")}


def test_a_moment_is_what_was_shown(running):
    driver = running.driver
    moment = make_moment(driver)
    with Page(running) as page:
        running.show(moment)
        shown = page.next()
    assert (shown["steering"], shown["throttle"], shown["speed"], shown["target"]) == (-0.25, 0.5, 12.34, 15)
    assert (shown["latency"], shown["rate"], shown["client"]) == ([0.0012, 0.0034], 12.5, 1)
    image, camera = (np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[k])))) for k in ("image", "camera"))
    np.testing.assert_array_equal(image, moment.image)
    assert np.abs(camera.astype(int) - moment.camera).mean() < 4
    mask = np.frombuffer(base64.b64decode(shown["saliency"]), np.uint8).reshape(page.network["image"])
    np.testing.assert_allclose(mask / 255, saliency(driver.eyes, moment.image), atol=0.5 / 255 + 1e-6)
    assert page.network["crop"] == list(driver.view.crop)
    assert page.network["controls"] == ["steer"]


def test_a_page_that_is_slow_gets_the_latest_and_one_answer_a_question(running):
    moments = [make_moment(running.driver, seed, speed=float(seed)) for seed in range(5)]
    with Page(running) as page:
        running.show(*moments)
        assert page.next()["speed"] == 4
        page.ask()
        page.ask()
        with pytest.raises(TimeoutError):  # there is nothing that it has not seen
            page.receive("moment", timeout=0.3)
        running.show(*moments[:3])
        assert page.receive("moment")["speed"] == 2
        running.show(moments[0])
        with pytest.raises(TimeoutError):  # nobody asked
            page.receive("moment", timeout=0.3)


def test_a_page_gets_fifteen_moments_a_second_at_most(running):
    moments = [make_moment(running.driver, seed) for seed in range(2)]
    with Page(running) as page:
        begin, count = time.monotonic(), 0
        while (passed := time.monotonic() - begin) < 1:
            running.show(moments[count % 2])
            page.ask()
            with contextlib.suppress(TimeoutError):
                page.receive("moment", timeout=0.005)
                count += 1
    assert 4 <= count <= 15 * passed + 2


def test_nothing_is_drawn_while_nobody_asks_and_for_two_pages_only_once(running, monkeypatch):
    drawn = []

    def counted(eyes, image):
        drawn.append(threading.current_thread().name)
        return saliency(eyes, image)

    monkeypatch.setattr(live_view, "saliency", counted)
    moment = make_moment(running.driver)
    running.show(*[moment] * 50)
    with Page(running) as first, Page(running) as second:
        running.show(*[moment] * 50)
        time.sleep(0.2)
        assert drawn == []
        first.next()
        assert len(drawn) == 1
        moment = replace(moment)
        first.ask()
        second.socket.send('{"client":1}')
        second.receive("moment")  # the first moment, which it has not seen
        drawn.clear()
        second.ask()
        while not all(page.asks for page in running.view._pages):
            time.sleep(0.01)
        running.show(moment)
        first.receive("moment")
        second.receive("moment")
    assert len(drawn) == 1
    assert "live-view" in drawn[0]  # not in the event loop's thread


def test_who_drives_is_told_whether_a_moment_is_wanted(running):
    async def wants():
        return running.view.wants(1)

    assert not running.call(wants)
    with Page(running) as page:
        if not page.clients:
            assert page.receive("clients")["clients"] == [1]  # known without a moment
        assert not running.call(wants)
        page.ask()
        deadline = time.monotonic() + 5
        while not running.call(wants):
            assert time.monotonic() < deadline
        running.show(make_moment(running.driver))
        page.receive("moment")
        assert not running.call(wants)


def test_who_is_driven_by_hand_is_told(running):
    async def wants(by_hand):
        return running.view.wants(1, by_hand)

    with Page(running) as page:
        running.show(make_moment(running.driver))
        assert page.next()["client"] == 1
        running.call(wants, True)
        told = page.receive("clients")
        assert (told["clients"], told["by_hand"]) == ([1], [1])
        running.show(make_moment(running.driver, 1))
        told = page.receive("clients")
        assert (told["clients"], told["by_hand"]) == ([1], [])


def test_clients_are_chosen_by_number_and_the_last_one_is_shown_by_default(running, monkeypatch):
    monkeypatch.setattr(live_view, "SILENCE", 1.5)
    moments = [make_moment(running.driver, number, number=number) for number in (1, 2)]
    with Page(running) as page:
        assert page.clients == []
        running.show(*moments)
        assert page.receive("clients")["clients"] == [1, 2]
        assert page.next()["client"] == 2
        assert page.next(1)["client"] == 1
        clients = None
        while clients is None:
            running.show(moments[0])
            with contextlib.suppress(TimeoutError):
                clients = page.receive("clients", timeout=0.1)["clients"]
        assert clients == [1]
        running.show(replace(moments[0]))
        assert page.next(2)["client"] == 1  # for want of the second
        assert page.receive("clients")["clients"] == []


def test_another_driver_can_take_over_while_pages_look(running):
    moment = make_moment(running.driver)
    with Page(running) as page:
        running.show(moment)
        page.next()
        running.view.driver = driver = make_driver("lstm")
        running.show(make_moment(driver, 1))
        assert page.next()["speed"] == 12.34
        assert page.network["name"] == "CfC, 19 neurons"
        running.view.driver = make_driver("ltc")
        assert page.receive("network")["name"] == "LTC, 19 neurons"


def test_what_is_not_a_number_becomes_nothing_and_what_cannot_be_drawn_is_told_once(running, caplog):
    good = make_moment(running.driver, speed=float("nan"), latency=(float("nan"), float("inf")))
    bad = make_moment(running.driver, image=np.zeros((5, 5, 3), np.uint8))
    with caplog.at_level(logging.WARNING), Page(running) as page:
        for _ in range(3):
            running.show(replace(bad))
            with pytest.raises(TimeoutError):
                page.next(timeout=0.2)
        running.show(good)
        shown = page.next()
    assert shown["speed"] is None and shown["latency"] == [None, None]
    assert caplog.text.count("cannot show this") == 1


@pytest.mark.parametrize("question", ["{", "[1]", '{"client": "1"}', b"\xff\x00", "[" * 1000, '{"client": 1.5}'])
def test_who_asks_nonsense_is_sent_away_and_the_others_are_served(running, question):
    running.show(make_moment(running.driver))
    with Page(running) as page, Page(running) as other:
        page.socket.send(question)
        with pytest.raises(ConnectionClosed):
            page.socket.recv(timeout=5)
        assert other.next()["client"] == 1


def test_a_question_that_is_nested_too_deep_is_a_wrong_question(running):
    with Page(running) as page:
        page.socket.send("[" * 1000)
        with pytest.raises(ConnectionClosed, match="1008"):
            page.socket.recv(timeout=5)


def test_a_connection_that_nobody_uses_does_not_hold_up_the_end():
    with contextlib.ExitStack() as stack:
        with run_view(make_driver()) as running:
            stack.enter_context(socket.create_connection(("127.0.0.1", running.view.port)))
            time.sleep(0.1)  # until it is accepted
            begin = time.monotonic()
        assert time.monotonic() - begin < 6  # of 10 that websockets would wait


def test_the_page_is_one_file_that_runs_nothing_but_itself(running):
    status, headers, body = request(running.view)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "unsafe" not in policy
    assert f"connect-src ws://127.0.0.1:{running.view.port}" in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert 'lang="en"' in body and "<title>" in body
    assert "https://" not in body and body.count("http://") == body.count("http://www.w3.org/2000/svg")


def test_only_its_own_name_is_answered_and_only_its_own_page_is_let_in(running):
    port = running.view.port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1:1", "127.0.0.1", f"10.0.0.1:{port}", ":", None):
        for path in ("/", "/live"):
            assert request(running.view, path, Host=host)[0] in (400, 403), host
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert request(running.view, Host=host)[0] == 200
    assert request(running.view, "/other")[0] == 404
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", f"http://localhost:{port}"):
        with pytest.raises(InvalidStatus) as caught, connect(running.address, origin=origin):
            pass
        assert caught.value.response.status_code == 403
    with Page(running, origin=f"http://127.0.0.1:{port}") as page:
        assert page.network["kind"] == "network"


def test_a_port_that_is_taken_is_one_clear_line(running):
    with (
        pytest.raises(UserError, match=rf"127\.0\.0\.1:{running.view.port}: the port is taken; choose another"),
        run_view(running.driver, port=running.view.port),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"cannot listen on 203\.0\.113\.1:0"),
        run_view(running.driver, host="203.0.113.1"),
    ):
        pass


def test_an_open_door_is_warned_of_and_unused_connections_are_not(caplog):
    with caplog.at_level(logging.INFO), run_view(make_driver(), host="0.0.0.0") as running:
        assert "can look on" in caplog.text
        caplog.clear()
        socket.create_connection(("127.0.0.1", running.view.port)).close()
        assert request(running.view, Host=f"10.1.2.3:{running.view.port}")[0] == 200
        time.sleep(0.1)
    assert caplog.text == ""


# ---- in a browser ----


@contextlib.contextmanager
def open_page(browser, view, width=1280, height=800, scheme="dark"):
    """A page of an empty profile, with what its console says."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(each => { shift += each.value; }))"
        ".observe({ type: 'layout-shift', buffered: true });"
    )
    page.set_default_timeout(15_000)
    page.goto(view.url)
    try:
        yield page, said
    finally:
        context.close()


def wait_for_text(page, selector, text):
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector).textContent.includes(text)", arg=[selector, text]
    )


def pixels(page, selector):
    """What a canvas shows, as a PNG."""
    return page.evaluate("selector => document.querySelector(selector).toDataURL()", selector)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (375, "light")])
def test_a_browser_shows_every_moment_at_any_width(browser, running, width, scheme):
    driver = running.driver
    with open_page(browser, running.view, width, scheme=scheme) as (page, said):
        wait_for_text(page, "#status", "waiting for a simulator")
        assert page.locator("#empty").is_visible()
        wait_for_text(page, "#driver", "CfC, 19 neurons")
        running.show(make_moment(driver))
        wait_for_text(page, "#mph", "12.3")
        assert page.inner_text("#status") == "live, client 1"
        assert page.locator("#empty").is_hidden()
        shown = {
            name: page.inner_text(f"#{name}") for name in ("angle", "side", "pedal", "pedal-name", "target", "rate")
        }
        assert shown == {"angle": "6.3°", "side": "left", "pedal": "0.50", "pedal-name": "throttle",
                         "target": "target 15", "rate": "12.5/s"}  # fmt: skip
        assert (page.inner_text("#median"), page.inner_text("#slow")) == ("1.2 ms", "3.4 ms")
        assert page.get_attribute("#steering", "aria-valuenow") == "-6.25"
        before = {name: pixels(page, name) for name in ("#camera", "#image", "#strips")}
        lights = page.eval_on_selector_all("circle[data-name]", "all => all.map(each => each.getAttribute('fill'))")
        assert len(lights) == driver.inputs + 19
        running.show(make_moment(driver, 1, steering=0.1, throttle=-0.4, speed=3.0, target=None))
        wait_for_text(page, "#mph", "3.0")
        assert page.inner_text("#side") == "right" and page.inner_text("#pedal-name") == "brake"
        assert page.inner_text("#target") == ""
        after = {name: pixels(page, name) for name in before}
        assert all(before[name] != after[name] for name in before)
        assert lights != page.eval_on_selector_all("circle[data-name]", "all => all.map(e => e.getAttribute('fill'))")
        page.locator("#saliency").fill("0")
        assert pixels(page, "#camera") != after["#camera"]  # now without saliency
        assert page.inner_text("#strength") == "0 %"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("shift") < 0.005
        assert said == []


def test_a_neuron_tells_its_name_and_value(browser, running):
    driver = running.driver
    moment = make_moment(driver)
    motor = float(driver.core.unpack(torch.from_numpy(moment.state)[None])["motor"][0, 0])
    with open_page(browser, running.view) as (page, said):
        running.show(moment)
        wait_for_text(page, "#mph", "12.3")
        page.locator("circle[data-name='motor 1']").hover()
        expected = f"motor 1{motor:+.3f}".replace("-", "−")
        wait_for_text(page, "#readout", expected)
        page.mouse.move(5, 5)
        wait_for_text(page, "#readout", "Point at a neuron")
        page.locator("circle[data-name='command 2']").click()
        page.mouse.move(5, 5)
        wait_for_text(page, "#readout", "command 2")
        page.keyboard.press("Escape")
        page.locator("#wiring").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        wait_for_text(page, "#readout", "inter 2")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        wait_for_text(page, "#readout", expected)
        assert said == []


def test_the_page_says_that_a_car_is_driven_by_hand(browser, running):
    async def wants(by_hand):
        return running.view.wants(1, by_hand)

    with open_page(browser, running.view) as (page, said):
        running.call(wants, True)
        wait_for_text(page, "#status", "driven by hand")
        assert page.inner_text("#why") == "Driven by hand"
        running.call(wants, False)
        running.show(make_moment(running.driver))
        wait_for_text(page, "#status", "live, client 1")
        running.call(wants, True)
        wait_for_text(page, "#why", "Driven by hand")
        assert page.locator("#empty").is_visible()
        assert said == []


def test_a_client_is_chosen_in_the_page(browser, running):
    moments = [make_moment(running.driver, number, number=number, speed=10.0 * number) for number in (1, 2)]
    with open_page(browser, running.view) as (page, said):
        running.show(*moments)
        wait_for_text(page, "#status", "live, client 2")
        page.select_option("#clients", "1")
        wait_for_text(page, "#status", "live, client 1")
        wait_for_text(page, "#mph", "10.0")
        page.select_option("#clients", "")
        running.show(*map(replace, moments))
        wait_for_text(page, "#status", "live, client 2")
        assert said == []


def test_a_page_comes_back_when_the_bridge_does(browser):
    driver = make_driver()
    with run_view(driver) as running:
        port = running.view.port
        page_of_it = open_page(browser, running.view)
        page, said = page_of_it.__enter__()
        running.show(make_moment(driver))
        wait_for_text(page, "#status", "live")
    try:
        wait_for_text(page, "#status", "bridge gone, reconnecting")
        assert page.locator("#empty").is_visible()
        assert all("ERR_CONNECTION_REFUSED" in line for line in said)
        with run_view(driver, port=port) as running:
            wait_for_text(page, "#status", "waiting for a simulator")
            running.show(make_moment(driver, speed=7.7))
            wait_for_text(page, "#mph", "7.7")
            assert page.inner_text("#status") == "live, client 1"
    finally:
        page_of_it.__exit__(None, None, None)
