import gymnasium
import numpy as np
import pytest

import envs  # noqa: F401
from envs.car_racing.progress import lap_progress


@pytest.fixture(scope="module")
def env():
    env = gymnasium.make("liquid_control/FastCarRacing-v3")
    env.reset(seed=0)
    yield env
    env.close()


def visit(env, *tiles):
    env.unwrapped.visited[:] = False
    env.unwrapped.visited[list(tiles)] = True


def test_the_environment_notes_the_tiles_that_count(env):
    env.reset(seed=0)
    for _ in range(120):
        env.step(np.array([0.0, 0.2, 0.0], np.float32))
    racing = env.unwrapped
    assert 10 < racing.visited.sum() == racing.tile_visited_count
    assert racing.visited.tolist() == [tile.road_visited for tile in racing.road]
    racing.reset(seed=0)
    assert racing.visited.sum() == racing.tile_visited_count < 10


def test_what_was_passed_and_not_visited_is_missed(env):
    total = len(env.unwrapped.visited)
    visit(env, *range(10), *range(12, 20))
    assert lap_progress(env, 0.25).tolist() == pytest.approx([18 / total, 0.25, 1, 0.2])
    visit(env, *range(20))
    assert lap_progress(env, 0.25).tolist() == pytest.approx([20 / total, 0.25, 0, 0])


def test_the_last_tiles_are_behind_a_car_that_has_just_begun(env):
    total = len(env.unwrapped.visited)
    visit(env, 0, 1, 2, total - 1)
    assert lap_progress(env, 0.0)[2:].tolist() == [0, 0]
    visit(env, *range(total - 2), total - 1)
    assert lap_progress(env, 0.7)[2:].tolist() == pytest.approx([1, 0.1])
