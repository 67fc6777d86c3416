"""Sealed mode: the private side works offline, the network side serves the outbox and has nothing private."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from fedpdiff.cli import main
from fedpdiff.diffusion.denoiser import Denoiser, to_arrays
from fedpdiff.errors import FedpdiffError
from fedpdiff.federation.private_side import PrivateSide
from fedpdiff.federation.protocol import PhaseReport, Refusal, ReleaseManifest, ShardManifest
from fedpdiff.federation.run_request import RunRequest
from fedpdiff.privacy.ledger_report import find_store
from fedpdiff.privacy.ledger_settling import settle_nothing_lost
from fedpdiff.privacy.verify import verify_release

Make = Callable[..., Any]


class Site:
    """A sealed site beside an open client: the same data, policy, settings and ledger."""

    def __init__(self, client: Any, root: Path) -> None:
        self.client = client
        self.data, self.policy = Path(client.node["data-path"]), Path(client.node["policy"])
        self.state, self.outbox, self.inbox = root / "private", root / "outbox", root / "inbox"
        self.request = root / "request.json"
        RunRequest.make(client.config).save(self.request)
        self.node = {"outbox": str(self.outbox), "inbox": str(self.inbox), "site-name": "north"}

    def private(self, **changes: Any) -> PrivateSide:
        options = {"data": self.data, "policy": self.policy, "site": "north", "request": self.request}
        return PrivateSide.open(self.state, **(options | changes))

    def network(self, **changes: Any) -> Any:
        """Return the network side as a server sees it; ``changes`` are to the server's run settings."""
        network = object.__new__(type(self.client))
        network.__dict__.update(self.client.__dict__)
        network.node = self.node
        if changes:
            other = type(self.client)(self.client._ask, self.client.run | changes, self.client.node)
            network.run, network.config, network.agreement = other.run, other.config, other.agreement
        return network


@pytest.fixture
def site(make_client: Make, tmp_path: Path) -> Site:
    return Site(make_client("deployment", **{"personal-steps": 4}), tmp_path / "sealed")


def refusal(content: RecordDict) -> str:
    assert set(content) == {"refusal"}
    return Refusal.model_validate(dict(content["refusal"])).message


def test_the_same_scores_as_an_open_client(site: Site) -> None:
    """On the same release files, global half and seeds; the network side runs without data and ledger."""
    opened = site.client.all_actions()
    shutil.copytree(site.client.folder / "state" / "release", site.state / "state" / "release")
    settle_nothing_lost(find_store(site.state))  # a copied ledger is in doubt
    site.private().release(site.outbox)
    site.private().personalize()
    hidden = [(path, path.with_name(path.name + "-hidden")) for path in (site.data, site.state, site.policy)]
    for path, elsewhere in hidden:
        path.rename(elsewhere)
    sent = site.network().all_actions()
    for path, elsewhere in hidden:
        elsewhere.rename(path)
    assert sent["upload"]["arrays"]["codes"].data == opened["upload"]["arrays"]["codes"].data
    assert dict(sent["release"]["message"]) == dict(opened["release"]["message"])
    scores = site.private().evaluate(site.inbox)
    assert scores and scores == json.loads((site.client.folder / "scores.json").read_text())
    for name in ("local", "pfdm", "global"):
        ours, theirs = (np.load(f / "samples" / f"{name}.npz") for f in (site.state, site.client.folder))
        assert np.array_equal(ours["images"], theirs["images"])
    _nothing_private(site, sent)


