"""A ledger that is not the newest of its site is noticed: it sends again what it holds and noises nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedpdiff.cli import main
from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import ledger_settling
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.certificate_check import check_certificate
from fedpdiff.privacy.ledger_backup import back_up, restore
from fedpdiff.privacy.ledger_report import find_store, place_of_store, report_ledger
from fedpdiff.privacy.ledger_settling import settle_lost, settle_nothing_lost
from fedpdiff.privacy.store_folder import StoreFolder
from fedpdiff.privacy.verify import verify_release
from fedpdiff.privacy.witness import FORMAT, Witness

Make = Callable[..., Any]
DOUBT = "may not be the newest one of this site"


@pytest.fixture
def here(site: Make, tmp_path: Path) -> Any:
    """Return a site with a state folder, and a witness in another place; its policy allows two copies."""
    made = site("north/state/state/release", epsilon=3.6)
    made.witness = tmp_path / "elsewhere" / "witness.json"
    made.state = tmp_path / "north" / "state"
    return made


def rows_of(release: Any) -> set[bytes]:
    return {row.tobytes() for row in release.integers}


def overwritten(here: Any) -> Callable[[], None]:
    """Keep the ledger as it is now; what is returned writes it over a newer one, in the same file."""
    then = (here.root / "ledger.sqlite").read_bytes()

    def restore_it() -> None:
        (here.root / "ledger.sqlite").write_bytes(then)
        shutil.rmtree(here.root / "outbox")

    return restore_it


@pytest.fixture
def restored(here: Any, private: Make) -> Any:
    """Return the site with a ledger that lacks the release of images 6 to 8; ``here.lost`` certifies it."""
    here.old = here.release(private(range(6)))
    put_back = overwritten(here)
    here.release(private(range(9)))
    here.lost = here.state.parent / "lost.json"
    shutil.copy(here.root / "outbox" / "certificate.json", here.lost)
    put_back()
    return here


def test_nothing_is_noised_a_second_time_after_a_restore(restored: Any, private: Make, no_noise: Any) -> None:
    for images in (range(9), range(6, 9), range(20)):
        with pytest.raises(PrivacyError, match=f"{DOUBT}: it holds 1 noisings, but its witness knows 2"):
            restored.release(private(images), no_noise)
    assert restored.counts()["noisings"] == 6


def test_what_it_holds_is_sent_again_bit_for_bit(restored: Any, private: Make, no_noise: Any) -> None:
    again = restored.release(private(range(6)), no_noise)
    assert rows_of(again) == rows_of(restored.old)
    assert rows_of(restored.store.read()) == rows_of(restored.old)
    assert rows_of(restored.release(private(range(3)), no_noise)) < rows_of(restored.old)


def test_in_doubt_the_certificate_states_all_that_the_policy_allows(
    restored: Any, private: Make, no_noise: Any
) -> None:
    """Lost noisings of these images were checked against the policy as every other."""
    certificate = restored.release(private(range(6)), no_noise).certificate
    assert certificate["composition"]["noisings_per_image"] == 2
    assert epsilon_from_mu(certificate["composition"]["mu_total"], 1e-5) == pytest.approx(3.6, rel=1e-9)
    assert check_certificate(certificate) == []
    assert verify_release(restored.root / "outbox") == []  # the ledger beside it knows the doubt as well
    assert restored.old.certificate["composition"]["noisings_per_image"] == 1


@pytest.mark.parametrize("what", ["both", "witness", "lost witness", "damaged witness"])
def test_a_copied_witness_vouches_for_nothing(
    what: str, here: Any, private: Make, no_noise: Any, tmp_path: Path
) -> None:
    """A whole folder from a backup agrees with itself: only that the witness is a copy gives it away."""
    here.release(private(range(6)))
    shutil.copytree(here.root, tmp_path / "ledger")
    shutil.copy(here.witness, tmp_path / "witness")
    here.release(private(range(9)))
    if what == "both":
        shutil.rmtree(here.root)
        shutil.copytree(tmp_path / "ledger", here.root)
        here.witness.unlink()
    if what in ("both", "witness"):
        here.witness.write_bytes((tmp_path / "witness").read_bytes())
    elif what == "lost witness":
        here.witness.unlink()
    else:
        here.witness.write_text("{")
    with pytest.raises(PrivacyError, match=DOUBT):
        here.release(private(range(12)), no_noise)


def test_a_witness_written_over_in_place_is_noticed(here: Any, private: Make, no_noise: Any) -> None:
    """As ``cp -a`` does it: file and inode stay. Where files have generations, or inodes are not reused."""
    here.release(private(range(6)))
    put_back, then = overwritten(here), here.witness.read_bytes()
    here.release(private(range(9)))
    if json.loads(here.witness.read_text())["file"] == json.loads(then)["file"]:
        pytest.skip("this file system gives a new file the number of an old one, and has no generations")
    put_back()
    here.witness.write_bytes(then)
    with pytest.raises(PrivacyError, match="its witness was itself copied or restored"):
        here.release(private(range(9)), no_noise)


def test_the_newest_ledger_put_back_is_no_longer_in_doubt(here: Any, private: Make) -> None:
    here.release(private(range(6)))
    put_back = overwritten(here)
    grown = here.release(private(range(9)))
    newest = (here.root / "ledger.sqlite").read_bytes()
    put_back()
    with pytest.raises(PrivacyError, match=DOUBT):
        here.release(private(range(9)))
    (here.root / "ledger.sqlite").write_bytes(newest)
    assert rows_of(here.release(private(range(9)))) == rows_of(grown)
    assert len(here.release(private(range(10))).labels) == 10


def test_a_witness_that_comes_back_settles_the_doubt(here: Any, private: Make) -> None:
    """As a share that was not mounted for a while."""
    here.release(private(range(6)))
    here.witness.rename(here.witness.with_name("away"))
    with pytest.raises(PrivacyError, match="its witness is missing"):
        here.release(private(range(7)))
    here.witness.with_name("away").rename(here.witness)
    release = here.release(private(range(7)))
    assert len(release.labels) == 7 and release.certificate["composition"]["noisings_per_image"] == 1
    assert report_ledger(here.root, 1e-5).doubt is None


def test_another_history_of_the_same_length_is_noticed(here: Any, private: Make, no_noise: Any) -> None:
    here.release(private(range(6)))
    put_back = overwritten(here)
    here.release(private(range(7)))
    newest = here.witness.read_bytes()
    put_back()
    here.witness.unlink()
    settle_nothing_lost(find_store(here.root))
    here.release(private(range(8)))
    content = json.loads(newest) | {"file": json.loads(here.witness.read_text())["file"]}
    here.witness.write_text(json.dumps(content))
    with pytest.raises(PrivacyError, match="not those that its witness knows"):
        here.release(private(range(9)), no_noise)
    with pytest.raises(PrivacyError, match="something was lost"):
        settle_nothing_lost(find_store(here.root))


def test_a_witness_far_behind_is_noticed(here: Any, private: Make, no_noise: Any) -> None:
    here.release(private(range(6)))
    content = json.loads(here.witness.read_text())
    for images in (7, 8):
        here.release(private(range(images)))
    content["file"] = json.loads(here.witness.read_text())["file"]
    here.witness.write_text(json.dumps(content))
    with pytest.raises(PrivacyError, match="its witness knows only 1"):
        here.release(private(range(9)), no_noise)


def test_a_deleted_store_is_not_begun_anew(here: Any, private: Make, no_noise: Any) -> None:
    here.release(private(range(6)))
    shutil.rmtree(here.root)
    with pytest.raises(PrivacyError, match="knows a ledger that is not here any more"):
        here.release(private(range(6)), no_noise)


def test_another_sites_witness_is_refused(here: Any, site: Make, private: Make) -> None:
    here.release(private(range(6)))
    other = site("other")
    other.release(private(range(3)))
    other.witness = here.witness
    with pytest.raises(PrivacyError, match="belongs to another ledger"):
        other.release(private(range(3)))


def test_a_witness_of_another_version_is_refused(here: Any, private: Make) -> None:
    here.release(private(range(6)))
    here.witness.write_text(here.witness.read_text().replace(FORMAT, "fedpdiff-witness/9"))
    with pytest.raises(PrivacyError, match=r"fedpdiff-witness/9.*this version reads"):
        here.release(private(range(6)))


def test_nothing_is_sent_while_the_witness_cannot_be_written(
    here: Any, private: Make, monkeypatch: pytest.MonkeyPatch, no_noise: Any
) -> None:
    def full(path: Path, content: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    here.release(private(range(6)))
    monkeypatch.setattr(Witness, "_write", staticmethod(full))
    for _ in range(2):
        with pytest.raises(PrivacyError, match=r"cannot be written \(No space left"):
            here.release(private(range(9)))
    assert here.counts()["batches"] == 2
    monkeypatch.undo()
    assert len(here.release(private(range(9)), no_noise).labels) == 9


def test_in_simulation_there_is_no_witness(site: Make, private: Make) -> None:
    plain = site("plain")
    plain.release(private(range(6)))
    names = sorted(path.name for path in plain.root.iterdir())
    assert names == ["ledger.sqlite", "lock", "outbox", "outbox-hashed.json", "secret"]
    assert report_ledger(plain.root, 1e-5).witness is None


def test_a_sites_folder_may_be_moved_as_a_whole(site: Make, private: Make, tmp_path: Path) -> None:
    here = site("a/state/state/release")
    here.witness = tmp_path / "a" / "witness.json"
    here.release(private(range(6)))
    (tmp_path / "a").rename(tmp_path / "b")
    report = report_ledger(tmp_path / "b" / "state", 1e-5)
    assert report.witness == tmp_path / "b" / "witness.json" and report.doubt is None


# -- settled by the owner ---------------------------------------------------------------------------------


def test_that_nothing_was_lost_is_not_believed_against_the_witness(restored: Any) -> None:
    with pytest.raises(PrivacyError, match="something was lost: it holds 1 noisings"):
        settle_nothing_lost(find_store(restored.root))
    assert report_ledger(restored.root, 1e-5).doubt


def test_a_witness_that_comes_back_knowing_more_is_heard(restored: Any, private: Make, no_noise: Any) -> None:
    """The doubt from when it was away must not hide that something was lost."""
    restored.witness.rename(restored.witness.with_name("away"))
    with pytest.raises(PrivacyError, match="its witness is missing"):
        restored.release(private(range(9)), no_noise)
    restored.witness.with_name("away").rename(restored.witness)
    with pytest.raises(PrivacyError, match="something was lost: it holds 1 noisings"):
        settle_nothing_lost(find_store(restored.root))
    with pytest.raises(PrivacyError, match=f"{DOUBT}: it holds 1 noisings"):
        restored.release(private(range(9)), no_noise)
    settle_lost(find_store(restored.root), [restored.lost])
    assert report_ledger(restored.root, 1e-5).doubt is None


def test_after_a_move_the_owners_word_is_taken_and_written_down(here: Any, private: Make) -> None:
    here.release(private(range(6)))
    here.witness.unlink()
    assert "settled" in settle_nothing_lost(find_store(here.root))
    assert "no doubt" in settle_nothing_lost(find_store(here.root))
    assert "the owner states that nothing was released" in here.rows()["settled"][0][2]
    assert here.release(private(range(7))).certificate["composition"]["noisings_per_image"] == 1


def test_a_lost_release_is_charged_to_every_image_that_may_be_in_it(restored: Any, private: Make) -> None:
    """Images 0 to 5 were in it as they were before; any other, also one never seen, may have been noised."""
    said = settle_lost(find_store(restored.root), [restored.lost])
    assert "1 lost releases are charged" in said
    old = restored.release(private(range(6))).certificate["composition"]
    assert (old["noisings_per_image"], old["mu_total"]) == (1, restored.old.certificate["mu"])
    grown = restored.release(private([*range(6), 7, 30])).certificate["composition"]
    assert grown["noisings_per_image"] == 2
    assert grown["mu_total"] == pytest.approx(2**0.5 * restored.old.certificate["mu"])
    assert report_ledger(restored.root, 1e-5).spent.noisings == 2
    # Noised once more under other settings, an image that was not lost has two noisings, a new one three.
    with pytest.raises(PrivacyError, match=r"above the epsilon = 3\.6"):
        restored.release(private([*range(6), 7]), clip=2.9)


def test_a_lost_release_with_other_settings_is_charged_to_all(here: Any, private: Make) -> None:
    here.release(private(range(6)))
    put_back = overwritten(here)
    other = here.release(private(range(6)), clip=2.0).certificate
    shutil.copy(here.root / "outbox" / "certificate.json", here.state.parent / "lost.json")
    put_back()
    settle_lost(find_store(here.root), [here.state.parent / "lost.json"])
    again = here.release(private(range(6))).certificate
    assert again["composition"]["noisings_per_image"] == 2
    assert again["composition"]["mu_total"] == pytest.approx((again["mu"] ** 2 + other["mu"] ** 2) ** 0.5)


def test_what_was_charged_stays_charged_whatever_is_noised_later(restored: Any, private: Make) -> None:
    """The copy of image 7 made after the loss is not the one that was lost."""
    settle_lost(find_store(restored.root), [restored.lost])
    for images in ([*range(6), 7], [*range(6), 7, 8], [7]):
        stated = restored.release(private(images)).certificate["composition"]
        assert stated["noisings_per_image"] == 2
    assert verify_release(restored.root / "outbox") == []


def test_who_was_shown_in_lost_images_is_not_known(site: Make, private: Make, tmp_path: Path) -> None:
    here = site("persons/state/state/release", **{"images-per-person": 9, "person-column": "who"})
    here.witness = tmp_path / "witness.json"
    assert here.release(private(range(3), persons=["a", "b", "c"])).certificate["persons"]["most_images"] == 1
    put_back = overwritten(here)
    here.release(private(range(4), persons=["a", "b", "c", "a"]))
    shutil.copy(here.root / "outbox" / "certificate.json", tmp_path / "lost.json")
    put_back()
    settle_lost(find_store(here.root), [tmp_path / "lost.json"])
    assert here.release(private(range(3), persons=["a", "b", "c"])).certificate["persons"] is None
    with pytest.raises(PrivacyError, match="releases were lost from this ledger"):
        here.release(private(range(4), persons=["a", "b", "c", "a"]))


def test_certificates_that_settle_nothing(restored: Any, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    known.write_text(json.dumps(restored.old.certificate))
    false = tmp_path / "false.json"
    false.write_text(json.dumps(restored.old.certificate | {"epsilon": 0.1}))
    for given, said in (
        (known, "holds all of these 1"),
        (false, "no right certificate"),
        (tmp_path / "x", "read"),
    ):
        with pytest.raises(PrivacyError, match=said):
            settle_lost(find_store(restored.root), [given])
    assert restored.counts()["lost"] == 0 and report_ledger(restored.root, 1e-5).doubt
    settle_lost(find_store(restored.root), [known, restored.lost])
    assert restored.counts()["lost"] == 1


def test_a_crash_while_settling_leaves_a_doubt_and_charges_once(
    restored: Any, private: Make, monkeypatch: pytest.MonkeyPatch, no_noise: Any
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Witness, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        settle_lost(find_store(restored.root), [restored.lost])
    monkeypatch.undo()
    with pytest.raises(PrivacyError, match=DOUBT):
        restored.release(private(range(9)), no_noise)
    settle_lost(find_store(restored.root), [restored.lost])
    assert restored.counts()["lost"] == 1 and report_ledger(restored.root, 1e-5).doubt is None


def test_an_outbox_newer_than_the_ledger_is_settled_by_its_own_certificate(
    here: Any, private: Make, no_noise: Any
) -> None:
    here.release(private(range(6)))
    then = (here.root / "ledger.sqlite").read_bytes()
    here.release(private(range(9)))
    (here.root / "ledger.sqlite").write_bytes(then)
    with pytest.raises(PrivacyError, match="older than what was sent"):
        here.release(private(range(6)), no_noise)
    settle_lost(find_store(here.root), [here.root / "outbox"])
    assert len(here.release(private(range(6)), no_noise).labels) == 6


# -- backup and restore -----------------------------------------------------------------------------------


def lose(here: Any) -> None:
    shutil.rmtree(here.root)


def test_a_backup_of_the_newest_ledger_restores_everything(
    here: Any, private: Make, no_noise: Any, tmp_path: Path
) -> None:
    """The witness, which was not lost, knows that it is the newest: nobody need say so."""
    before = here.release(private(range(6)))
    assert back_up(find_store(here.state), tmp_path / "backup.tar") == 1
    assert (tmp_path / "backup.tar").stat().st_mode & 0o777 == 0o600
    lose(here)
    assert restore(place_of_store(here.state), tmp_path / "backup.tar") == 1
    again = here.release(private(range(6)), no_noise)
    assert rows_of(again) == rows_of(before) and again.certificate == before.certificate
    assert len(here.release(private(range(8))).labels) == 8


def test_an_old_backup_sends_again_and_noises_nothing(
    here: Any, private: Make, no_noise: Any, tmp_path: Path
) -> None:
    before = here.release(private(range(6)))
    back_up(find_store(here.state), tmp_path / "backup.tar")
    here.release(private(range(9)))
    lose(here)
    restore(place_of_store(here.state), tmp_path / "backup.tar")
    assert rows_of(here.release(private(range(6)), no_noise)) == rows_of(before)
    with pytest.raises(PrivacyError, match=DOUBT):
        here.release(private(range(9)), no_noise)
    with pytest.raises(PrivacyError, match="may not be the newest"):
        back_up(find_store(here.state), tmp_path / "another.tar")


def test_restoring_loses_nothing(here: Any, site: Make, private: Make, tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar"
    here.release(private(range(6)))
    back_up(find_store(here.state), backup)
    before = {path: path.read_bytes() for path in here.root.rglob("*") if path.is_file()}
    with pytest.raises(PrivacyError, match="holds a ledger; move that folder away"):
        restore(place_of_store(here.state), backup)
    with pytest.raises(PrivacyError, match="never overwritten"):
        back_up(find_store(here.state), backup)
    assert before == {path: path.read_bytes() for path in here.root.rglob("*") if path.is_file()}
    other = site("other/state/state/release")
    other.release(private([1]))
    (other.root / "ledger.sqlite").unlink()
    with pytest.raises(PrivacyError, match="the secret of another ledger"):
        restore(StoreFolder(other.root), backup)
    (here.root / "ledger.sqlite").unlink()  # the secret is still there: the same one
    assert restore(place_of_store(here.state), backup) == 1


def test_only_a_whole_backup_is_restored(here: Any, private: Make, tmp_path: Path) -> None:
    good = tmp_path / "good.tar"
    here.release(private(range(6)))
    back_up(find_store(here.state), good)
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    cases = {
        "damaged": bytes(flipped),
        "no backup": b"nothing",
        "or damaged": content[: len(content) // 2],
        "fedpdiff-ledger-backup/9": content.replace(b"ledger-backup/1", b"ledger-backup/9"),
    }
    for said, text in cases.items():
        bad, target = tmp_path / "bad.tar", tmp_path / "target"
        bad.write_bytes(text)
        with pytest.raises(PrivacyError, match=said):
            restore(place_of_store(target), bad)
        assert not any((target / "state" / "release" / name).exists() for name in ("ledger.sqlite", "secret"))


def test_the_command(
    restored: Any, private: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["ledger", str(restored.state)]) == 0
    assert "IN DOUBT: it holds 1 noisings, but its witness knows 2" in capsys.readouterr().out
    assert main(["ledger", str(restored.state), "--nothing-lost"]) == 2
    assert main(["ledger", str(restored.state), "--lost", str(restored.lost)]) == 0
    printed = capsys.readouterr().out
    assert "lost releases               1, charged" in printed and "IN DOUBT" not in printed
    assert main(["ledger", str(restored.state), "--backup", str(tmp_path / "b.tar")]) == 0
    assert main(["ledger", str(tmp_path / "new"), "--restore", str(tmp_path / "b.tar")]) == 0
    assert main(["ledger", str(tmp_path / "nowhere")]) == 2


def test_settling_writes_the_charges_before_the_witness(
    restored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other order would let a crash leave a ledger that lacks noisings and is believed."""
    seen: list[int] = []
    monkeypatch.setattr(Witness, "write", lambda *_: seen.append(restored.counts()["lost"]))
    ledger_settling.settle_lost(find_store(restored.root), [restored.lost])
    assert seen == [1]
    assert os.access(restored.witness, os.R_OK)
