"""Whose request it is when proxies stand between a person and the portal."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def networks(text: str) -> list[Network]:
    """Read addresses and networks (``10.0.0.0/8``) separated by commas.

    Raises
    ------
    ValueError: a part is neither.
    """
    return [ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip()]


def client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """Return the address that a request came from.

    peer: the address that the connection came from. forwarded_for: the ``X-Forwarded-For`` header, to which each proxy
    appends the address that it was asked from; what stands further left anybody can write. It is read from the right
    for as long as the one who wrote it is a trusted proxy.
    """
    found = peer
    for part in reversed(forwarded_for.split(",")):
        if not _is_in(found, trusted):
            break
        address = _address(part)
        if address is None:
            break
        found = str(address)
    return found


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.strip())
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _is_in(text: str, trusted: Sequence[Network]) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in trusted)
