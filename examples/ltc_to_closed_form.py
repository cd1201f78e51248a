"""Turns a trained LTC into a network without a solver, with no further training.

The LTC learns to clean a noisy wave. `close_form` then makes a network of the same weights whose steps are formulas,
and whose answers are nearly the same.
"""

import torch

from liquid_control.nn import LTC, LiquidLayer, Wiring, close_form


def waves(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy waves of different lengths and the same waves without noise, each (count, 64, 1)."""
    generator = torch.Generator().manual_seed(seed)
    pace = 0.1 + 0.3 * torch.rand(count, 1, generator=generator)
    phase = 2 * torch.pi * torch.rand(count, 1, generator=generator)
    clean = torch.sin(pace * torch.arange(64) + phase)[..., None]
    return clean + 0.5 * torch.randn(clean.shape, generator=generator), clean


def error(layer: LiquidLayer, noisy: torch.Tensor, clean: torch.Tensor) -> float:
    """Root mean square of what is left of the noise, after eight steps to settle."""
    return float((layer(noisy)[0] - clean)[:, 8:].square().mean().sqrt())


def main() -> None:
    """Trains, closes the form, compares."""
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    torch.manual_seed(0)
    ltc = LTC(1, Wiring.fully_connected(12, 1))
    optimizer = torch.optim.Adam(ltc.parameters(), lr=0.02)
    for step in range(150):
        noisy, clean = waves(32, seed=step)
        loss = (ltc(noisy)[0] - clean)[:, 8:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ltc.parameters(), 1.0)
        optimizer.step()

    noisy, clean = waves(200, seed=1_000_000)
    with torch.no_grad():
        print(f"the noise itself: error {(noisy - clean).square().mean().sqrt():.3f}")
        print(f"LTC, {ltc.ode_unfolds} solver steps a step: error {error(ltc, noisy, clean):.3f}")
        for sweeps in (1, 2):
            closed = close_form(ltc, sweeps)
            apart = (closed(noisy)[0] - ltc(noisy)[0]).square().mean().sqrt()
            print(f"closed form, {sweeps} sweeps: error {error(closed, noisy, clean):.3f}, from the LTC {apart:.3f}")


if __name__ == "__main__":
    main()
