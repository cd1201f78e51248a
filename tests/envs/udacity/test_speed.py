"""The speed controller on the stand-in's car."""

import pytest

from envs.udacity.speed import SpeedController
from envs.udacity.stand_in.car import TICK, Car
from envs.udacity.vehicle import MPH


def drive(controller, seconds, every, slope=lambda time: 0.0, speed=0.0):
    """Speeds (mph) at every tick of a car whose pedal is asked for every so many ticks."""
    car, speeds = Car(0.0, 0.0, 0.0, speed * MPH), []
    for tick in range(round(seconds / TICK)):
        if tick % every == 0:
            car.command(0.0, controller.update(car.speed / MPH, 0.0 if tick == 0 else every * TICK))
        car.tick(slope(tick * TICK))
        speeds.append(car.speed / MPH)
    return speeds


@pytest.mark.parametrize("target", [9.0, 15.0, 25.0])
@pytest.mark.parametrize("slope", [-0.08, 0.0, 0.08])
def test_a_speed_is_reached_and_kept_uphill_and_down(target, slope):
    speeds = drive(SpeedController(target), 60, every=4, slope=lambda _: slope)
    assert max(speeds) < target + 1.5
    assert speeds[-250:] == pytest.approx([target] * 250, abs=0.2)


def test_it_is_asked_often_or_seldom_and_drives_alike():
    often, seldom = (drive(SpeedController(), 30, every) for every in (1, 8))
    assert often[::50] == pytest.approx(seldom[::50], abs=0.35)


def test_a_climb_that_is_too_steep_is_not_held_against_the_way_down():
    controller = SpeedController(25.0)
    speeds = drive(controller, 90, every=4, slope=lambda time: 0.35 if 20 < time < 50 else 0.0, speed=25.0)
    assert speeds[round(49 / TICK)] < 15  # full throttle, and still slower
    assert max(speeds[round(50 / TICK) :]) < 26.5
    assert speeds[-1] == pytest.approx(25, abs=0.2)


def test_a_pause_is_not_summed():
    controller = SpeedController()
    controller.update(14.0, 0.0)
    controller.update(14.0, 3600.0)
    assert controller.summed == SpeedController.LONGEST
    controller.reset()
    assert controller.summed == 0
