"""A process that dies anywhere leaves no release or exactly one, and nobody noises a second time."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import steps
from fedpdiff.privacy.ledger_report import report_ledger
from fedpdiff.privacy.steps import STEPS

Make = Callable[..., Any]
BEFORE_COMMIT = STEPS[: STEPS.index("committed")]
IN_STORE = STEPS[:-1]  # the reply is made by the client: tests/federation


def in_another_process(work: Callable[[], object]) -> int:
    """Fork a process that does ``work``; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step: str, work: Callable[[], object]) -> int:
    """Do ``work`` in another process that is killed (SIGKILL) at a named step; return its exit code."""

    def watched() -> None:
        def reached(name: str) -> None:
            if name == step:
                os.kill(os.getpid(), signal.SIGKILL)

        steps.reached = reached
        work()

    return exit_code(in_another_process(watched))


def rows_of(release: Any) -> set[bytes]:
    return {row.tobytes() for row in release.integers}


def assert_whole(here: Any, images: int) -> None:
    """Ledger and outbox agree: as many noisings as images, one each, and the outbox is the ledger's."""
    noisings = here.rows()["noisings"]
    assert len(noisings) == len({row[1] for row in noisings}) == images
    kept = {row[6] for row in noisings}
    assert {row.tobytes() for row in np.load(here.root / "outbox/release.npy")} == kept
    own = ["ledger.sqlite", "lock", "outbox", "outbox-hashed.json", "secret"]
    own += ["witness-path"] if here.witness else []
    assert sorted(p.name for p in here.root.iterdir()) == own


@pytest.mark.parametrize("step", IN_STORE)
def test_killed_at_a_named_step(step: str, site: Make, private: Make, no_noise: Any) -> None:
    here = site()
    assert killed_at(step, lambda: here.release(private(range(12)))) == -signal.SIGKILL
    if step in BEFORE_COMMIT:
        if (here.root / "ledger.sqlite").exists():
            with here.store._folder.ledger() as (ledger, _):  # what SQLite itself makes of the crash
                assert ledger.totals.images() == 0 and ledger.releases() == []
        assert not (here.root / "outbox").exists()
        release = here.release(private(range(12)))
    else:
        committed = {row[6] for row in here.rows()["noisings"]}
        assert len(committed) == 12
        release = here.release(private(range(12)), no_noise)  # raises if it were to noise again
        assert rows_of(release) == committed
    assert_whole(here, 12)
    assert here.counts()["releases"] == here.counts()["batches"] == 1


@pytest.mark.parametrize("step", IN_STORE)
def test_killed_while_a_data_set_grows(step: str, site: Make, private: Make, no_noise: Any) -> None:
    """What was sent before stays bit for bit, whatever becomes of the new images."""
    here = site()
    old = rows_of(here.release(private(range(8))))
    assert killed_at(step, lambda: here.release(private(range(12)))) == -signal.SIGKILL
    again = here.release(private(range(8)), no_noise)
    assert rows_of(again) == old
    grown = here.release(private(range(12)), None if step in BEFORE_COMMIT else no_noise)
    assert old < rows_of(grown)
    assert_whole(here, 12)


@pytest.mark.parametrize("step", ["outbox written", "read again"])
def test_killed_while_reading(step: str, site: Make, private: Make, no_noise: Any) -> None:
    here = site()
    first = rows_of(here.release(private(range(12))))
    (here.root / "outbox/manifest.json").unlink()
    assert killed_at(step, lambda: here.store.read()) == -signal.SIGKILL
    assert rows_of(here.store.read()) == first == rows_of(here.release(private(range(12)), no_noise))


@pytest.mark.parametrize("step", IN_STORE)
def test_killed_with_a_witness(step: str, site: Make, private: Make, no_noise: Any) -> None:
    """The honest site goes on, without a doubt, and nothing that may have left is noised again."""
    here = site()
    here.witness = here.root.parent / "witness.json"
    old = rows_of(here.release(private(range(8))))
    before = (here.root / "ledger.sqlite").read_bytes()
    assert killed_at(step, lambda: here.release(private(range(12)))) == -signal.SIGKILL
    known = json.loads(here.witness.read_text())["noisings"]
    committed = 1 if step in BEFORE_COMMIT else 2
    assert known == (1 if step == "committed" else committed)  # behind by one, never ahead
    if known == 2:  # then it may have left: a ledger without it is not believed
        newest = (here.root / "ledger.sqlite").read_bytes()
        (here.root / "ledger.sqlite").write_bytes(before)
        shutil.rmtree(here.root / "outbox")
        with pytest.raises(PrivacyError, match="may not be the newest"):
            here.release(private(range(12)), no_noise)
        (here.root / "ledger.sqlite").write_bytes(newest)
    grown = here.release(private(range(12)), None if step in BEFORE_COMMIT else no_noise)
    assert old < rows_of(grown) and report_ledger(here.root, 1e-5).doubt is None
    assert json.loads(here.witness.read_text())["noisings"] == 2
    assert_whole(here, 12)


@pytest.mark.parametrize("witnessed", [False, True])
def test_killed_at_any_file_operation(witnessed: bool, site: Make, private: Make) -> None:
    """From the first folder to the reply: at the n-th call that makes something last, n = 1, 2, ..."""
    survived, n = False, 0
    while not survived:
        n += 1
        here = site(f"site-{n}")
        here.witness = here.root.parent / f"witness-{n}.json" if witnessed else None
        work = functools.partial(here.release, private(range(4)))
        code = exit_code(in_another_process(functools.partial(_dying_at_call, n, work)))
        survived = code == 0
        assert survived or code == -signal.SIGKILL
        committed = (here.root / "secret").exists() and {row[6] for row in here.rows()["noisings"]}
        release = here.release(private(range(4)))
        assert not committed or rows_of(release) == committed
        assert report_ledger(here.root, 1e-5).doubt is None
        assert_whole(here, 4)
    assert n > 10  # there are so many


_LASTING = (
    (os, "fsync"),
    (os, "open"),
    (os, "replace"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "mkdir"),
    (Path, "unlink"),
)


def _dying_at_call(n: int, work: Callable[[], object]) -> None:
    left = n

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **keywords: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **keywords)

        return call

    for owner, name in _LASTING:
        setattr(owner, name, watched(getattr(owner, name)))
    work()


@pytest.mark.slow
def test_killed_at_any_moment(site: Make, private: Make) -> None:
    """Also inside SQLite: processes die at random moments of a release; the next request always works.

    Each that finished before it was to die lets the next one die earlier, so that about half of the 60 die on
    any machine, however its speed changes.
    """
    rng = random.Random(1)
    longest, died = 1.0, 0  # seconds
    for n in range(60):
        here = site(f"site-{n}")
        child = in_another_process(functools.partial(here.release, private(range(40))))
        threading.Event().wait(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        code = exit_code(child)
        assert code in (0, -signal.SIGKILL)
        died += code != 0
        longest *= 0.8 if code == 0 else 1.2
        release = here.release(private(range(40)))
        assert len(release.labels) == 40
        assert_whole(here, 40)
    assert died > 5


def test_processes_at_the_same_time_make_one_release(site: Make, private: Make, no_noise: Any) -> None:
    """Every process finds a release, there is one noising of each image, and it is intact."""
    here = site()
    children = [in_another_process(lambda: here.release(private(range(12)))) for _ in range(4)]
    assert [exit_code(child) for child in children] == [0] * 4
    here.release(private(range(12)), no_noise)
    assert_whole(here, 12)
    assert here.counts()["batches"] == here.counts()["releases"] == 1
