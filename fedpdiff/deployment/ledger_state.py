"""Where a site's ledger and its witness lie, and whether it is the newest; only looks and changes nothing."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.deployment.findings import Finding
from fedpdiff.deployment.site import SETTINGS, Site
from fedpdiff.errors import ConfigError, PrivacyError
from fedpdiff.privacy.ledger import read_ledger
from fedpdiff.privacy.witness import Witness
from fedpdiff.runfolder import ClientFolder

PRIVATE = "site.json"  # what the commands of a private side remember in their state folder
_WHAT = "ledger"


def private_node(state: Path) -> NodeConfig:
    """Return the settings that the private side of a sealed site remembers in its state folder.

    Raises
    ------
    ConfigError
        When they cannot be read.
    """
    try:
        known = json.loads((state / PRIVATE).read_text(encoding="utf-8"))
        return NodeConfig.parse({**known, "state-dir": str(state.absolute())})
    except (OSError, ValueError, TypeError, ConfigError) as error:
        raise ConfigError(
            f"{state / PRIVATE} cannot be read ({type(error).__name__}); delete it and give fedpdiff release "
            "all its options again"
        ) from None


def state_and_witness(folder: Path) -> tuple[Path, Path | None]:
    """Return a client's state folder, and the witness of its ledger where settings in ``folder`` name it.

    Parameters
    ----------
    folder
        Made by ``site init``, or a state folder.

    Raises
    ------
    ConfigError
        When its settings cannot be read, or are those of a site that has no ledger.
    """
    if (folder / SETTINGS).is_file():
        node = Site.load(folder).node
        if node.sealed:
            raise ConfigError(
                f"{folder} is the network side of a sealed site, which has no ledger; give the --state of "
                "its private side"
            )
        return Path(node.state_dir), ledger_places(node)[1]
    if (folder / PRIVATE).is_file():
        return folder, ledger_places(private_node(folder))[1]
    return folder, None


def ledger_places(node: NodeConfig) -> tuple[Path, Path]:
    """Return the folder of a real site's release store, and where its witness lies."""
    folder = ClientFolder.of(RunConfig(), node, 0)
    return folder.release, Path(node.witness) if node.witness else folder.witness


def ledger_findings(node: NodeConfig, root: Path) -> list[Finding]:
    """Compare a site's ledger with its witness.

    Parameters
    ----------
    node
        Of a site that holds its images.
    root
        The folder to name in advice: ``fedpdiff ledger root``.
    """
    store, witness = ledger_places(node)
    nearest = next(path for path in witness.parents if os.path.exists(path))  # False where it is closed
    found = [_newest(store, Witness(witness), root)]
    if not os.access(nearest, os.W_OK | os.X_OK):
        mend = (
            "let the user who starts the scripts own it, or set another witness: without it nothing is sent"
        )
        found.append(Finding("problem", "witness", f"{witness} cannot be written", mend))
    return found


def _newest(store: Path, witness: Witness, root: Path) -> Finding:
    try:
        if not (store / "ledger.sqlite").exists():
            return _none_yet(store, witness, root)
        with read_ledger(store / "ledger.sqlite") as ledger:
            doubt = witness.judge(ledger.name, ledger.chain()) or ledger.losses.doubt
            noisings = len(ledger.chain()) - 1
    except PrivacyError as error:
        return Finding("problem", _WHAT, str(error), 'see "Restoring" in docs/years.md')
    except (OSError, sqlite3.Error) as error:
        mend = (
            'run this as the user who starts the scripts; if it is damaged, see "Restoring" in docs/years.md'
        )
        return Finding("problem", _WHAT, f"{store} cannot be read ({type(error).__name__})", mend)
    if doubt:
        mend = (
            f"restore a newer backup, or settle it: fedpdiff ledger {root} --nothing-lost (moved, or from a "
            "version without witness) or --lost CERTIFICATE...; see docs/years.md"
        )
        return Finding("problem", _WHAT, f"may not be the newest of this site: {doubt.reason}", mend)
    return Finding("ok", _WHAT, f"{noisings} noisings, as its witness {witness.path} knows")


def _none_yet(store: Path, witness: Witness, root: Path) -> Finding:
    if (store / "secret").exists():
        mend = f"restore its newest backup: fedpdiff ledger {root} --restore FILE; see docs/years.md"
        return Finding("problem", _WHAT, f"is missing beside its secret in {store}", mend)
    witness.begin()
    return Finding("ok", _WHAT, "none yet; the first release begins it")
