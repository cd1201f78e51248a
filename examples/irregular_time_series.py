"""A wired CfC looks at waves at irregular moments, and foretells each next value.

At every moment it is told the value, the time since the moment before (`elapsed`) and the time until the next one. To
foretell, it has to remember which way the wave was going. Three answers that need no learning stand beside it.
"""

import torch

from liquid_control.nn import CfC, Wiring

MOMENTS = 40


def waves(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs (count, 40, 2): value and time to the next; elapsed times (count, 40); next values (count, 40, 1)."""
    generator = torch.Generator().manual_seed(seed)
    gaps = 0.1 - 0.5 * torch.rand(count, MOMENTS + 1, generator=generator).log()  # between moments, as rain falls
    phase = 2 * torch.pi * torch.rand(count, 1, generator=generator)
    values = torch.sin(gaps.cumsum(1) + phase)
    inputs = torch.stack([values[:, :-1], gaps[:, 1:]], 2)
    return inputs, gaps[:, :-1], values[:, 1:, None]


def error(answers: torch.Tensor, targets: torch.Tensor) -> float:
    """Root mean square, from the fifth moment on: before, nobody can know."""
    return float((answers - targets)[:, 5:].square().mean().sqrt())


def main() -> None:
    """Trains on waves that are new at every step, and judges on others."""
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    torch.manual_seed(0)
    network = CfC(2, Wiring.auto(units=19, outputs=3), proj_size=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(300):
        inputs, elapsed, targets = waves(32, seed=step)
        loss = (network(inputs, elapsed=elapsed)[0] - targets)[:, 5:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:3}: error {loss.detach().sqrt():.3f}")

    inputs, elapsed, targets = waves(1000, seed=1_000_000)
    with torch.no_grad():
        told = network(inputs, elapsed=elapsed)[0]
        untold = network(inputs, elapsed=0.6)[0]
    print(f"a constant, the mean: error {error(torch.zeros_like(targets), targets):.3f}")
    print(f"the last value again: error {error(inputs[..., :1], targets):.3f}")
    print(f"CfC, 19 neurons: error {error(told, targets):.3f}")
    print(f"the same CfC if all gaps are taken for the mean one: error {error(untold, targets):.3f}")


if __name__ == "__main__":
    main()
