"""What runs on the controller while the arm is armed, how it gets there, and the dashboard.

The program follows the joints in our registers. It is the watchdog too: it counts its own cycles
of 2 ms, and where our beat stays the same for 100 ms (a process that died or hangs, a cut cable)
it brakes and ends. Whoever else stops it on the pendant ends our control, which shows.
"""

import socket
from enum import IntEnum

from robot_bridge.driver import DriverError
from robot_bridge.drivers.ur.rtde import connect

SCRIPT_PORT, DASHBOARD_PORT = 30002, 29999
MAX_SILENCE = 0.1  # [s]


class Order(IntEnum):
    """What the program shall do."""

    END = 0
    FOLLOW = 1
    PROTECTIVE_STOP = 2


def program(nonce: int) -> str:
    """The URScript; it writes `nonce` into its register, by which it is known to be this one.

    A cycle of 2 ms, and lookahead [s] and gain of Universal Robots' article on servoj, which lags
    half of the manual's own 0.1 s; stopj brakes at 4 rad/s^2.
    """
    joints = ", ".join(f"read_input_float_register({i})" for i in range(24, 30))
    return f"""def mjx_serl():
  stale = 0
  beat = read_input_integer_register(24)
  order = {Order.FOLLOW:d}
  write_output_integer_register(24, {nonce})
  while order == {Order.FOLLOW:d} and stale < {round(MAX_SILENCE / 0.002)}:
    servoj([{joints}], 0, 0, 0.002, 0.05, 500)
    stale = stale + 1
    if read_input_integer_register(24) != beat:
      beat = read_input_integer_register(24)
      stale = 0
    end
    order = read_input_integer_register(25)
  end
  if order == {Order.PROTECTIVE_STOP:d}:
    protective_stop()
  end
  stopj(4.0)
end
"""


def send_program(host: str, nonce: int) -> socket.socket:
    """Hand the controller the program; close what is returned once it runs.

    The controller sends its states there too, and one that is closed with these unread resets the
    connection, which could lose the program.
    """
    script = connect(host, SCRIPT_PORT, "the script interface")
    script.sendall(program(nonce).encode())
    return script


def dashboard(host: str, command: str) -> str:
    """The dashboard server's answer to a command; DriverError."""
    opened = connect(host, DASHBOARD_PORT, "the dashboard server")
    try:
        with opened, opened.makefile("rw") as lines:
            lines.readline(1000)  # it says who it is
            lines.write(command + "\n")
            lines.flush()
            return lines.readline(1000).strip()
    except OSError as error:
        raise DriverError(f"The dashboard server does not answer: {error}") from None
