"""AgileX Piper over CAN by piper-sdk, with a watchdog process of its own."""

from robot_bridge.drivers.piper import robot as robot  # registers it
