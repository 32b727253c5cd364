"""Franka Panda and FR3, by franky-control or franka-rs, with the Franka Hand."""