def _nothing_private(site: Site, sent: dict[str, RecordDict]) -> None:
    """Inspect every outgoing record of a network side."""
    models = {
        "release": ReleaseManifest,
        "upload": ShardManifest,
        "personalize": PhaseReport,
        "sample": PhaseReport,
    }
    for action, model in models.items():
        assert set(sent[action]) == {"message"} | ({"arrays"} if action == "upload" else set())
        model.model_validate(dict(sent[action]["message"]))
    assert set(sent["upload"]["arrays"]) == {"codes", "labels"}
    personal = to_arrays(Denoiser.from_pretrained(site.state / "state" / "personal").network)
    pictures = site.client.data.train.images.numpy()
    carried = b"".join(array.data for array in sent["upload"]["arrays"].values()) + repr(sent).encode()
    for secret in (*pictures, *(weights for weights in personal.values() if weights.size >= 8)):
        assert secret.tobytes() not in carried
    in_reach = b"".join(path.read_bytes() for path in site.outbox.iterdir())
    assert not any(picture.tobytes() in in_reach for picture in pictures)
    assert (site.state / "state" / "release" / "secret").read_bytes() not in in_reach


def test_what_the_network_side_refuses(site: Site) -> None:
    assert "outbox holds no release" in refusal(site.network().release())
    site.private().release(site.outbox)
    assert "no release was agreed on" in refusal(site.network().upload())
    assert "message" in site.network().release() and "arrays" in site.network().upload()
    other = refusal(site.network(epsilon=20.0).release())
    assert "holds another release than asked for (t0 is " in other and "fedpdiff release" in other
    assert "fit = pad" in refusal(site.network(fit="pad").release())
    assert "its classes are 0, 1" in refusal(site.network().release(class_names=list("0987654321")))
    labels = site.outbox / "labels.npy"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x01")
    assert "not in order" in refusal(site.network().release())
    assert "damaged" in refusal(site.network().upload())
    site.private().release(site.outbox)
    assert verify_release(site.outbox) == [] and "arrays" in site.network().upload()


def test_nothing_is_sent_once_the_outbox_holds_another_release(site: Site, make_client: Make) -> None:
    site.private().release(site.outbox)
    site.network().release()
    RunRequest.make(site.network(epsilon=20.0).config).save(site.request)
    site.private().release(site.outbox)
    assert "holds another release" in refusal(site.network().upload())


def test_the_policy_binds_the_private_side(site: Site, site_policy: Make) -> None:
    site_policy("north", epsilon=1.0)
    with pytest.raises(FedpdiffError, match="above the epsilon = 1 of this site's policy"):
        site.private().release(site.outbox)
    assert not site.outbox.exists()
    for inside in (site.state / "outbox", site.data / "outbox"):
        with pytest.raises(FedpdiffError, match="is inside the private folder"):
            site.private().release(inside)
    with pytest.raises(FedpdiffError, match="holds the private folder"):
        site.private().release(site.state.parent)


