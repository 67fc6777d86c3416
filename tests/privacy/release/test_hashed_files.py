"""A release that was found right is hashed once for all its shards, and again when it may have changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import outbox
from fedpdiff.privacy.outbox import read_release

Make = Callable[..., Any]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the arrays that are hashed."""
    sizes: list[int] = []
    real = outbox._sha256

    def counted(array: Any) -> str:
        sizes.append(array.nbytes)
        return real(array)

    monkeypatch.setattr(outbox, "_sha256", counted)
    return sizes


@pytest.fixture
def released(site: Make, private: Make) -> Any:
    made = site("north/state/release")
    made.first = made.release(private(range(6)))
    return made


def file(released: Any) -> Path:
    return Path(released.root / "outbox" / "release.npy")


def change_in_place(path: Path) -> None:
    """Flip a bit and put the time of modification back, as no honest program would."""
    times = path.stat()
    with path.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        last = opened.read(1)[0]
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns and path.stat().st_size == times.st_size


def test_shards_do_not_hash_the_release_again(released: Any, hashed: list[int]) -> None:
    for _ in range(5):  # each is a process of its own
        assert (released.store.read().integers == released.first.integers).all()
    assert hashed == []


def test_each_request_for_a_release_hashes_it(released: Any, private: Make, hashed: list[int]) -> None:
    released.release(private(range(6)))
    assert len(hashed) == 2  # arrays and labels


def test_what_was_changed_in_place_is_made_again_from_the_ledger(released: Any, hashed: list[int]) -> None:
    good = file(released).read_bytes()
    change_in_place(file(released))
    released.store.read()
    assert file(released).read_bytes() == good
    assert hashed


@pytest.mark.parametrize("spoil", ["changed", "another", "of labels"])
def test_what_cannot_be_made_again_is_refused(spoil: str, released: Any, tmp_path: Path) -> None:
    """The network side of a sealed site has the outbox and no ledger."""
    shared, note = tmp_path / "outbox", tmp_path / "note.json"
    shutil.copytree(released.root / "outbox", shared)
    read_release(shared, note)
    assert (read_release(shared, note, again=False).integers == released.first.integers).all()
    path = shared / ("labels.npy" if spoil == "of labels" else "release.npy")
    if spoil == "another":
        shutil.copy(path, tmp_path / "copy")
        change_in_place(tmp_path / "copy")
        os.replace(tmp_path / "copy", path)
    else:
        change_in_place(path)
    for again in (False, True, False):
        with pytest.raises(PrivacyError, match="damaged"):
            read_release(shared, note, again)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"files": [], "hashes": {}}'])
def test_a_note_that_says_nothing(content: bytes, released: Any, hashed: list[int]) -> None:
    (released.root / "outbox-hashed.json").write_bytes(content)
    released.store.read()
    assert len(hashed) == 2
    released.store.read()
    assert len(hashed) == 2


def test_without_a_note_all_is_hashed(released: Any, tmp_path: Path, hashed: list[int]) -> None:
    for _ in range(2):  # the folder is not there, so nothing is noted
        read_release(released.root / "outbox", tmp_path / "nowhere" / "note.json", again=False)
    assert len(hashed) == 4
