"""What a client's ledger says in sum, and what its owner decides there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedpdiff.errors import ConfigError
from fedpdiff.privacy.accountant import epsilon_from_mu, round_up
from fedpdiff.privacy.ledger_totals import PersonSpent, Spent
from fedpdiff.privacy.store_folder import StoreFolder


@dataclass(frozen=True)
class LedgerReport:
    """What was released and spent, ever.

    Parameters
    ----------
    images
        Different images that were noised.
    spent
        The most of one image; ``epsilon`` is at ``delta``, rounded up.
    persons
        The most of one person; None unless every image's person is known.
    releases
        Different releases: sets of images, labels and settings.
    failed
        Noisings whose health check failed and that the owner has not accepted.
    seeded
        Whether any noise was seeded: then nothing here is private.
    lost
        Releases that were sent, are not in the ledger, and are charged to every image that may be in them.
    witness
        Where the file lies that knows how far the ledger had come; None where there is none.
    doubt
        Why this may not be the newest ledger of its site, in words; None when it is known to be.
    """

    images: int
    spent: Spent
    epsilon: float
    persons: PersonSpent | None
    persons_epsilon: float | None
    releases: int
    failed: int
    seeded: bool
    lost: int
    witness: Path | None
    doubt: str | None


def find_store(folder: Path, witness: Path | None = None) -> StoreFolder:
    """Return the release store in a client's state folder, or the one that is this folder.

    Parameters
    ----------
    folder
        Either.
    witness
        Of its ledger; None = where it lay last time.

    Raises
    ------
    ConfigError
        When there is no ledger.
    """
    for store in (folder, folder / "release", folder / "state" / "release"):
        if (store / "ledger.sqlite").is_file():
            return StoreFolder(store, witness)
    raise ConfigError(
        f"{folder} has no ledger.sqlite; give a client's state-dir, or the folder of its release store"
    )


def place_of_store(folder: Path, witness: Path | None = None) -> StoreFolder:
    """Do as :func:`find_store`, also where the ledger is lost."""
    is_store = (folder / "secret").exists() or (folder / "witness-path").exists()
    return StoreFolder(folder if is_store else folder / "state" / "release", witness)


def report_ledger(folder: Path, delta: float, witness: Path | None = None) -> LedgerReport:
    """Sum up a ledger; nothing in it changes.

    Parameters
    ----------
    folder
        A client's state folder, or its release store.
    delta
        At which epsilon is stated.
    witness
        Of its ledger; None = where it lay last time.

    Raises
    ------
    ConfigError
        When there is no ledger.
    PrivacyError
        When it is damaged, or ``delta`` is out of range.
    """
    store = find_store(folder, witness)
    with store.locked(), store.ledger() as (ledger, _):
        totals = ledger.totals
        spent, persons = totals.of_all(), totals.of_persons()
        return LedgerReport(
            images=totals.images(),
            spent=spent,
            epsilon=round_up(epsilon_from_mu(spent.mu, delta)),
            persons=persons,
            persons_epsilon=round_up(epsilon_from_mu(persons.mu, delta)) if persons else None,
            releases=len(ledger.releases()),
            failed=len(totals.failed_batches()),
            seeded="seeded" in totals.noise_kinds(),
            lost=totals.losses.count(),
            witness=store.witness.path,
            doubt=totals.losses.doubt.reason if totals.losses.doubt else None,
        )


def accept_failed_noise(folder: Path) -> int:
    """Allow new noisings after failed health checks, as the owner decided; the charges stay.

    Returns
    -------
    int
        How many failures were accepted.

    Raises
    ------
    ConfigError, PrivacyError
        As :func:`report_ledger`.
    """
    store = find_store(folder)
    with store.locked(), store.ledger() as (ledger, _):
        return ledger.accept_failures()
