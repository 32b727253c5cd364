"""Controllers: from actions in [-1, 1] to actuator controls."""
