"""``fedpdiff verify``: every certificate below a folder, with exit status 0, 1 or 2."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpdiff.cli import main
from fedpdiff.federation.certificates import certificate_text
from fedpdiff.federation.protocol import ReleaseManifest, ShardManifest
from fedpdiff.federation.spool import Spool, shard_digest
from fedpdiff.privacy.certificate import make_certificate
from fedpdiff.privacy.certificate_facts import PolicyCeilings, ReleaseFacts, SelfTest
from fedpdiff.privacy.gaussian_noise import SecureNoise, SeededNoise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import Release, ReleaseRequest, ReleaseStore
from fedpdiff.privacy.wire import encode
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

ALPHA_BAR = NoiseSchedule("linear", 1000).alpha_bar


def request(t0: int, noise: str = "secure") -> ReleaseRequest:
    centre = np.zeros((1, 4, 4), np.float32)
    return ReleaseRequest(t0, float(ALPHA_BAR[t0]), 10.0, centre, "linear", 1000, 1e-5, noise)


def release(folder: Path, noise: str = "secure", t0s: tuple[int, ...] = (690,)) -> Release:
    """Release 12 images as a client does, once at each t0."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (12, 1, 4, 4), generator=generator, dtype=torch.uint8)
    digests = [hashlib.sha256(bytes([row])).digest() for row in range(12)]
    private = PrivateImages(LabelledImages(pixels, torch.arange(12) % 3), digests)
    store = ReleaseStore(folder, Policy.simulation(100.0, 1e-5))
    for t0 in t0s:
        source = SecureNoise() if noise == "secure" else SeededNoise(1)
        made = store.get_or_make(request(t0, noise), private, source)
    return made


def upload(folder: Path, made: Release) -> None:
    """Put a release into a server's spool."""
    keys = ("t0", "alpha_bar", "schedule", "diffusion_steps", "clip", "delta", "noise", "image_shape")
    manifest = ReleaseManifest(
        **{key: made.manifest[key] for key in keys},
        wire_bits=8,
        fingerprint="0" * 64,
        site=folder.name,
        class_counts=[4, 4, 4],
        rows_per_shard=12,
        shards=1,
        certificate=certificate_text(made.certificate),
    )
    spool = Spool(folder, manifest)
    spool.create()
    codes, labels = encode(np.asarray(made.integers), 8), np.asarray(made.labels)
    sha256 = shard_digest(codes, labels)
    spool.accept(
        ShardManifest(site=folder.name, shard=0, rows=12, sha256=sha256), {"codes": codes, "labels": labels}
    )
    spool.finish()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder as far as verifying looks at it: two clients' stores, and the server's spool."""
    root = tmp_path_factory.mktemp("finished")
    for k in (0, 1):
        made = release(root / f"client-{k}" / "state" / "release", t0s=(690, 700) if k else (690,))
        upload(root / "server" / "spool" / f"client-{k}", made)
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5 * len(content) // 8] ^= 1  # beyond the header
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("below", "count"),
    [
        ("", 4),
        ("client-0", 1),
        ("client-0/state/release/outbox", 1),
        ("server", 2),
        ("server/spool/client-1", 1),
    ],
)
def test_all_is_right(run: Path, below: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run / below)]) == 0
    text = capsys.readouterr().out
    assert text.count(": verified") == count
    assert f"{count} verified: every number follows from the settings" in text


def test_what_it_prints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run)]) == 0
    text = capsys.readouterr().out
    assert "client-0/state/release/outbox: verified" in text and "server/spool/client-1: verified" in text
    assert "12 images, epsilon 8.774 at delta 1e-05 for one noisy copy of an image" in text
    assert "all noisy copies of an image together, at most 2: epsilon 12." in text


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("client-0/state/release/outbox/release.npy", "release.npy does not have the bytes"),
        ("client-1/state/release/outbox/labels.npy", "labels.npy does not have the bytes"),
        ("server/spool/client-0/shard-0000.npy", "sent other bytes than its certificate is about"),
    ],
)
def test_a_flipped_byte(run: Path, place: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    flip(run / place)
    assert main(["verify", str(run)]) == 1
    printed = capsys.readouterr()
    assert f"{Path(place).parent}: WRONG" in printed.out and problem in printed.out
    assert "1 of 4 are wrong." in printed.err
    assert printed.out.count(": verified") == 3


def test_a_certificate_cannot_write_to_the_terminal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "server" / "spool" / "client-0" / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"\x1b[2J\nclient-0: verified": 1}))
    assert main(["verify", str(run / "server")]) == 1
    printed = capsys.readouterr().out
    assert "\\x1b[2J" in printed and "\x1b" not in printed and "\nclient-0: verified" not in printed


@pytest.mark.parametrize(
    "place",
    [
        "client-0/state/release/outbox/certificate.json",
        "client-0/state/release/outbox/manifest.json",
        "client-0/state/release/outbox/release.npy",
        "server/spool/client-0/certificate.json",
        "server/spool/client-0/manifest.json",
        "server/spool/client-0/shard-0000.npy",
    ],
)
def test_a_missing_file(run: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    (run / place).unlink()
    assert main(["verify", str(run)]) == 1
    assert f"{Path(place).parent}: WRONG" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["client-0/state/release/outbox", "server/spool/client-0"])
def test_an_understated_epsilon(run: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / folder / "certificate.json"
    path.write_text(path.read_text().replace("8.774", "8.773"))
    assert main(["verify", str(run / folder)]) == 1
    assert "epsilon is 8.773, but 8.774 follows" in capsys.readouterr().out


def test_a_noising_that_is_not_stated(
    run: Path, tmp_path: Path, facts_of: Callable[..., ReleaseFacts], capsys: pytest.CaptureFixture[str]
) -> None:
    """Client 1's images were noised twice; a certificate of one noising is right in itself, not beside it."""
    outbox = run / "client-1/state/release/outbox"
    stated = json.loads((outbox / "certificate.json").read_text())
    facts = facts_of(
        request(700),
        np.load(outbox / "release.npy"),
        np.load(outbox / "labels.npy"),
        policy=PolicyCeilings(**stated["policy"]),
        self_test=SelfTest(True, tuple(stated["self_test"]["tests"]), stated["self_test"]["added_delta"]),
        created=stated["created"],
        software=stated["software"],
    )
    forged = make_certificate(facts)
    differing = {key for key in stated if stated[key] != forged[key]}
    assert differing == {"statement", "composition", "per_person", "checksum"}
    (outbox / "certificate.json").write_text(json.dumps(forged))
    assert main(["verify", str(shutil.copytree(outbox, tmp_path / "elsewhere"))]) == 0
    capsys.readouterr()
    assert main(["verify", str(run / "client-1")]) == 1
    text = capsys.readouterr().out
    assert all(f"{key} is not what the ledger beside it says" in text for key in differing - {"checksum"})


