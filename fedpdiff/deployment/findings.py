"""What the doctor found, and the checks that both sides share."""

from __future__ import annotations

import datetime
import platform
import shutil
import socket
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature

from fedpdiff.deployment.certificates import names_in, read_certificate
from fedpdiff.errors import ConfigError
from fedpdiff.fingerprint import code_fingerprint

FLOWER = "1.41."
_FREE_GIB = 5.0
_RENEW_DAYS = 30


@dataclass(frozen=True)
class Finding:
    """One check's outcome.

    Parameters
    ----------
    level
        ``ok``, ``note`` (works, but should be known) or ``problem``.
    what
        What was checked.
    found
        What was found.
    mend
        What to do about it; "" when there is nothing.
    """

    level: Literal["ok", "note", "problem"]
    what: str
    found: str
    mend: str = ""

    def text(self) -> str:
        """Return the finding in one or two lines."""
        first = f"{self.level:<8} {self.what}: {self.found}"
        return f"{first}\n         -> {self.mend}" if self.mend else first


def versions(expected: str) -> list[Finding]:
    """Check Flower's version and compare the code fingerprint with the other side's."""
    try:
        flower = version("flwr")
    except PackageNotFoundError:
        flower = "not installed"
    try:
        own = version("fedpdiff")
    except PackageNotFoundError:
        own = "not installed as a package"
    found = [Finding("ok", "versions", f"fedpdiff {own}, flwr {flower}, Python {platform.python_version()}")]
    if not flower.startswith(FLOWER):
        mend = f"install flwr {FLOWER}*: commands and ports differ between versions"
        found = [Finding("problem", "versions", f"flwr {flower}", mend)]
    ours = code_fingerprint()
    if expected and not (len(expected) >= 12 and ours.startswith(expected.lower())):
        mend = "install the same version on both sides"
        return [
            *found,
            Finding("problem", "code fingerprint", f"{ours}, the other side has {expected}", mend),
        ]
    note = "equal" if expected else "compare: fedpdiff doctor DIR --fingerprint HEX on the other side"
    return [*found, Finding("ok", "code fingerprint", f"{ours} ({note})")]


def private_files(root: Path, names: list[str]) -> list[Finding]:
    """Check that secrets are there and that only their owner can read them."""
    found = []
    for name in names:
        path = root / name
        if not path.is_file():
            found.append(Finding("problem", name, "missing", "run the init command again"))
        elif path.stat().st_mode & 0o077:
            mode = f"{path.stat().st_mode & 0o777:o}"
            found.append(Finding("problem", name, f"others can read it (mode {mode})", f"chmod 600 {path}"))
    return found or [Finding("ok", "private files", f"{', '.join(names)} are readable by their owner only")]


def certificate(root: Path, name: str, authority: str, hosts: list[str], renew: str) -> Finding:
    """Check dates, names and signature of a certificate."""
    try:
        loaded = read_certificate((root / name).read_bytes())
        issuer = read_certificate((root / authority).read_bytes())
    except (OSError, ConfigError) as error:
        reason = str(error) if isinstance(error, ConfigError) else type(error).__name__
        return Finding("problem", name, f"{name} or {authority} cannot be read: {reason}", renew)
    now = datetime.datetime.now(datetime.UTC)
    start, end = loaded.not_valid_before_utc, loaded.not_valid_after_utc
    if now < start:
        mend = "set this machine's clock (timedatectl set-ntp true)"
        return Finding(
            "problem",
            name,
            f"is valid only from {start:%Y-%m-%d %H:%M} UTC, now is {now:%Y-%m-%d %H:%M}",
            mend,
        )
    if now >= end:
        return Finding("problem", name, f"ran out on {end:%Y-%m-%d}", renew)
    try:
        loaded.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return Finding("problem", name, f"was not signed by {authority}", renew)
    if missing := [host for host in hosts if host not in names_in(loaded)]:
        return Finding("problem", name, f"is not for {', '.join(missing)}", renew)
    days = (end - now).days
    return Finding(
        "note" if days < _RENEW_DAYS else "ok",
        name,
        f"valid until {end:%Y-%m-%d} ({days} days)",
        renew if days < _RENEW_DAYS else "",
    )


def disk(folder: Path) -> Finding:
    """Check that there is room to work."""
    free = shutil.disk_usage(folder).free / 2**30
    if free < _FREE_GIB:
        mend = f"free at least {_FREE_GIB:g} GiB, or put the folder on another disk"
        return Finding("problem", "disk space", f"{free:.1f} GiB free at {folder}", mend)
    return Finding("ok", "disk space", f"{free:.0f} GiB free at {folder}")


def gpu() -> Finding:
    """Say which GPUs training will find; without one it works, slowly."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding("ok", "GPU", ", ".join(names))
    return Finding("note", "GPU", "none that torch can use; training runs on the CPU")


def listens(port: int) -> bool:
    """Return whether something answers on this port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
