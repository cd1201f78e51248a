"""What stands in for the simulator where there is no Unity: a road, a car on it, cameras."""
