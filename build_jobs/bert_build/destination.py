"""Where a host name leads: at some addresses clouds hand their nodes' credentials to whoever asks. Called by s3.

Admission refuses such an address that is written out; whoever has a domain can point a name at it.
"""

import ipaddress
import socket
from typing import Final

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",  # Amazon
        "168.63.129.16/32",  # Azure
        "fd20:ce::/32",  # Google
        "fd00:c1::/32",  # Oracle
        "100.100.100.200/32",  # Alibaba
    )
)
_LOW_BITS: Final = tuple(ipaddress.IPv6Network(text) for text in ("::/96", "::ffff:0:0/96", "64:ff9b::/96"))
"""IPv6 addresses that end in an IPv4 address, which a kernel or a NAT64 sends to."""


def metadata_address(host: str) -> str:
    """The first address of a host that belongs to a cloud's metadata service or is link-local; empty if none does.

    Args:
        host: a name or an address. One that can't be resolved here has none: a proxy may know it.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ""
    addresses = (str(where[0]) for *_, where in found)
    return next((address for address in addresses if _is_metadata(address)), "")


def _is_metadata(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    return any(each in network for each in (address, *_inside(address)) for network in _METADATA)


def _inside(address: _Address) -> list[_Address]:
    """The IPv4 address that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    if address.sixtofour:
        return [address.sixtofour]
    return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) for network in _LOW_BITS if address in network]
