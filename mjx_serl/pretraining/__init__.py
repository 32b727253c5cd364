"""Image encoders trained on what the simulator knows."""