def test_personal_training_goes_on_where_it_was_cut_off(site: Site) -> None:
    site.private().release(site.outbox)
    done: list[int] = []

    def cut_off(event: dict[str, Any]) -> None:
        if event["state"] == "progress":
            done.append(event["done"])
            if event["done"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.private(listener=cut_off).personalize()
    assert done == [1, 2, 3]
    done.clear()
    site.private(
        listener=lambda event: done.append(event["done"]) if event["state"] == "progress" else None
    ).personalize()
    assert done == [3, 4]  # the last checkpoint was of step 2
    whole = Site(site.client, site.state.parent / "whole")
    shutil.copytree(site.state / "state" / "release", whole.state / "state" / "release")
    whole.private().release(whole.outbox)
    whole.private().personalize()
    ours, theirs = (
        to_arrays(Denoiser.from_pretrained(s.state / "state" / "personal").network) for s in (site, whole)
    )
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


DAMAGES: list[tuple[Callable[[str], str], str]] = [
    (lambda text: text[: len(text) // 2], "is no request, or damaged"),
    (
        lambda text: text.replace('"mechanism": {\n    "t0"', '"mechanism": {\n    "t1"'),
        "is no request, or damaged",
    ),
    (lambda text: text.replace('"noise": "secure"', '"noise": "seeded"'), "never releases seeded noise"),
    (lambda text: text.replace('"clip": 10.0,\n    "delta"', '"clip": 1.0,\n    "delta"'), "asks for clip"),
    (lambda text: text.replace('"epsilon": 50.0', '"epsilon": 5.0'), "above epsilon = 5.0 of the settings"),
    (lambda text: text.replace('"centre": "A', '"centre": "*'), "is no request, or damaged"),
]


def test_a_damaged_or_dishonest_request_is_refused(site: Site) -> None:
    text = site.request.read_text()
    for change, message in DAMAGES:
        assert change(text) != text, message
        site.request.write_text(change(text))
        with pytest.raises(FedpdiffError, match=message):
            site.private()
    assert not site.state.exists()


@pytest.mark.usefixtures("no_report")
def test_a_run_with_an_open_and_a_sealed_site(site: Site, fake_grid: Any) -> None:
    """The server does not see a difference but in what is trained during the run."""
    site.private().release(site.outbox)
    nodes = {1: site.client.node | {"site-name": "open"}, 2: site.node}
    run = site.client.run | {"centralised": False, "oracle": False}
    results = fake_grid(run, nodes).run_app()
    assert results.participants == ["north", "open"] and results.refused == []
    half = Denoiser.from_pretrained(Path(run["run-dir"]) / "server" / "global")
    arrived = to_arrays(Denoiser.from_pretrained(site.inbox / "global"))
    assert all(np.array_equal(arrived[name], weights) for name, weights in to_arrays(half).items())
    site.private().personalize()
    assert site.private().evaluate(site.inbox)


def test_on_the_command_line(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--state", str(site.state)]
    assert main(["personalize", *options]) == 2
    assert "give --data, --policy, --site, --request as well" in capsys.readouterr().err
    once = ["--data", str(site.data), "--policy", str(site.policy), "--site", "north"]
    release = ["release", *options, *once, "--request", str(site.request), "--outbox", str(site.outbox)]
    assert main(release) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("One noisy copy of each of 84 images.")
    assert "for one image is above 20" in printed
    assert main(["personalize", *options]) == 0
    assert main(["evaluate", *options, "--inbox", str(site.inbox)]) == 2
    assert "holds no global half yet" in capsys.readouterr().err
    site.network().release()
    site.network().sample()
    assert main(["evaluate", *options, "--inbox", str(site.inbox)]) == 0
    assert "majority/pfdm/precision" in capsys.readouterr().out
    halves = ["--global", str(site.inbox / "global"), "--personal", str(site.state / "state" / "personal")]
    wanted = ["-n", "7", "--steps", "2", "--classes", "3,5", "--seed", "1", "--device", "cpu"]
    for name in ("one", "two"):
        assert main(["sample", *halves, *wanted, "--out", str(tmp_path / name)]) == 0
    one, two = (np.load(tmp_path / name / "samples.npz") for name in ("one", "two"))
    assert one["images"].shape == (7, 1, 8, 8) and one["labels"].tolist() == [3, 3, 3, 3, 5, 5, 5]
    assert np.array_equal(one["images"], two["images"])
    assert (tmp_path / "one" / "samples.png").stat().st_size > 100
    assert main(["sample", *halves, "--classes", "eleven", "--out", str(tmp_path / "x")]) == 2
    assert "--classes eleven: must be of 0, 1" in capsys.readouterr().err
    assert os.stat(site.state).st_mode & 0o077 == 0


def test_the_coordinator_writes_the_request(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "request.json"
    changes = ["--set", "clip-rule=fixed", "--set", "epsilon=50"]
    assert main(["request", *changes, "--out", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "for one image, its pixels replaced" in printed
    assert "Warning: epsilon 49." in printed
    request = RunRequest.load(path)
    assert request.class_names == tuple("0123456789") == request.config.class_names
    assert str(tmp_path) not in path.read_text()
    assert main(["request", "--set", "release-noise=seeded", "--out", str(path)]) == 2
    assert "never releases seeded noise" in capsys.readouterr().err
