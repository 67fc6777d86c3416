"""What the doctor and ``fedpdiff ledger`` know of a site's ledger and its witness, from its folder alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpdiff.cli import main
from fedpdiff.deployment.coordinator import Coordinator
from fedpdiff.deployment.doctor import examine
from fedpdiff.deployment.findings import Finding
from fedpdiff.deployment.ledger_state import ledger_findings, ledger_places
from fedpdiff.deployment.site import Site
from fedpdiff.deployment.site_setup import SiteSetup
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import ReleaseRequest, ReleaseStore
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

POLICY = Policy(epsilon=1000.0, delta=1e-5, schedules=["linear"])
REQUEST = ReleaseRequest(
    t0=690,
    alpha_bar=float(NoiseSchedule("linear", 1000).alpha_bar[690]),
    schedule="linear",
    diffusion_steps=1000,
    clip=3.0,
    centre=np.zeros((1, 4, 4), np.float32),
    delta=1e-5,
    noise="secure",
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    Coordinator("localhost").init(tmp_path / "coordinator")
    root = tmp_path / "hospital-1"
    SiteSetup("localhost:8443", tmp_path / "coordinator" / "ca.crt", data=str(tmp_path)).init(root)
    return root


def release(site: Path, images: int) -> None:
    """Make a release of so many images, as this site's ClientApp would."""
    store, witness = ledger_places(Site.load(site).node)
    pixels = torch.arange(images, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    labelled = LabelledImages(pixels, torch.zeros(images, dtype=torch.int64))
    digests = [bytes([number]) * 32 for number in range(images)]
    ReleaseStore(store, POLICY, witness).get_or_make(
        REQUEST, PrivateImages(labelled, digests, None), SecureNoise()
    )


def looked(site: Path) -> list[Finding]:
    return ledger_findings(Site.load(site).node, site)


def said(site: Path) -> str:
    (finding,) = looked(site)
    return finding.text()


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def older(site: Path) -> None:
    """Make two noisings; put the ledger back to the first."""
    ledger = ledger_places(Site.load(site).node)[0] / "ledger.sqlite"
    release(site, 2)
    then = ledger.read_bytes()
    release(site, 3)
    ledger.write_bytes(then)


def lost(site: Path) -> None:
    release(site, 2)
    shutil.rmtree(site / "state")


def without_secret(site: Path) -> None:
    release(site, 2)
    (site / "state" / "state" / "release" / "ledger.sqlite").unlink()


def damaged(site: Path) -> None:
    release(site, 2)
    (site / "state" / "state" / "release" / "ledger.sqlite").write_bytes(b"x" * 5000)


def forgotten(site: Path) -> None:
    release(site, 2)
    (site / "witness" / "witness.json").unlink()


def of_another(site: Path) -> None:
    release(site, 2)
    witness = site / "witness" / "witness.json"
    witness.write_text(json.dumps(json.loads(witness.read_text()) | {"ledger": "0" * 64}))


def test_a_ledger_in_order(site: Path) -> None:
    assert said(site) == "ok       ledger: none yet; the first release begins it"
    release(site, 2)
    before = contents(site)
    assert said(site).startswith("ok       ledger: 1 noisings, as its witness")
    assert contents(site) == before
    assert "ledger" in {finding.what for finding in examine(site)}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (older, "it holds 1 noisings, but its witness knows 2"),
        (lost, "knows a ledger that is not here any more"),
        (without_secret, "--restore FILE"),
        (damaged, "cannot be read (DatabaseError)"),
        (forgotten, "its witness is missing"),
        (of_another, "belongs to another ledger"),
    ],
)
def test_a_ledger_to_be_mended(spoil: Callable[[Path], None], words: str, site: Path) -> None:
    spoil(site)
    before = contents(site)
    (finding,) = looked(site)
    assert finding.level == "problem" and words in finding.text() and "docs/years.md" in finding.text()
    assert contents(site) == before


def test_a_witness_that_cannot_be_written(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(site, 2)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert [finding.level for finding in looked(site)] == ["ok", "problem"]


def test_an_update_is_settled_with_the_sites_folder(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ledger of a version without witness has none, and does not know yet where it is to lie."""
    forgotten(site)
    (site / "state" / "state" / "release" / "witness-path").unlink()
    assert f"fedpdiff ledger {site} --nothing-lost" in said(site)
    assert main(["ledger", str(site / "state"), "--nothing-lost"]) == 2
    assert "is not known here" in capsys.readouterr().err
    assert main(["ledger", str(site), "--nothing-lost"]) == 0
    assert "as you state, nothing was released after" in capsys.readouterr().out
    assert looked(site)[0].level == "ok"


@pytest.mark.parametrize("given", [".", "state", "state/state/release"])
def test_a_backup_is_restored_where_the_ledger_was(given: str, site: Path, tmp_path: Path) -> None:
    release(site, 2)
    store = site / "state" / "state" / "release"
    assert main(["ledger", str(site), "--backup", str(tmp_path / "b.tar")]) == 0
    (store / "ledger.sqlite").unlink()
    assert main(["ledger", str(site / given), "--restore", str(tmp_path / "b.tar")]) == 0
    assert [path.parent for path in site.rglob("ledger.sqlite")] == [store]
    assert looked(site)[0].level == "ok"


def test_a_network_side_has_no_ledger(tmp_path: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = SiteSetup("localhost:8443", tmp_path / "coordinator" / "ca.crt", sealed=tmp_path / "shared")
    setup.init(tmp_path / "network")
    assert main(["ledger", str(tmp_path / "network")]) == 2
    assert "give the --state of its private side" in capsys.readouterr().err
