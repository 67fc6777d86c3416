"""The temporary folder for private data: gone when done, and after a kill at the next start."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from fedpdiff.data.scratch import remove_left_over, scratch_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def killed_while_reading() -> int:
    """Start a process that is killed with private data in its folder, and return how it ended."""
    child = os.fork()
    if not child:
        with scratch_folder() as folder:
            (folder / "copy.arrow").write_bytes(b"private")
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_the_folder_is_the_owners_alone_and_goes(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(temporary.iterdir()) == []
    with pytest.raises(RuntimeError), scratch_folder():
        raise RuntimeError
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_at_the_next_start(temporary: Path) -> None:
    assert killed_while_reading() == -signal.SIGKILL
    (left,) = temporary.iterdir()
    assert (left / "copy.arrow").exists()
    with scratch_folder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_what_another_process_uses_stays(temporary: Path) -> None:
    ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        with scratch_folder() as folder:
            (folder / "copy.arrow").write_bytes(b"private")
            os.write(ready[1], b"!")
            os.read(go_on[0], 1)
            os._exit(0 if (folder / "copy.arrow").exists() else 1)
    os.read(ready[0], 1)
    remove_left_over()
    with scratch_folder():
        assert len(list(temporary.iterdir())) == 2
    os.write(go_on[1], b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_links_and_files_of_that_name_are_not_touched(temporary: Path) -> None:
    (temporary / "mine").mkdir()
    (temporary / "mine" / "kept").touch()
    (temporary / "fedpdiff-data-link").symlink_to(temporary / "mine")
    (temporary / "fedpdiff-data-file").touch()
    remove_left_over()
    assert (temporary / "mine" / "kept").exists()
    assert (temporary / "fedpdiff-data-file").exists()
