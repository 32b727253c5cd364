"""SERL's robot servers, spoken to over HTTP."""

from robot_bridge.drivers.serl_http import robot as robot  # registers it
