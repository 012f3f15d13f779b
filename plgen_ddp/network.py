"""Which network interface leads to the other nodes of a job, where the machine's own name does not say it."""

import fcntl
import ipaddress
import socket
import struct

_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
# An address of documentation, which no network has: what leads there is the default route. Nothing is sent.
_ELSEWHERE = "198.51.100.1"


def name_is_loopback() -> bool:
    """Whether the machine's own name means a loopback address, at which no other node finds it."""
    try:
        return ipaddress.ip_address(socket.gethostbyname(socket.gethostname())).is_loopback
    except OSError:  # no such name: Gloo finds that out, too
        return False


def interface_towards(host: str) -> str | None:
    """The interface whose IPv4 address this machine has towards `host`, or else towards the default route, or else any.

    Returns:
        None where all interfaces are loopback ones.
    """
    names = {address: name for name, address in _addresses().items()}
    for target in (host, _ELSEWHERE):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
            except OSError:
                continue
            if (name := names.get(probe.getsockname()[0])) is not None:
                return name
    return next(iter(names.values()), None)


def _addresses() -> dict[str, str]:
    """Interfaces with an IPv4 address that is no loopback one."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has none
                continue
            address = socket.inet_ntoa(answer[20:24])
            if not ipaddress.ip_address(address).is_loopback:
                found[name] = address
    return found
