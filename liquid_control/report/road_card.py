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
        f"Laps of {evaluation.env}, the stand-in for the simulator, on {len(tracks)} roads (seeds {tracks[0]} to "
        f"{tracks[-1]}) that nothing was learned or chosen on. A departure is the middle of the car beyond the "
        "shoulder; it is then put back into the middle, at rest. Autonomy takes each departure as 6 s of a human's "
        "hand (Bojarski et al. 2016). In bends the pedal slows down to 4 m/s² sideways, so the speed driven is below "
        f"the one asked for. Every lap is in [evaluation.json](evaluation.json). Measured with {versions}."
    )


def limits(evaluation: RoadEvaluation) -> str:
    """What is not promised."""
    farthest = max(evaluation.laps, key=lambda lap: lap.farthest)
    return (
        f"The largest distance from the middle of the road was {farthest.farthest:.2f} m, on road {farthest.track} at "
        f"{farthest.speed:g} miles an hour. It was judged on the stand-in, not on the simulator itself: the roads are "
        "drawn to resemble the recorded lake track, and whatever else is different there is untested. There is no "
        "traffic, and it knows no lanes: it keeps to the middle."
    )
