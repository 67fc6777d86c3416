"""Host names, ports and names of sites, checked before they reach a file or a command."""

from __future__ import annotations

import ipaddress
import re

from fedpdiff.config.settings import show
from fedpdiff.errors import ConfigError

_HOST = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*$")
_SITE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


def check_host(host: str, option: str) -> str:
    """Return a host name or IPv4 address.

    Raises
    ------
    ConfigError
        When it is neither.
    """
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        if _HOST.fullmatch(host):
            return host
    raise ConfigError(
        f"{option} {show(host)} must be a host name or an IPv4 address that sites can reach, such as "
        "pfdm.example.org"
    )


def check_port(port: int, option: str) -> int:
    """Return a port number.

    Raises
    ------
    ConfigError
        When there is no such port.
    """
    if type(port) is not int or not 1 <= port <= 65535:
        raise ConfigError(f"{option} {port} must be a port number, 1 to 65535")
    return port


def check_address(address: str, option: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``.

    Raises
    ------
    ConfigError
        When it is not that.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or len(port) > 5:
        raise ConfigError(f"{option} {show(address)} must be HOST:PORT, such as pfdm.example.org:8443")
    return check_host(host, option), check_port(int(port), option)


def check_site(name: str, option: str) -> str:
    """Return a site's name.

    Raises
    ------
    ConfigError
        When it has other characters than allowed.
    """
    if not _SITE.fullmatch(name):
        raise ConfigError(
            f'{option} "{name}" must be 1 to 64 letters, digits, dots, hyphens or underscores, a letter or '
            "digit first"
        )
    return name
