"""Demonstrations of other projects: SERL's and HIL-SERL's pickles, robomimic, LeRobot."""
