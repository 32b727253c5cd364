"""Franka Panda and FR3, by franky-control or franka-rs, with the Franka Hand."""

from robot_bridge.drivers.franka import robot as robot  # registers it
