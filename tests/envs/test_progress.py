import gymnasium
import pytest

import envs  # noqa: F401
from envs.car_racing.progress import lap_progress


@pytest.fixture(scope="module", params=["CarRacing-v3", "liquid_control/FastCarRacing-v3"])
def env(request):
    env = gymnasium.make(request.param)
    env.reset(seed=0)
    yield env
    env.close()


def visit(env, *tiles):
    for tile in env.unwrapped.road:
        tile.road_visited = False
    for index in tiles:
        env.unwrapped.road[index].road_visited = True


def test_what_was_passed_and_not_visited_is_missed(env):
    total = len(env.unwrapped.road)
    visit(env, *range(10), *range(12, 20))
    assert lap_progress(env, 0.25).tolist() == pytest.approx([18 / total, 0.25, 1, 0.2])
    visit(env, *range(20))
    assert lap_progress(env, 0.25).tolist() == pytest.approx([20 / total, 0.25, 0, 0])


def test_the_last_tiles_are_behind_a_car_that_has_just_begun(env):
    total = len(env.unwrapped.road)
    visit(env, 0, 1, 2, total - 1)
    assert lap_progress(env, 0.0)[2:].tolist() == [0, 0]
    visit(env, *range(total - 2), total - 1)
    assert lap_progress(env, 0.7)[2:].tolist() == pytest.approx([1, 0.1])
