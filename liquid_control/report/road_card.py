"""What a card says of a driver of the Udacity simulator; the rest is said in `liquid_control.card`."""

from __future__ import annotations

from liquid_control.report.road_evaluation import RoadEvaluation
from policies.driver import Driver


def summary(driver: Driver, evaluation: RoadEvaluation) -> str:
    """What drives and how it does, in a sentence."""
    told = ", ".join(
        f"{each['departures']} departures in {each['laps']:g} laps at {each['speed']:g} miles an hour"
        for each in evaluation.summary()
    )
    return (
        f"{driver.core.neuron_count} neurons and {driver.parameter_counts()['total']:,} parameters in all steer along "
        f"roads that they never saw: **{told}**."
    )


def conditions(evaluation: RoadEvaluation) -> str:
    """How it was measured."""
    tracks = sorted({lap.track for lap in evaluation.laps})
    versions = ", ".join(f"{name} {version}" for name, version in evaluation.versions.items())
    return (
        f"Measured in {evaluation.env}, the stand-in for the simulator, on {len(tracks)} roads (seeds {tracks[0]} to "
        f"{tracks[-1]}). None of them was used in training or to choose the checkpoint. A departure is counted when "
        "the middle of the car passes the shoulder; the car is then put back into the middle of the road, at rest. "
        "Autonomy counts each departure as 6 s of human driving (Bojarski et al. 2016). In bends the controller slows "
        "down to 4 m/s² sideways, so the average speed is below the one asked for. Every lap is in "
        f"[evaluation.json](evaluation.json). Versions: {versions}."
    )


def limits(evaluation: RoadEvaluation) -> str:
    """What is not promised."""
    farthest = max(evaluation.laps, key=lambda lap: lap.farthest)
    return (
        f"The largest distance from the middle of the road was {farthest.farthest:.2f} m, on road {farthest.track} at "
        f"{farthest.speed:g} miles an hour. The driver was scored on the stand-in, not on the simulator itself. The "
        "roads are drawn to resemble the recorded lake track; other differences are untested. There is no traffic. The "
        "driver knows no lanes and keeps to the middle of the road."
    )
