"""A ledger in doubt, settled by its owner: nothing was lost, or these releases were.

Who else could know? The coordinators keep the certificates of what they pooled, and a site may have kept its
own. That the owner names all of them is the owner's statement; it is written down with the charges.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.certificate_check import check_certificate, parse_certificate
from fedpdiff.privacy.ledger import Ledger
from fedpdiff.privacy.ledger_losses import LostRelease
from fedpdiff.privacy.store_folder import StoreFolder


def settle_nothing_lost(store: StoreFolder) -> str:
    """Take the owner's word that this ledger is the newest: moved, or backed up after its last release.

    Returns
    -------
    str
        What was done, in words.

    Raises
    ------
    PrivacyError
        When the witness shows that noisings are missing, or is not known.
    """
    with store.locked(), store.ledger() as (ledger, _):
        doubt = ledger.losses.doubt
        if doubt is None and store.witness.path is None:
            raise PrivacyError(
                "where the witness of this ledger lies is not known here, so there is nothing to settle yet: "
                "give the site's folder, whose settings name it, or repeat this after the site was asked"
            )
        if doubt is None:
            return "there is no doubt about this ledger; nothing was changed"
        if doubt.missing:
            raise PrivacyError(
                f"something was lost: {doubt.reason}. Restore a newer backup, or charge what was lost: "
                "fedpdiff ledger DIR --lost with the certificates of all that was sent since its backup"
            )
        _settle(store, ledger, [], "the owner states that nothing was released after this ledger")
        return "settled: as you state, nothing was released after this ledger. New images can be noised again"


def settle_lost(store: StoreFolder, certificates: Sequence[Path]) -> str:
    """Charge the releases that these certificates are about, as far as the ledger does not hold them.

    Parameters
    ----------
    store
        Of the site.
    certificates
        Files, or folders in or below which there are files ``certificate.json``.

    Returns
    -------
    str
        What was done, in words.

    Raises
    ------
    PrivacyError
        When one is false or cannot be read, or none is unknown to a ledger that lacks something; nothing is
        changed then.
    """
    lost = [_read(path) for path in _files(certificates)]
    with store.locked(), store.ledger() as (ledger, _):
        doubt = ledger.losses.doubt
        held = {(release.sha256, release.labels_sha256) for release in ledger.releases()}
        unknown = {
            (release.sha256, release.labels_sha256): release
            for release in lost
            if (release.sha256, release.labels_sha256) not in held
            and not ledger.losses.knows(release.sha256, release.labels_sha256)
        }
        if not unknown and not (doubt and ledger.losses.count()):
            raise PrivacyError(
                f"the ledger holds all of these {len(lost)} releases, so none of them was lost"
                + (f"; but {doubt.reason}" if doubt else "")
            )
        _settle(store, ledger, list(unknown.values()), "the owner states that no other release was lost")
    return (
        f"settled: {len(unknown)} lost releases are charged to every image that may be in them, known or "
        f"new; {len(lost) - len(unknown)} were known. As you state, nothing else was lost"
    )


def _settle(store: StoreFolder, ledger: Ledger, lost: Sequence[LostRelease], statement: str) -> None:
    with ledger.transaction():
        for release in lost:
            ledger.losses.charge(release)
        ledger.losses.settle(statement)
    # Last: a crash before this leaves a doubt, never an uncharged ledger without one.
    store.witness.write(ledger.name, ledger.chain())


def _files(paths: Sequence[Path]) -> list[Path]:
    found = [
        file
        for path in paths
        for file in (sorted(path.rglob("certificate.json")) if path.is_dir() else [path])
    ]
    if not found:
        raise PrivacyError(f"there is no certificate.json in {', '.join(map(str, paths))}")
    return found


def _read(path: Path) -> LostRelease:
    try:
        certificate = parse_certificate(path.read_bytes())
    except OSError as error:
        raise PrivacyError(f"{path} cannot be read ({error.strerror})") from error
    problems = check_certificate(certificate)
    if problems:
        raise PrivacyError(f"{path} is no right certificate: {'; '.join(problems[:3])}")
    return LostRelease.of(certificate)
