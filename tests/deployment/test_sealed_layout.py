"""The doctor of a sealed site: who can open and change what, seen from either side."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedpdiff.deployment.doctor import examine
from fedpdiff.deployment.findings import Finding
from fedpdiff.deployment.sealed_layout import may, network_side, private_side
from fedpdiff.errors import ConfigError

NETWORK, IMAGES = 54321, 54322  # users; no accounts are needed
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give folders to other users")


@pytest.fixture
def site() -> Iterator[Path]:
    """Return a folder that every user can enter, with a sealed site as it should be where owners allow."""
    with tempfile.TemporaryDirectory(prefix="fedpdiff-layout-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        for name, mode in (("images", 0o700), ("state", 0o700), ("shared", 0o755)):
            (root / name).mkdir()
            (root / name).chmod(mode)
        for name in ("outbox", "inbox"):
            (root / "shared" / name).mkdir()
            (root / "shared" / name).chmod(0o755)
        (root / "policy.toml").write_text("")
        (root / "policy.toml").chmod(0o644)
        yield root


@pytest.fixture
def owned(site: Path) -> Path:
    """Return the same, of the two users that it is for."""
    for path in (site, *site.rglob("*")):
        os.chown(path, IMAGES, IMAGES)
    os.chown(site / "shared" / "inbox", NETWORK, NETWORK)
    return site


def private(root: Path) -> list[Finding]:
    shared = root / "shared"
    return private_side(
        root / "state", root / "images", root / "policy.toml", shared / "outbox", shared / "inbox"
    )


@contextmanager
def as_user(user: int) -> Iterator[None]:
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_permission_bits_along_the_path(site: Path) -> None:
    """A folder that cannot be entered closes everything below it."""
    inner = site / "images" / "3"
    inner.mkdir()
    inner.chmod(0o755)
    (inner / "1.png").write_bytes(b"x")
    (inner / "1.png").chmod(0o644)
    assert may(os.getuid(), inner / "1.png", 4)
    assert not may(NETWORK, inner / "1.png", 4)
    (site / "images").chmod(0o711)
    assert may(NETWORK, inner / "1.png", 4) and not may(NETWORK, inner / "1.png", 2)
    (inner / "1.png").chmod(0o600)
    assert not may(NETWORK, inner / "1.png", 4)
    assert may(0, inner / "1.png", 2)
    (site / "link").symlink_to(site / "state")
    assert not may(NETWORK, site / "link", 4)


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (lambda root: (root / "images").chmod(0o755), "can open the images"),
    (lambda root: (root / "images").chmod(0o711), "can open the images"),
    (lambda root: (root / "state").chmod(0o755), "can open the state folder"),
    (lambda root: (root / "policy.toml").chmod(0o666), "can change the policy"),
    (lambda root: (root / "shared" / "outbox").chmod(0o777), "can change the outbox"),
    (lambda root: (root / "shared").chmod(0o777), "can change the outbox"),
    (lambda root: (root / "shared" / "outbox").chmod(0o700), "cannot read"),
    (lambda root: os.chown(root / "shared" / "inbox", IMAGES, IMAGES), "who can open the images"),
    (lambda root: (root / "shared" / "inbox").rmdir(), "is not there"),
]


@needs_root
@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_the_private_side(owned: Path, change: Callable[[Path], None], said: str) -> None:
    assert [finding.level for finding in private(owned)] == ["ok"]
    assert "can open neither images nor state folder" in private(owned)[0].found
    change(owned)
    problems = [finding for finding in private(owned) if finding.level == "problem"]
    assert problems and all(said in problem.found and problem.mend for problem in problems)


@needs_root
def test_the_network_side(owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, inbox = owned / "shared" / "outbox", owned / "shared" / "inbox"

    def said() -> str:
        with as_user(NETWORK):
            return "\n".join(f.text() for f in network_side(outbox, inbox) if f.level == "problem")

    assert "certificate.json cannot be read" in said()  # empty
    monkeypatch.setattr("fedpdiff.deployment.sealed_layout.verify_release", lambda folder: [])
    assert said() == ""
    assert "this user is root" in network_side(outbox, inbox)[0].found
    outbox.chmod(0o777)
    assert "can write to" in said()
    os.chown(outbox, NETWORK, NETWORK)
    assert "belongs to the user of the network side" in said()
    with monkeypatch.context() as patch:  # as in a container that mounts it read-only
        patch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
        assert said() == ""
    outbox.rmdir()
    assert "fedpdiff release --outbox" in said()
    os.chown(inbox, IMAGES, IMAGES)
    assert f"cannot be written by user {NETWORK}" in said()


@needs_root
def test_folders_that_cannot_be_reached(owned: Path) -> None:
    """Are reported, not stumbled over."""
    (owned / "shared").chmod(0o700)
    with as_user(NETWORK):
        found = network_side(owned / "shared" / "outbox", owned / "shared" / "inbox")
    assert [finding.level for finding in found] == ["problem", "problem"]
    (owned / "shared").chmod(0o755)
    (owned / "closed").mkdir(mode=0o700)
    (owned / "images").rename(owned / "closed" / "images")
    folders = (owned / "closed" / "images", owned / "policy.toml", owned / "shared" / "outbox")
    with as_user(IMAGES):
        found = private_side(owned / "state", *folders, owned / "shared" / "inbox")
    assert "closed/images (images) is not there, or cannot be entered" in found[0].found


@needs_root
def test_the_doctor_knows_a_private_side(owned: Path) -> None:
    state = owned / "state"
    with pytest.raises(ConfigError, match="nor site"):
        examine(state)
    known = {"data-path": str(owned / "images"), "policy": str(owned / "policy.toml"), "site-name": "north"}
    (state / "site.json").write_text(json.dumps(known))
    with pytest.raises(ConfigError, match="give --sealed DIR"):
        examine(state)
    found = {finding.what: finding for finding in examine(state, sealed=owned / "shared")}
    assert found["sealed"].level == "ok"
    assert found["policy"].level == "problem" and "epsilon" in found["policy"].found  # it is empty
    (owned / "images").chmod(0o755)
    shutil.rmtree(owned / "shared" / "outbox")
    found = {finding.what: finding for finding in examine(state, sealed=owned / "shared")}
    assert found["sealed"].mend == f"chmod 700 {owned / 'images'}"
