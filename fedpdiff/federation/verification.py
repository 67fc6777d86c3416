"""Every certificate below a folder, verified: a client's releases, and the copies that a server keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedpdiff.deletions import Deletion
from fedpdiff.errors import FedpdiffError, RunError
from fedpdiff.federation.certificates import check_received, check_stated
from fedpdiff.federation.spool import Spool
from fedpdiff.privacy.certificate_check import parse_certificate
from fedpdiff.privacy.verify import CERTIFICATE, verify_release
from fedpdiff.runfolder import check_format

_RELEASE = ("release.npy", "labels.npy")


@dataclass(frozen=True)
class Verdict:
    """What verifying one folder found.

    Parameters
    ----------
    folder
        Of a release, or of an upload on the server.
    problems
        In words; empty when certificate and bytes are right.
    certificate
        As read; empty where it cannot be read.
    simulated
        Whether it is a release of seeded noise without a certificate: NOT PRIVATE, so nothing to verify.
    deleted
        That and when the server deleted the upload; its certificate alone was verified.
    """

    folder: Path
    problems: list[str]
    certificate: dict[str, Any] = field(default_factory=dict)
    simulated: bool = False
    deleted: Deletion | None = None


def verify_below(root: Path) -> list[Verdict]:
    """Verify every release and every upload in a folder or below it.

    Parameters
    ----------
    root
        A release folder, a client's folder, a run folder, or any folder that holds such.

    Raises
    ------
    RunError
        When there is no such folder, neither a release nor an upload in it, or a run of another format.
    """
    if not root.is_dir():
        raise RunError(f"{root} is no folder; give a release, client or run folder")
    for run in (root, *root.absolute().parents[:3], *(path.parent for path in root.rglob("server"))):
        check_format(run)
    files = [path for name in (CERTIFICATE, *_RELEASE, "shard-*.npy") for path in root.rglob(name)]
    folders = sorted({path.parent for path in files if not path.parent.name.startswith(".")})
    if not folders:
        raise RunError(f"{root} holds neither a release nor an upload, so there is nothing to verify")
    return [_verdict(folder) for folder in folders]


def _verdict(folder: Path) -> Verdict:
    try:
        deleted = Deletion.read(folder)
    except RunError as error:
        return Verdict(folder, [str(error)])
    verify: Callable[[Path], list[str]] = verify_release
    if not any((folder / name).exists() for name in _RELEASE) and any(folder.glob("shard-*.npy")):
        verify = verify_upload
    if deleted:
        verify = verify_certificate
    if not (folder / CERTIFICATE).exists() and _seeded(folder):
        return Verdict(folder, [], simulated=True)
    try:
        certificate = parse_certificate((folder / CERTIFICATE).read_bytes())
    except (FedpdiffError, OSError):
        certificate = {}  # the problems say why
    return Verdict(folder, verify(folder), certificate, deleted=deleted)


def verify_certificate(folder: Path) -> list[str]:
    """Return what is wrong with the certificate of an upload, in words; its bytes are not looked at."""
    if not (folder / CERTIFICATE).exists():
        return [f"{CERTIFICATE} is missing"]
    try:
        check_stated(Spool.open(folder).manifest)
    except FedpdiffError as error:
        return [str(error)]
    except (OSError, ValueError) as error:
        return [f"manifest.json is missing or damaged ({type(error).__name__})"]
    return []


def _seeded(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "manifest.json").read_text("utf-8"))["noise"] == "seeded")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def verify_upload(folder: Path) -> list[str]:
    """Return what is wrong with an upload that a server keeps, in words; empty when nothing is.

    Parameters
    ----------
    folder
        Holds ``certificate.json``, ``manifest.json`` and the shards.
    """
    if not (folder / CERTIFICATE).exists():
        return [f"{CERTIFICATE} is missing"]
    try:
        spool = Spool.open(folder)
        check_stated(spool.manifest)
        check_received(spool.manifest, spool.digest())
    except FedpdiffError as error:
        return [str(error)]
    except (OSError, ValueError, KeyError) as error:
        return [f"manifest.json is missing or damaged ({type(error).__name__})"]
    return []