@pytest.mark.parametrize("damage", ["missing", "empty", "another's"])
def test_no_ledger_no_verdict(run: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = run / "client-0/state/release/ledger.sqlite"
    if damage == "missing":
        ledger.unlink()
    elif damage == "empty":
        ledger.write_bytes(b"")
    else:
        shutil.copy(run / "client-1/state/release/ledger.sqlite", ledger)
    assert main(["verify", str(run / "client-0")]) == 1
    assert "the ledger beside it" in capsys.readouterr().out


def test_verifying_changes_nothing(run: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}
    assert main(["verify", str(run)]) == 0
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}
    assert after == before


def test_spooled_bytes_of_another_client(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each upload is whole, but they are under each other's certificates."""
    spool = run / "server" / "spool"
    shutil.move(spool / "client-0" / "shard-0000.npy", spool / "shard")
    shutil.move(spool / "client-1" / "shard-0000.npy", spool / "client-0" / "shard-0000.npy")
    shutil.move(spool / "shard", spool / "client-1" / "shard-0000.npy")
    assert main(["verify", str(spool)]) == 1
    assert capsys.readouterr().out.count("sent other bytes than its certificate is about") == 2


def test_damaged_json_is_a_plain_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "client-0/state/release/outbox/certificate.json").write_text('{"epsilon": ')
    assert main(["verify", str(run / "client-0")]) == 1
    printed = capsys.readouterr()
    assert "the certificate is no JSON, or damaged" in printed.out and "Traceback" not in printed.err


def test_nothing_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in ((tmp_path, "nothing to verify"), (tmp_path / "none", "is no folder")):
        assert main(["verify", str(folder)]) == 2
        assert message in capsys.readouterr().err


def test_seeded_noise_has_nothing_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = release(tmp_path / "client-0", noise="seeded")
    upload(tmp_path / "spool" / "client-0", made)
    assert main(["verify", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("simulated noise, NOT PRIVATE; there is no certificate") == 2
    assert "NOT PRIVATE" in printed.err


def test_a_certificate_cannot_be_got_rid_of(run: Path) -> None:
    """Without it, and the manifest changed to seeded noise, there is still nothing that verifies."""
    outbox = run / "client-0/state/release/outbox"
    (outbox / "certificate.json").unlink()
    manifest = json.loads((outbox / "manifest.json").read_text())
    (outbox / "manifest.json").write_text(json.dumps(manifest | {"noise": "seeded"}))
    assert main(["verify", str(outbox)]) == 2
