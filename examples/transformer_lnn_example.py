"""A transformer with a liquid core learns spirals and waves that it sees at irregular moments.

At every moment it is told a point of a curve, with noise, and how long it is until the next moment. It answers where
the curve will be then. The program makes the data, trains with a progress bar, measures, and saves three pictures: how
the error fell, what is foretold of curves it has not seen, and curves that it draws on by itself, from its own answers.
"""

import argparse
from pathlib import Path

import matplotlib
import torch
from rich.progress import Progress
from torch import Tensor

from liquid_control.models.hybrid import TransformerLNN

matplotlib.use("Agg")  # pictures go to files
from matplotlib import pyplot as plt

MOMENTS, SETTLED = 40, 5
"""Moments of a curve, and those of them at the beginning at which nobody can know where it goes."""
MEAN_GAP = 0.5


def curves(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spirals, then waves: points as seen and the gap after each (N, 40, 3), times (N, 40), next points (N, 40, 2)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    gaps = 0.1 - (MEAN_GAP - 0.1) * draw(0, 1, MOMENTS + 1).log()  # between moments, as rain falls
    times = (gaps.cumsum(1) - gaps[:, :1])[..., None]
    angle = draw(0.4, 1.2, 1, 1) * times * (draw(0, 1, 1, 1) - 0.5).sign() + draw(0, 6.3, 1, 1)
    begin, end = draw(0.3, 2, 1, 1), draw(0.3, 2, 1, 1)
    spirals = (begin + (end - begin) * times / 20) * torch.cat([angle.cos(), angle.sin()], 2)
    waves = 1.5 * torch.sin(draw(0.4, 1.2, 1, 2) * times + draw(0, 6.3, 1, 2))
    points = torch.where((torch.arange(count) < count // 2)[:, None, None], spirals, waves)
    seen = points[:, :-1] + 0.1 * torch.randn(count, MOMENTS, 2, generator=generator)
    return torch.cat([seen, gaps[:, 1:, None]], 2), times[:, :-1, 0], points[:, 1:]


def error(answers: Tensor, points: Tensor) -> float:
    """How far answers are from the curve, root mean square."""
    return float((answers - points)[:, SETTLED:].square().sum(2).mean().sqrt())


def train(network: TransformerLNN, steps: int) -> list[float]:
    """Learns from curves that are new at every step; the error of each step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    errors = []
    with Progress() as progress:
        task = progress.add_task("learning", total=steps)
        for step in range(steps):
            inputs, times, points = curves(32, seed=step)
            loss = (network(inputs, times) - points)[:, SETTLED:].square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            errors.append(float((2 * loss.detach()).sqrt()))
            progress.update(task, advance=1, description=f"learning, error {errors[-1]:.3f}")
    return errors


def draw_on(network: TransformerLNN, inputs: Tensor, times: Tensor, after: int) -> Tensor:
    """Reads ``after`` moments, then goes on step by step from its own answers: points (N, 40 - after, 2)."""
    answers, state = network.read(inputs[:, :after], times[:, :after])
    answer, drawn = answers[:, -1], []
    for moment in range(after, MOMENTS):
        drawn.append(answer)
        answer, state = network.step(torch.cat([answer, inputs[:, moment, 2:]], 1), times[:, moment], state)
    return torch.stack(drawn, 1)


def save_pictures(network: TransformerLNN, errors: list[float], folder: Path) -> None:
    """Saves learning.png, foretold.png and drawn_on.png."""
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.semilogy(errors)
    axes.set(xlabel="step", ylabel="error", title="Learning")
    figure.savefig(folder / "learning.png", dpi=120)

    inputs, times, points = curves(4, seed=2_000_000)
    after = MOMENTS // 2
    answers, drawn = network(inputs, times), draw_on(network, inputs, times, after)
    for name, title, begin, told in (
        ("foretold", "each next point foretold", SETTLED, answers[:, SETTLED:]),
        ("drawn_on", "drawn on from its own answers", after - 1, drawn),
    ):
        figure, places = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
        for row, axes in enumerate(places):
            axes.plot(*inputs[row, :, :2].T, ".", color="silver", label="seen, with noise")
            axes.plot(*points[row].T, "-", color="black", lw=0.8, label="the curve")
            axes.plot(*told[row].T, "o-", color="tab:red", ms=3, lw=0.8, label=f"from moment {begin + 1} on")
            axes.set(title="spiral" if row < 2 else "wave", aspect="equal")
        places[0].legend(fontsize="x-small")
        figure.suptitle(title)
        figure.savefig(folder / f"{name}.png", dpi=120)
    plt.close("all")


def main() -> None:
    """Trains, measures, draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="gradient steps")
    parser.add_argument("--pictures", type=Path, default=Path("runs/transformer_lnn"), help="where pictures go")
    options = parser.parse_args()
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    torch.manual_seed(0)
    network = TransformerLNN(
        3, 32, num_heads=4, dropout=0.0, output_size=2, core="scan", window=MOMENTS, time_unit=MEAN_GAP
    )
    print(f"{network.parameter_count():,} parameters")
    errors = train(network, options.steps)

    network.eval()
    inputs, times, points = curves(500, seed=1_000_000)
    with torch.no_grad():
        answers = network(inputs, times)
        print(f"the last point again: error {error(inputs[..., :2], points):.3f}")
        print(f"a transformer with a liquid core: error {error(answers, points):.3f}")
        untold = network(inputs, MEAN_GAP * torch.arange(MOMENTS))
        print(f"the same if all gaps are taken for the mean one: error {error(untold, points):.3f}")
        state, apart = None, 0.0
        for moment in range(MOMENTS):
            answer, state = network.step(inputs[:, moment], times[:, moment], state)
            apart = max(apart, float((answer - answers[:, moment]).abs().max()))
        print(f"step by step, its answers differ by at most {apart:.1e}")
        save_pictures(network, errors, options.pictures)
    print(f"pictures are in {options.pictures}")


if __name__ == "__main__":
    main()
