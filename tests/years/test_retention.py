"""Uploads are deleted when a site withdraws or their time is up; certificates and the truth stay."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from fedpdiff.cli import main
from fedpdiff.config import RunConfig
from fedpdiff.deletions import Deletion
from fedpdiff.errors import RunError
from fedpdiff.evidence.artefacts import read_artefacts
from fedpdiff.federation.spool import Spool
from fedpdiff.runfolder import RunFolder

Make = Callable[..., Path]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def coordinator(tmp_path: Path) -> Path:
    root = tmp_path / "coordinator"
    ports = ["--port", str(free_port()), "--superlink-port", str(free_port())]
    assert main(["coordinator", "init", str(root), "--host", "localhost", *ports]) == 0
    return root


def content_of(run: Path, site: str) -> list[bytes]:
    """Return pieces of a site's upload as it came over the network, 64 bytes each, that are not by chance."""
    spool = run / "server" / "spool" / site
    codes = np.concatenate([np.ravel(shard.codes().packed) for shard in Spool.open(spool).shards()])
    pieces = [codes[start : start + 64].tobytes() for start in range(0, len(codes) - 63, 64)]
    assert len(pieces) > 5 and len(set(pieces)) == len(pieces)
    return pieces


def holding(root: Path, pieces: list[bytes]) -> list[str]:
    """Return the files below a folder that hold any of these bytes."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return [path.name for path in files if any(piece in path.read_bytes() for piece in pieces)]


def test_a_site_that_withdraws_is_forgotten(
    run: Path, coordinator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces, others = content_of(run, "north"), content_of(run, "south")
    certificate = (run / "server/spool/north/certificate.json").read_bytes()
    assert holding(run, pieces), "nothing to delete"
    capsys.readouterr()
    assert main(["coordinator", "forget", "north", "--runs", str(run), "--dir", str(coordinator)]) == 0
    printed = capsys.readouterr().out
    assert "the upload of north was deleted on" in printed and "keep their influence" in printed
    assert holding(run, pieces) == [] and holding(run, others)
    spool = run / "server" / "spool" / "north"
    assert sorted(p.name for p in spool.iterdir()) == ["certificate.json", "deleted.json", "manifest.json"]
    assert (spool / "certificate.json").read_bytes() == certificate
    known = Deletion.read(spool)
    assert known is not None and known.verified and known.reason == "withdrawn"


def test_report_and_verify_say_so_afterwards(
    run: Path, coordinator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run)]) == 0
    assert "Deleted since" not in (run / "report.html").read_text()
    main(["coordinator", "forget", "north", "--runs", str(run.parent), "--dir", str(coordinator)])
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert re.search(r"the upload of north was deleted on \d{4}-\d\d-\d\d \(withdrawn by the site\)", page)
    assert main(["verify", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "north: certificate verified; the upload of north was deleted" in printed
    assert "its bytes fitted it then" in printed and "south: verified" in printed
    assert "1 uploads were deleted" in printed
    with pytest.raises(RunError, match="cannot be attacked any more: the upload of north was deleted"):
        read_artefacts(run)


def test_a_false_certificate_is_still_found_after_deletion(
    run: Path, coordinator: Path, edit: Callable[..., None]
) -> None:
    main(["coordinator", "forget", "north", "--runs", str(run), "--dir", str(coordinator)])
    edit(run / "server/spool/north/certificate.json", epsilon=0.5)
    assert main(["verify", str(run)]) == 1


def test_what_did_not_verify_is_not_said_to_have(run: Path, coordinator: Path) -> None:
    (run / "server/spool/north/certificate.json").unlink()
    main(["coordinator", "forget", "north", "--runs", str(run), "--dir", str(coordinator)])
    known = Deletion.read(run / "server/spool/north")
    assert known is not None and not known.verified


@pytest.mark.parametrize("again", [["forget", "north"], ["expire"]])
def test_deleting_goes_on_where_it_was_cut_off(
    again: list[str], run: Path, coordinator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    pieces = content_of(run, "north")
    arguments = ["coordinator", "forget", "north", "--runs", str(run), "--dir", str(coordinator)]
    monkeypatch.setattr(Path, "unlink", cut_off)
    assert main(arguments) == 130
    monkeypatch.undo()
    assert holding(run, pieces)
    for _ in range(2):
        assert main(["coordinator", *again, *arguments[3:]]) == 0
    known = Deletion.read(run / "server/spool/north")
    assert holding(run, pieces) == [] and known is not None and known.verified


def test_nobody_to_forget(run: Path, coordinator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--dir", str(coordinator)]
    for site, runs, said in (
        ("west", run, 'has an upload of "west"'),
        ("north", run.parent.parent / "none", "neither a run folder"),
        ("../north", run, "has an upload of"),
    ):
        assert main(["coordinator", "forget", site, "--runs", str(runs), *where]) == 2
        assert said in capsys.readouterr().err
    assert main(["verify", str(run)]) == 0


def _age(spool: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    for path in spool.iterdir():
        os.utime(path, (then, then))


def test_uploads_expire(run: Path, coordinator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spools = run / "server" / "spool"
    _age(spools / "north", 366)
    _age(spools / "south", 364)
    arguments = ["coordinator", "expire", "--runs", str(run.parent), "--dir", str(coordinator)]
    capsys.readouterr()
    for count in (1, 0):
        assert main(arguments) == 0
        assert f"{count} uploads deleted that were older than 365 days" in capsys.readouterr().out
    settings = coordinator / "coordinator.toml"
    settings.write_text(settings.read_text().replace("keep-uploads-days = 365", "keep-uploads-days = 30"))
    assert main(arguments) == 0
    assert "1 uploads deleted that were older than 30 days" in capsys.readouterr().out
    reasons = [known.reason for name in ("north", "south") if (known := Deletion.read(spools / name))]
    assert reasons == ["expired", "expired"]
    assert main([*arguments, "--days", "-1"]) == 2
    settings.write_text(settings.read_text().replace("keep-uploads-days = 30", 'keep-uploads-days = "x"'))
    assert main(arguments) == 2


def test_a_run_that_is_at_work_keeps_its_uploads(
    run: Path, coordinator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--runs", str(run), "--dir", str(coordinator)]
    with RunFolder(run).locked():
        assert main(["coordinator", "expire", "--days", "0", *where]) == 0
        assert "0 uploads deleted" in capsys.readouterr().out
        assert main(["coordinator", "forget", "north", *where]) == 2
        assert f"a run is at work in {run}" in capsys.readouterr().err
    assert main(["verify", str(run)]) == 0
    assert main(["coordinator", "forget", "north", *where]) == 0


def test_an_expired_upload_can_still_be_withdrawn(run: Path, coordinator: Path) -> None:
    where = ["--runs", str(run), "--dir", str(coordinator)]
    assert main(["coordinator", "expire", "--days", "0", *where]) == 0
    before = Deletion.read(run / "server/spool/north")
    assert main(["coordinator", "forget", "north", *where]) == 0
    after = Deletion.read(run / "server/spool/north")
    assert before and after and (after.reason, after.time, after.verified) == ("withdrawn", before.time, True)


# -- the SuperLink's database -----------------------------------------------------------------------------


def in_a_process_that_dies(work: Callable[[], None]) -> None:
    """As a SuperLink that was killed: what SQLite would tidy up at the end stays."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Superlink:
    """The database of a stopped SuperLink: Flower's own tables, with messages that came and went."""

    def __init__(self, root: Path) -> None:
        self.path = root / "state" / "superlink.db"
        in_a_process_that_dies(lambda: self._store() and None)
        self.run("INSERT INTO node (node_id, name) VALUES (7, 'north')")
        self.add_task(1, "2026-01-01")

    def _store(self) -> SqlObjectStore:
        store = SqlObjectStore(str(self.path), verify=False)
        store.initialize()
        return store

    def run(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            return database.execute(sql, values).fetchall()

    def add_task(self, number: int, finished: str | None) -> None:
        self.run(
            "INSERT INTO task (task_id, type, run_id, pending_at, finished_at) VALUES (?, ?, ?, ?, ?)",
            *(number, "flwr-serverapp", 1, "2026-01-01", finished),
        )

    def carry(self, pieces: list[bytes], delivered: bool) -> None:
        """Let an upload come, and be delivered, as Flower does both."""
        content = RecordDict({"upload": ArrayRecord([np.frombuffer(b"".join(pieces), np.uint8)])})

        def work() -> None:
            store = self._store()
            store.preregister(1, get_object_tree(content))
            for object_id, part in get_all_nested_objects(content).items():
                store.put(object_id, part.deflate())
            if delivered:
                store.delete_objects_in_run(1)
                assert len(store) == 0

        in_a_process_that_dies(work)


@pytest.fixture
def superlink(coordinator: Path) -> Superlink:
    return Superlink(coordinator)


@pytest.mark.parametrize("delivered", [True, False])
@pytest.mark.parametrize("command", [["forget", "north"], ["expire", "--days", "0"]])
def test_no_byte_is_left_in_the_database_or_its_log(
    command: list[str], delivered: bool, run: Path, coordinator: Path, superlink: Superlink
) -> None:
    """The positive control: Flower deleted the messages, and their bytes are there all the same."""
    pieces = content_of(run, "north")
    superlink.carry(pieces, delivered)
    state = coordinator / "state"
    assert holding(state, pieces), "Flower left nothing: then this test shows nothing"
    assert main(["coordinator", *command, "--runs", str(run), "--dir", str(coordinator)]) == 0
    assert holding(state, pieces) == [] and holding(run, pieces) == []
    assert superlink.run("SELECT name FROM node") == [("north",)]
    assert superlink.run("SELECT COUNT(*) FROM task") == [(1,)]
    assert superlink.run("PRAGMA integrity_check") == [("ok",)]
    superlink.carry(pieces, delivered=False)  # and Flower goes on with it
    assert superlink.run("SELECT COUNT(*) > 0 FROM objects") == [(1,)]


@pytest.fixture
def answering(coordinator: Path) -> Iterator[None]:
    port = re.search(r"superlink-port = (\d+)", (coordinator / "coordinator.toml").read_text())
    assert port
    with socket.create_server(("127.0.0.1", int(port[1]))):
        yield


@pytest.mark.usefixtures("answering")
def test_a_running_superlink_is_left_alone(
    run: Path, coordinator: Path, superlink: Superlink, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--runs", str(run), "--dir", str(coordinator)]
    before = hashlib.sha256(superlink.path.read_bytes()).digest()
    assert main(["coordinator", "forget", "north", *where]) == 2
    assert "the SuperLink is running" in capsys.readouterr().err
    assert main(["verify", str(run)]) == 0  # nothing was half done
    assert main(["coordinator", "expire", "--days", "0", *where]) == 0
    assert "was not emptied: the SuperLink is running" in capsys.readouterr().out
    assert hashlib.sha256(superlink.path.read_bytes()).digest() == before


def test_what_cannot_be_emptied_is_named(
    run: Path, coordinator: Path, superlink: Superlink, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["coordinator", "forget", "north", "--runs", str(run), "--dir", str(coordinator)]

    def refused(said: str) -> None:
        assert main(arguments) == 2
        assert said in capsys.readouterr().err

    with contextlib.closing(sqlite3.connect(superlink.path)) as database:
        database.execute("BEGIN IMMEDIATE")
        refused("is in use; stop start-superlink")
    superlink.add_task(2, None)
    refused("a run is not finished")
    superlink.run("DROP TABLE task")
    refused("is not as Flower 1.41 makes it")
    for path in superlink.path.parent.glob("superlink.db*"):
        path.unlink()
    shutil.copy(coordinator / "ca.crt", superlink.path)
    refused(f"delete it and {coordinator / 'sites.json'}, and admit every site again")
    superlink.path.unlink()
    assert main(arguments) == 0


def test_no_other_run_is_written_over_the_record(run: Path, coordinator: Path) -> None:
    main(["coordinator", "forget", "north", "--runs", str(run), "--dir", str(coordinator)])
    with pytest.raises(RunError, match="whose uploads were deleted"):
        RunFolder(run).prepare(RunConfig())
    assert Deletion.read(run / "server/spool/north")


def test_a_record_of_another_version_is_refused(run: Path, coordinator: Path) -> None:
    main(["coordinator", "forget", "north", "--runs", str(run), "--dir", str(coordinator)])
    path = run / "server/spool/north/deleted.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "fedpdiff-deletion/9"}))
    assert main(["report", str(run)]) == 2
    assert main(["verify", str(run)]) == 1
