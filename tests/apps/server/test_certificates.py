"""Certificates of a whole run: kept beside the uploads, listed in the results, and verified again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message

from fedpdiff.cli import main
from fedpdiff.privacy.certificate_digests import checksum
from fedpdiff.results import Results

Settings = Callable[..., dict[str, Any]]


def forged(**changes: Any) -> Callable[[Message, Message], Message]:
    """Return a behaviour that changes the certificate, and its checksum with it."""

    def change(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train.release":
            fields = dict(reply.content["message"])
            certificate = json.loads(fields["certificate"]) | changes
            certificate["checksum"] = checksum(certificate)
            reply.content["message"] = ConfigRecord(fields | {"certificate": json.dumps(certificate)})
        return reply

    return change


def without(message: Message, reply: Message) -> Message:
    if message.metadata.message_type == "train.release":
        reply.content["message"] = ConfigRecord(dict(reply.content["message"]) | {"certificate": ""})
    return reply


def fails_in_training(message: Message, reply: Message) -> Message:
    if message.metadata.message_type == "train.personalize":
        raise OSError("the disk is full")
    return reply


@pytest.mark.usefixtures("no_report")
def test_false_certificates_are_named_and_left_out(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path, capsys: Any
) -> None:
    """Two honest clients, one that fails after its upload was pooled, and three that lie."""
    liars = {
        "client-3": (forged(epsilon=1.0), "sends a false certificate: epsilon is 1.0, but"),
        "client-4": (without, "the certificate is no JSON, or damaged"),
        "client-5": (forged(wire=dict.fromkeys("842", "0" * 64)), "sent other bytes than its certificate is"),
    }
    changes = {"partitioner": "iid", "centralised": False, "oracle": False, "min-clients": 2}
    grid = fake_grid(settings(clients=6, **changes), simulated_nodes(6))
    grid.behaviour[102] = fails_in_training
    for node, (behaviour, _) in enumerate(liars.values(), start=103):
        grid.behaviour[node] = behaviour
    results = grid.run_app()
    told = {r.site.replace("node 10", "client-"): (r.phase, r.reason) for r in results.refused}
    assert set(told) == {"client-2", *liars}
    for name, (_, reason) in liars.items():
        assert told[name][0] == "upload" and reason in told[name][1], told[name]
    run = tmp_path / "run"
    _the_rest_is_listed(results, run)
    # Of the liars and of the client that failed later, the client's own release is right all the same.
    assert main(["verify", str(run)]) == 0
    assert capsys.readouterr().out.count(": verified") == 6 + 3


def _the_rest_is_listed(results: Results, run: Path) -> None:
    assert [c.site for c in results.certificates] == ["client-0", "client-1", "client-2"]
    for stated in results.certificates:
        kept = (run / "server" / "spool" / stated.site / "certificate.json").read_text()
        own = json.loads((run / stated.site / "state/release/outbox/certificate.json").read_text())
        assert json.loads(kept) == own
        assert stated.verified
        assert (stated.images, stated.epsilon) == (own["n_images"], own["epsilon"])
        assert (stated.noisings, stated.epsilon_total) == (1, own["epsilon"])
        assert stated.epsilon == results.privacy["epsilon"]
        assert stated.sha256 == own["sha256"]
        assert stated.most_images_of_a_person is None
