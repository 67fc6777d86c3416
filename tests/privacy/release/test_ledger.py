"""The ledger only grows, and a folder whose ledger is damaged, lost or old releases nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.ledger_losses import LostRelease
from fedpdiff.privacy.ledger_report import accept_failed_noise
from fedpdiff.privacy.ledger_schema import TABLES
from fedpdiff.privacy.noise_health import HealthReport
from fedpdiff.privacy.verify import verify_release
from fedpdiff.privacy.witness import Doubt

Make = Callable[..., Any]


@pytest.fixture
def used(site: Make, private: Make) -> Any:
    """Return a site with every kind of entry."""
    here = site("used")
    people = [f"p{n}" for n in range(6)]
    here.release(private(range(6), persons=people))
    with here.store._folder.ledger() as (ledger, _), ledger.transaction():
        ledger._run("INSERT INTO accepted VALUES (1, 'now')")
    return here


@pytest.fixture
def lossy(used: Any) -> Any:
    """Return a site with the entries that only a loss makes, too."""
    with used.store._folder.ledger() as (ledger, _), ledger.transaction():
        ledger.losses.note(Doubt("tried"))
        ledger.losses.settle("tried")
        ledger.losses.charge(LostRelease("{}", 1.0, "0" * 64, "0" * 64))
    return used


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "action", ["UPDATE {} SET {} = {}", "DELETE FROM {}", "INSERT OR REPLACE INTO {} SELECT * FROM {}"]
)
def test_entries_are_never_changed_or_deleted(table: str, action: str, lossy: Any) -> None:
    before = lossy.rows()
    assert before[table], "nothing to protect"
    with sqlite3.connect(lossy.root / "ledger.sqlite") as ledger:
        ledger.execute("PRAGMA recursive_triggers = ON")
        column = ledger.execute(f"SELECT * FROM {table}").description[-1][0]
        values = {"UPDATE": (table, column, column), "DELETE": (table,), "INSERT": (table, table)}
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            ledger.execute(action.format(*values[action.split()[0]]))
    assert lossy.rows() == before


def test_one_noising_per_image_and_settings_whatever_the_code_does(used: Any) -> None:
    with sqlite3.connect(used.root / "ledger.sqlite") as ledger, pytest.raises(sqlite3.IntegrityError):
        ledger.execute(
            "INSERT INTO noisings (image, settings, batch, position, sha256, integers) "
            "SELECT image, settings, batch, 1, sha256, integers FROM noisings LIMIT 1"
        )


def test_a_damaged_outbox_is_made_again_with_the_same_bytes(used: Any, no_noise: Any, private: Make) -> None:
    before, rows = used.outbox(), used.rows()
    assert set(before) == {"certificate.json", "labels.npy", "manifest.json", "release.npy"}
    for name, content in before.items():
        for damage in (content[:-1] + bytes([content[-1] ^ 1]), content[: len(content) // 2], b"", None):
            path = used.root / "outbox" / name
            path.unlink() if damage is None else path.write_bytes(damage)
            used.store.read()
            assert used.outbox() == before, (name, damage and len(damage))
    for position in range(0, len(before["manifest.json"]), 19):  # any bit of the manifest
        damaged = bytearray(before["manifest.json"])
        damaged[position] ^= 1
        (used.root / "outbox/manifest.json").write_bytes(damaged)
        used.release(private(range(6)), no_noise)
        assert used.outbox() == before
    shutil.rmtree(used.root / "outbox")
    used.store.read()
    assert used.outbox() == before and used.rows() == rows


def _flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 255]))


def test_changed_integers_are_found(used: Any, private: Make) -> None:
    """SQLite would not notice: its pages have no checksum."""
    integers = used.rows()["noisings"][3][6]
    path = used.root / "ledger.sqlite"
    _flip(path, path.read_bytes().index(integers) + 5)
    shutil.rmtree(used.root / "outbox")
    with pytest.raises(PrivacyError, match="ledger is damaged: an image's integers have changed"):
        used.store.read()
    with pytest.raises(PrivacyError, match="ledger is damaged"):
        used.release(private(range(7)))


def test_a_hidden_entry_is_found_before_anything_is_noised(used: Any, private: Make) -> None:
    """An index that lost an image would let that image look new."""
    path = used.root / "ledger.sqlite"
    key = used.rows()["images"][0][1]
    content = path.read_bytes()
    places = [i for i in range(len(content)) if content.startswith(key, i)]
    assert len(places) == 2  # in the table, and in the index that is searched
    _flip(path, places[1])
    with pytest.raises(PrivacyError, match="ledger is damaged"):
        used.release(private(range(6)), **{"clip": 2.0})


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_truncated_ledger_is_not_used(size: int, used: Any, private: Make) -> None:
    os.truncate(used.root / "ledger.sqlite", size)
    for ask in (used.store.read, lambda: used.release(private(range(6)))):
        with pytest.raises(PrivacyError, match="restore it from a backup"):
            ask()


@pytest.mark.parametrize("lost", [["ledger.sqlite"], ["secret"], ["ledger.sqlite", "secret"]])
def test_a_lost_ledger_or_secret_is_not_made_anew(lost: list[str], used: Any, private: Make) -> None:
    for name in lost:
        (used.root / name).unlink()
    there = sorted(path.name for path in used.root.iterdir())
    with pytest.raises(PrivacyError, match="restore it from a backup"):
        used.release(private(range(6)))
    assert sorted(path.name for path in used.root.iterdir()) == there


def test_another_sites_secret_is_refused(used: Any, site: Make, private: Make) -> None:
    """Under it every image would look new."""
    other = site("other")
    other.release(private([9]))
    shutil.copy(other.root / "secret", used.root / "secret")
    with pytest.raises(PrivacyError, match="another secret"):
        used.release(private(range(6)))


def test_an_older_ledger_than_what_was_sent_is_refused(used: Any, private: Make) -> None:
    """As after a restored backup: images 6 and 7 would be noised a second time."""
    backup = (used.root / "ledger.sqlite").read_bytes()
    used.release(private(range(8)))
    (used.root / "ledger.sqlite").write_bytes(backup)
    for ask in (used.store.read, lambda: used.release(private(range(8)))):
        with pytest.raises(PrivacyError, match="ledger is older than what was sent"):
            ask()


def _make_format(root: Path, format_: str) -> None:
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        (trigger,) = ledger.execute("SELECT sql FROM sqlite_master WHERE name = 'no_update_site'").fetchone()
        ledger.execute("DROP TRIGGER no_update_site")
        ledger.execute(f"UPDATE site SET format = '{format_}'")
        ledger.execute(trigger)


def test_a_ledger_of_another_version_is_refused(used: Any, private: Make) -> None:
    _make_format(used.root, "fedpdiff-ledger/9")
    with pytest.raises(PrivacyError, match=r"fedpdiff-ledger/9.*this version reads"):
        used.release(private(range(6)))
    assert "fedpdiff-ledger/9" in verify_release(used.root / "outbox")[0]


def _schema(root: Path) -> set[tuple[str, str]]:
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        return set(ledger.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def test_a_ledger_of_format_1_is_read_as_it_is_and_migrated_when_used(
    used: Any, site: Make, private: Make, no_noise: Any
) -> None:
    people = [f"p{n}" for n in range(6)]
    before, rows = used.outbox(), used.rows()
    with sqlite3.connect(used.root / "ledger.sqlite") as ledger:
        for what in ("TABLE settled", "TABLE doubts", "TABLE lost", "INDEX images_of_batch"):
            ledger.execute(f"DROP {what}")
    _make_format(used.root, "fedpdiff-ledger/1")
    old = (used.root / "ledger.sqlite").read_bytes()
    assert verify_release(used.root / "outbox") == []
    assert (used.root / "ledger.sqlite").read_bytes() == old
    used.release(private(range(6), persons=people), no_noise)
    assert used.outbox() == before
    migrated = used.rows()
    assert migrated.pop("site") == [(1, "fedpdiff-ledger/2", *rows.pop("site")[0][2:])]
    assert migrated == rows
    new = site("new")
    new.release(private(range(6)))
    assert _schema(used.root) == _schema(new.root)


def test_the_release_of_an_earlier_version_is_not_made_again(site: Make, private: Make) -> None:
    here = site("old")
    (here.root / "release").mkdir(parents=True)
    with pytest.raises(PrivacyError, match="earlier version"):
        here.release(private(range(6)))


@pytest.fixture
def unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedpdiff.privacy import making

    failed = HealthReport({"used twice": 0.0})
    monkeypatch.setattr(making, "check_noise", lambda release, signal, sigma: failed)


def test_a_failed_health_check_is_charged_and_not_drawn_again(
    site: Make, private: Make, unhealthy: None, monkeypatch: pytest.MonkeyPatch, no_noise: Any
) -> None:
    here = site()
    with pytest.raises(PrivacyError, match=r"failed its health check \(used twice\).*charged"):
        here.release(private(range(6)))
    rows = here.rows()
    assert [row[4:] for row in rows["noisings"]] == [(None, None, None)] * 6
    assert rows["releases"] == [] and not (here.root / "outbox").exists()
    monkeypatch.undo()
    for images in (range(6), range(9)):
        with pytest.raises(PrivacyError, match="failed its noise health check before"):
            here.release(private(images), no_noise)
    assert here.rows() == rows
    with pytest.raises(PrivacyError, match="no release yet"):
        here.store.read()


def test_after_the_owner_accepts_a_failure_it_stays_charged(
    site: Make, private: Make, unhealthy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site()
    with pytest.raises(PrivacyError, match="health check"):
        here.release(private(range(6)))
    monkeypatch.undo()
    assert [accept_failed_noise(here.root) for _ in range(2)] == [1, 0]
    release = here.release(private(range(6)))
    assert release.certificate["composition"]["noisings_per_image"] == 2
    assert release.certificate["composition"]["mu_total"] == pytest.approx(2**0.5 * release.certificate["mu"])
    assert len(here.release(private(range(6))).labels) == 6


def test_noise_that_repeats_is_not_released(site: Make, private: Make) -> None:
    """The real health check, with a source that starts again after 16 values, that is for every image."""

    class Restarting(SecureNoise):
        def read(self, count: int) -> bytes:
            return (np.random.default_rng(0).bytes(64) * (count // 64 + 1))[:count]

    here = site()
    with pytest.raises(PrivacyError, match="failed its health check"):
        here.release(private(range(64)), Restarting())
    assert json.loads(here.rows()["batches"][0][7])["ok"] is False
