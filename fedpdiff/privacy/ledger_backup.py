"""A backup of a ledger: one file with the ledger and its secret, made while nothing else writes.

The secret is in it: whoever holds a backup and can guess an image can confirm the guess. It is as private as
the images are.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.disk import UNFINISHED, new_file, sync_folder
from fedpdiff.privacy.ledger import open_ledger
from fedpdiff.privacy.ledger_entries import now
from fedpdiff.privacy.store_folder import StoreFolder

FORMAT = "fedpdiff-ledger-backup/1"
_FACTS, _SECRET, _LEDGER = "backup.json", "secret", "ledger.sqlite"
_LARGEST_FACTS = 10_000


def back_up(store: StoreFolder, target: Path) -> int:
    """Write ledger and secret to a new file, readable by its owner only: whole or not at all.

    Returns
    -------
    int
        How many noisings the ledger holds.

    Raises
    ------
    PrivacyError
        When the target is there already or cannot be written, or the ledger is damaged or in doubt.
    """
    if target.exists():
        raise PrivacyError(f"{target} is there already; backups are never overwritten: give another name")
    part = target.with_name(f".{target.name}.part")
    with store.locked():
        with store.ledger() as (ledger, _):
            ledger.check()
            noisings, doubt = len(ledger.chain()) - 1, ledger.losses.doubt
        if doubt:
            raise PrivacyError(f"this ledger may not be the newest one ({doubt.reason}): settle that first")
        try:
            part.unlink(missing_ok=True)
            with new_file(part) as file:
                _write(file, store, noisings)
            part.rename(target)
            sync_folder(target.parent)
        except OSError as error:
            raise PrivacyError(f"{target} cannot be written ({error.strerror})") from error
    return noisings


def _write(file: BinaryIO, store: StoreFolder, noisings: int) -> None:
    files = {_SECRET: store.secret_file, _LEDGER: store.ledger_file}
    hashes = {}
    for name, path in files.items():
        with path.open("rb") as source:
            hashes[name] = hashlib.file_digest(source, "sha256").hexdigest()
    facts = {"format": FORMAT, "created": now(), "noisings": noisings, "sha256": hashes}
    text = json.dumps(facts, indent=2).encode()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(_member(_FACTS, len(text)), io.BytesIO(text))
        for name, path in files.items():
            with path.open("rb") as source:
                archive.addfile(_member(name, path.stat().st_size), source)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def restore(store: StoreFolder, source: Path) -> int:
    """Put ledger and secret of a backup where there are none; whether it is the newest the witness decides.

    Returns
    -------
    int
        How many noisings the ledger holds.

    Raises
    ------
    PrivacyError
        When a ledger or another secret is there, or the file is no backup, damaged or of another format.
    """
    with store.locked():
        if store.ledger_file.exists():
            raise PrivacyError(
                f"{store.root} holds a ledger; move that folder away first, and keep it until you know that "
                "it is not the newer one"
            )
        ledger, secret = store.root / f"{UNFINISHED}ledger", store.root / f"{UNFINISHED}secret"
        try:
            with tarfile.open(source, mode="r:") as archive:
                facts = _facts(archive, source)
                for name, path in ((_SECRET, secret), (_LEDGER, ledger)):
                    _extract(archive, name, path, facts["sha256"][name], source)
        except (OSError, tarfile.TarError, KeyError, TypeError) as error:
            raise PrivacyError(
                f"{source} is no backup of a ledger, or damaged ({type(error).__name__})"
            ) from error
        with open_ledger(ledger, secret.read_bytes()) as opened:
            opened.check()
            noisings = len(opened.chain()) - 1
        if store.secret_file.exists() and store.secret_file.read_bytes() != secret.read_bytes():
            raise PrivacyError(f"{store.root} holds the secret of another ledger than the one in {source}")
        secret.rename(store.secret_file)  # the secret first: alone it means a loss, as it was before
        ledger.rename(store.ledger_file)
        sync_folder(store.root)
    return noisings


def _facts(archive: tarfile.TarFile, source: Path) -> dict[str, dict[str, str]]:
    file = archive.extractfile(_FACTS)
    if file is None:
        raise KeyError(_FACTS)
    try:
        facts = json.loads(file.read(_LARGEST_FACTS))
    except ValueError as error:
        raise KeyError(_FACTS) from error
    if facts["format"] != FORMAT:
        raise PrivacyError(
            f"{source} has the format {facts['format']!r}, but this version reads {FORMAT!r}; use the "
            "version of fedpdiff that wrote it, or a newer one"
        )
    return dict(facts)


def _extract(archive: tarfile.TarFile, name: str, path: Path, sha256: str, source: Path) -> None:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(name)
    with new_file(path) as file:
        shutil.copyfileobj(member, file)
    with path.open("rb") as copy:
        right = hashlib.file_digest(copy, "sha256").hexdigest() == sha256
    if not right:
        raise PrivacyError(f"{source} is damaged: its {name} does not have the bytes that were backed up")
