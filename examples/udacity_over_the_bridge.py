"""Drives the Udacity simulator over its network protocol; a stand-in for the simulator runs in the same program.

The server is the one that the real simulator connects to. The pilot is what you would replace by your own: it gets
every picture and answers with steering and throttle.
"""

import asyncio
import threading

import liquid_control
from envs.udacity.observation import observe
from envs.udacity.packets import Command, Telemetry
from envs.udacity.server import UdacityServer
from envs.udacity.stand_in.environment import UdacityStandIn
from envs.udacity.stand_in.simulator import Autonomous
from policies.driver import Driver

SECONDS = 6.0


class Pilot:
    """A trained driver at the wheel of one car."""

    def __init__(self, driver: Driver):
        self.driver = driver.compile_step()

    def drive(self, telemetry: Telemetry, elapsed: float) -> Command:
        """One picture, one answer; the driver's state is carried from one to the next."""
        steering, throttle = self.driver.act(observe(telemetry.image, telemetry.speed, elapsed))
        return Command(float(steering), float(throttle))


async def main() -> None:
    """Serves, lets the stand-in drive, and says how it went."""
    driver = liquid_control.load_driver("checkpoints/Udacity/cfc")
    print(driver.describe())
    async with UdacityServer(lambda: Pilot(driver), port=0) as server:  # the real simulator wants port 4567
        env = UdacityStandIn("lake")
        env.reset(seed=1, options={"start": 0.0})
        simulator = Autonomous(env, port=server.port, tell=print)
        thread = threading.Thread(target=simulator.run, args=(SECONDS,))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(1)
            for drive in server.drives.values():
                if drive.telemetry and drive.command:
                    print(f"  {drive.telemetry.speed:4.1f} mph, steering {drive.command.steering:+.2f}")
    print(f"{simulator.telemetries} pictures, {simulator.commands} answers, {env.progress:.0f} m of road,", end=" ")
    print(f"{abs(env.cross_track):.2f} m from the middle, left the road {simulator.departures} times")


if __name__ == "__main__":
    asyncio.run(main())
