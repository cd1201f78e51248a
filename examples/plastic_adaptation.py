"""A plastic layer learns while it runs, and keeps what it has learned in its synapses.

Every sequence has a code of its own: each of three signs is shown once with its answer, +1 or -1, drawn at random. Then
the neurons are set to rest, so that only the synapses can know, and the signs are shown alone. Training teaches the
layer to learn; the codes are new each time.
"""

import torch

from liquid_control.nn import PlasticCfC, Wiring

SIGNS = 3


def codes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lessons (count, 3, 4): each sign and its answer; questions (count, 3, 4): the signs alone; answers (count, 3)."""
    generator = torch.Generator().manual_seed(seed)
    answers = torch.randint(0, 2, (count, SIGNS), generator=generator).float() * 2 - 1
    signs = torch.eye(SIGNS).expand(count, -1, -1)
    lessons = torch.cat([signs, answers[..., None]], 2)
    return lessons, torch.cat([signs, torch.zeros(count, SIGNS, 1)], 2), answers


def main() -> None:
    """Trains the layer to learn, then looks where the knowledge is."""
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    torch.manual_seed(0)
    layer = PlasticCfC(SIGNS + 1, Wiring.fully_connected(10, 1), rule="delta", plastic_inputs=True)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for step in range(200):
        lessons, questions, answers = codes(32, seed=step)
        _, taught = layer(lessons)
        y, _ = layer(questions, layer.reset(taught, "inter", "motor"))
        loss = (y[..., 0] - answers).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:3}: error {loss.detach().sqrt():.3f}")

    lessons, questions, answers = codes(1000, seed=1_000_000)
    with torch.no_grad():
        _, taught = layer(lessons)
        rested = layer.reset(taught, "inter", "motor")
        other = layer.reset(taught, "inter", "motor").roll(1, 0)
        for name, state in (
            ("with the synapses that it has learned", rested),
            ("with those of another sequence", other),
            ("with none", layer.reset(rested, "trace")),
        ):
            right = (layer(questions, state)[0][..., 0].sign() == answers).float().mean()
            print(f"{name}: {right:.0%} right")


if __name__ == "__main__":
    main()
