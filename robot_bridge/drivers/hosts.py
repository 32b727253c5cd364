"""What an address says before anything is connected."""

import ipaddress


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine, where no control box can be but a simulated one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
