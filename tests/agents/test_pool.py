"""The processes beside this one, whatever they work at."""

import os

from agents.pool import RolloutPool


def test_what_is_started_in_a_process_can_be_waited_for():
    with RolloutPool(1) as pool:
        wait = pool.start(os.getpid)
        assert pool.map(os.getpid, [()]) == [wait()] != [os.getpid()]
