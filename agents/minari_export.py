"""Demonstrations as a Minari dataset, for those who train elsewhere. Needs the ``minari`` extra."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from agents.episodes import Episode
from liquid_control.support.errors import UserError


def check_minari(dataset_id: str) -> None:
    """To be asked before anything is driven for :func:`export_minari`.

    Raises:
        UserError: if Minari is not installed, the name is none of a dataset, or there is one of that name.
    """
    try:
        import h5py  # noqa: F401 - what Minari writes with
        from minari.dataset.minari_dataset import parse_dataset_id
        from minari.storage import get_dataset_path
    except ImportError as error:
        raise UserError(f"the export needs Minari ({error}): pip install 'liquid-control[minari]'.") from None
    try:
        parse_dataset_id(dataset_id)
        there = get_dataset_path(dataset_id).exists()
    except (ValueError, TypeError, OSError) as error:  # TypeError: of a name without a version
        raise UserError(
            f"Minari refuses the dataset {dataset_id!r}: {error}. Its name is NAME-vN or NAMESPACE/NAME-vN, such as "
            "laps-v0."
        ) from None
    if there:
        raise UserError(
            f"Minari refuses the dataset {dataset_id!r}: it is there already. Name another, or a new version."
        )


def export_minari(dataset_id: str, episodes: Sequence[Episode], env: str) -> None:
    """Writes recorded episodes as a local Minari dataset, images uncompressed: Minari's own default is lossy JPEG.

    Observations are dicts of ``image`` and ``gauges``; the expert's labels are kept in each step's ``infos``. Minari
    wants one observation more than actions: the last one is repeated.

    Args:
        dataset_id: Minari's name for it, such as ``carracing/expert-v0``.
        episodes: recorded episodes.
        env: the environment that they were driven in.

    Raises:
        UserError: if Minari is not installed, or refuses the name, see :func:`check_minari`.
    """
    check_minari(dataset_id)
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    def padded(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, array[-1:]])

    buffers = []
    for number, episode in enumerate(episodes):
        ends = np.zeros(episode.steps, bool)
        ends[-1] = True
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=episode.seed,
                observations={"image": padded(episode.images), "gauges": padded(episode.gauges)},
                actions=episode.actions,
                rewards=episode.rewards,
                terminations=ends & episode.terminated,
                truncations=ends & (not episode.terminated),
                infos={"expert_action": padded(episode.labels)},
            )
        )
    first = episodes[0]
    try:
        with warnings.catch_warnings():
            # Minari asks for author and code link; whoever publishes the dataset adds their own.
            warnings.simplefilter("ignore", UserWarning)
            create_dataset_from_buffers(
                dataset_id,
                buffers,
                env=env,
                observation_space=spaces.Dict(
                    image=spaces.Box(0, 255, first.images.shape[1:], np.uint8),
                    gauges=spaces.Box(-np.inf, np.inf, first.gauges.shape[1:], np.float32),
                ),
                action_space=spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32)),
                algorithm_name="privileged expert" if np.array_equal(first.actions, first.labels) else "driver",
                jpeg_encoding=False,
            )
    except (ValueError, OSError) as error:
        raise UserError(f"Minari refuses the dataset {dataset_id!r}: {error}") from None
