"""Universal Robots arms of the e-Series over RTDE, with a program on the controller of our own."""

from robot_bridge.drivers.ur import robot as robot  # registers it
