"""What the bridge knows of SERL's robot servers by name; the limits are those of the arm behind."""

from robot_bridge.driver import ArmDriver
from robot_bridge.drivers.registry import Connection, register_driver

# Its readings are 3 to 8 ms old when they come, ten times what the arm's own link takes.
_STATE_MAX_AGE = 0.05  # [s]


@register_driver("serl-http", summary="a SERL robot server", state_max_age=_STATE_MAX_AGE)
def connect_serl_http(connection: Connection) -> ArmDriver:
    """Return the driver of the arm behind a server, on this machine unless told otherwise."""
    from robot_bridge.drivers.serl_http.driver import SerlHttpDriver

    address = connection.address or "http://127.0.0.1:5000"
    readings = connection.gripper_readings or (0.0, 1.0)
    return SerlHttpDriver(address, robot=connection.contract.robot, gripper_readings=readings)
