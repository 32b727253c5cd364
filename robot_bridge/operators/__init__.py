"""People at a keyboard or a handheld device, who arm, stop and steer the robot."""
