"""A real site's own policy against whatever the server asks for."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedpdiff.data.client
from fedpdiff.data.client import load_client
from fedpdiff.errors import PrivacyError
from fedpdiff.federation.client import ClientTasks
from fedpdiff.federation.protocol import Refusal
from fedpdiff.privacy import steps
from fedpdiff.privacy.wire import encode
from fedpdiff.schedule import NoiseSchedule

Make = Callable[..., Any]


def refusal(content: Any) -> Refusal:
    assert set(content) == {"refusal"}
    return Refusal.model_validate(dict(content["refusal"]))


def level(t0: int, schedule: str = "linear") -> dict[str, Any]:
    return {"t0": t0, "alpha_bar": float(NoiseSchedule(schedule, 1000).alpha_bar[t0])}


def store(client: Any) -> Path:
    return Path(client.folder / "state" / "release")


def noisings(client: Any) -> int:
    with sqlite3.connect(store(client) / "ledger.sqlite") as ledger:
        return int(ledger.execute("SELECT COUNT(*) FROM noisings").fetchone()[0])


def again(client: Any, **changes: Any) -> Any:
    """Return the same site, asked by a run with other settings."""
    run = client.run | {key.replace("_", "-"): value for key, value in changes.items()}
    return type(client)(client._ask, run, client.node)


@pytest.mark.parametrize(
    ("wish", "limit"),
    [
        ({"epsilon": 0.0, "t0": 1}, "above the epsilon = 60 of this site's policy"),
        ({"epsilon": 0.0, "t0": 690, "clip": 1e5}, "above the epsilon = 60 of this site's policy"),
        ({"epsilon": 1e9, "clip": 1e5}, "above the epsilon = 60 of this site's policy"),
        ({"schedule": "cosine"}, 'schedule = "cosine" is not among the schedules of this site\'s policy'),
        ({"delta": 0.1}, "delta = 0.1 is above the delta = 1e-05 of this site's policy"),
        ({"coordinator": "stranger"}, 'coordinator = "stranger" is not among the coordinators of'),
        ({"coordinator": ""}, 'coordinator = "" is not among the coordinators of'),
        ({"release-noise": "seeded"}, "a real site never releases seeded noise"),
    ],
)
def test_a_hostile_server_is_refused_by_the_name_of_the_limit(
    wish: dict[str, Any], limit: str, make_client: Make
) -> None:
    """It controls every setting of the run, and the request agrees with them."""
    policy = {"epsilon": 60.0, "schedules": ["linear"], "coordinators": ["north-study"]}
    client = make_client("deployment", policy, **{"coordinator": "north-study"} | wish)
    declined = refusal(client.release())
    assert (declined.kind, limit in declined.message) == ("PrivacyError", True), declined.message
    assert not (store(client) / "outbox").exists()
    harmless = {"epsilon": 50.0, "t0": 0, "clip": 10.0, "delta": 1e-5, "schedule": "linear"}
    honest = again(client, coordinator="north-study", release_noise="secure", **harmless)
    assert "message" in honest.release()


@pytest.mark.parametrize("action", ["release", "upload", "personalize", "sample"])
def test_nothing_is_done_for_a_stranger(action: str, make_client: Make) -> None:
    client = make_client("deployment", {"coordinators": ["north-study"]}, coordinator="north-study")
    client.release()
    declined = refusal(getattr(again(client, coordinator="stranger"), action)())
    assert declined.kind == "PrivacyError" and "coordinators" in declined.message
    assert "message" in client.upload()


def test_a_second_release_composes_and_is_refused_beyond_the_policy(
    make_client: Make, site_policy: Callable[..., str]
) -> None:
    """Even with more noise than the first: that one took what the site allows."""
    client = make_client("deployment", {"epsilon": 50.0})
    client.release()
    before, images = client.upload()["arrays"]["codes"].data, noisings(client)
    declined = refusal(client.release(**level(600)))
    assert (declined.kind, "above the epsilon = 50 of" in declined.message) == ("PrivacyError", True)
    assert client.upload()["arrays"]["codes"].data == before and noisings(client) == images
    site_policy("north", epsilon=100.0)  # the owner changes the file
    assert "message" in client.release(**level(600))
    assert client.upload()["arrays"]["codes"].data != before and noisings(client) == 2 * images


def test_a_policy_that_was_tightened_stops_the_upload(
    make_client: Make, site_policy: Callable[..., str]
) -> None:
    client = make_client("deployment")
    client.release()
    site_policy("north", epsilon=1.0)
    for content in (client.upload(), client.release()):
        assert "above the epsilon = 1 of this site's policy" in refusal(content).message


@pytest.mark.parametrize("bits", [4, 2])
def test_another_wire_width_only_recodes(bits: int, make_client: Make) -> None:
    client = make_client("deployment")
    client.release()
    exact, images = np.load(store(client) / "outbox" / "release.npy"), noisings(client)
    narrow = again(client, wire_bits=bits)
    assert dict(narrow.release()["message"])["wire_bits"] == bits
    assert narrow.upload()["arrays"]["codes"].numpy().tobytes() == encode(exact, bits).tobytes()
    assert noisings(client) == images


def test_another_delta_states_the_same_noise(make_client: Make) -> None:
    client = make_client("deployment")
    client.release()
    before, images = client.upload()["arrays"]["codes"].data, noisings(client)
    other = again(client, delta=1e-6, epsilon=0.0, t0=client.agreement.mechanism.t0)
    assert "message" in other.release()
    assert other.upload()["arrays"]["codes"].data == before and noisings(client) == images


def test_only_the_release_last_agreed_on_is_uploaded(make_client: Make) -> None:
    """As after a crash between the second release and its agreement."""
    client = make_client("deployment")
    client.release()
    agreed = {path: path.read_bytes() for path in (client.folder / "state" / "agreement").iterdir()}
    client.release(**level(600))
    for path, content in agreed.items():
        path.write_bytes(content)
    assert "ask for the release again" in refusal(client.upload()).message
    client.release()
    assert "arrays" in client.upload()


@pytest.mark.parametrize(("may_leave", "records"), [(False, {"message"}), (True, {"message", "metrics"})])
def test_scores_leave_a_site_only_if_its_policy_says_so(
    may_leave: bool, records: set[str], make_client: Make
) -> None:
    client = make_client("deployment", {"metrics-may-leave": may_leave})
    sent = client.all_actions()["sample"]
    assert set(sent) == records
    assert (client.folder / "scores.json").read_text() != "{}\n"  # the site itself always has them


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "epsilon = -1\ndelta = 1e-5\nschedules = []\n",
            "north.toml: epsilon = -1: must be a number above 0",
        ),
        ("epsilon 3", "is not TOML"),
        (None, "fedpdiff policy --images N"),
    ],
)
def test_without_a_policy_that_can_be_read_nothing_is_done(
    text: str | None, told: str, make_client: Make
) -> None:
    client = make_client("deployment")
    path = Path(client.node["policy"])
    path.unlink() if text is None else path.write_text(text)
    declined = refusal(client.release())
    assert (declined.kind, told in declined.message) == ("ConfigError", True), declined.message
    assert not store(client).exists()


def test_persons_are_read_from_the_column_that_the_policy_names(
    make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fedpdiff.data.client, "load_client", load_client)  # not remembered
    limits = {"images-per-person": 60, "person-column": "patient"}
    client = make_client("deployment", limits)
    assert refusal(client.release()).message == "the site declined; its own log says why"  # no such column
    folder = Path(client.node["data-path"])
    _write_patients(folder, lambda number: "ann" if number % 3 else "bob")
    assert "message" in client.release()
    with sqlite3.connect(store(client) / "ledger.sqlite") as ledger:
        shown = dict(ledger.execute("SELECT person, COUNT(*) FROM shown GROUP BY person"))
    held = len(client.data.train)
    assert len(shown) == 2 and sum(shown.values()) == held and max(shown.values()) > min(shown.values())
    _write_patients(folder, lambda number: "ann")
    assert "images-per-person = 60" in refusal(client.release()).message


def _write_patients(folder: Path, patient: Callable[[int], str]) -> None:
    """Write who is shown in each image, as ``datasets`` reads it beside a folder of images."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    lines = [f"{name},{name.split('/')[0]},{patient(number)}" for number, name in enumerate(files)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label,patient", *lines]))


@pytest.mark.parametrize("step", ["committed", "outbox written", "read again", "reply ready"])
def test_killed_before_the_reply_it_answers_the_next_request(step: str, make_client: Make) -> None:
    """What the ledger holds is what the server gets, however late the process died."""
    client = make_client("deployment")
    child = os.fork()
    if not child:
        steps.reached = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == step else None
        client.release()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    images = noisings(client)
    assert images == len(client.data.train)
    assert "message" in client.release()
    assert noisings(client) == images
    with sqlite3.connect(store(client) / "ledger.sqlite") as ledger:
        kept = {row for (row,) in ledger.execute("SELECT integers FROM noisings")}
    assert {row.tobytes() for row in np.load(store(client) / "outbox" / "release.npy")} == kept
    assert "arrays" in client.upload()


def test_the_policy_is_asked_even_when_the_run_allows_more(make_client: Make) -> None:
    """The ceiling binds in the store itself, not in the message handlers alone."""
    client = make_client("deployment", {"epsilon": 1.0})
    tasks = ClientTasks(client.config, client.node_config, 0)
    with pytest.raises(PrivacyError, match="above the epsilon = 1 of"):
        tasks._release(client.agreement)
