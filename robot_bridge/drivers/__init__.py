"""Arms behind the ArmDriver protocol: a folder per robot, and arms simulated or replayed."""
