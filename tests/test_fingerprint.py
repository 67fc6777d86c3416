"""The fingerprint: any change of any Python file of the library or the apps changes it, nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpdiff import fingerprint


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for package in ("fedpdiff", "client_app", "server_app"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "module.py").write_text("x = 1\n")
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "fedpdiff" / "fingerprint.py"))
    return tmp_path


def current() -> str:
    fingerprint.code_fingerprint.cache_clear()
    return fingerprint.code_fingerprint()


@pytest.fixture(autouse=True)
def forget() -> None:
    yield
    fingerprint.code_fingerprint.cache_clear()


def test_a_fingerprint_follows_the_code(code: Path) -> None:
    first = current()
    assert len(first) == 64
    (code / "fedpdiff" / "notes.txt").write_text("nothing")
    (code / "tests").mkdir()
    (code / "tests" / "test.py").write_text("y = 2\n")
    assert current() == first
    (code / "client_app" / "module.py").write_text("x = 2\n")
    second = current()
    assert second != first
    (code / "client_app" / "module.py").rename(code / "client_app" / "other.py")
    assert current() not in (first, second)
