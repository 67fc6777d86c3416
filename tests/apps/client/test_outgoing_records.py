"""Every record that leaves a client, inspected: no image, no personal weight, no score of a real site."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict

from fedpdiff.diffusion.denoiser import Denoiser, to_arrays
from fedpdiff.federation.protocol import (
    PhaseReport,
    ReleaseManifest,
    ShardManifest,
)
from fedpdiff.privacy.wire import decode
from fedpdiff.results import GroupScores

DIGITS = [str(digit) for digit in range(10)]
PRIVATE = "a private detail"


def test_everything_that_leaves_a_client(client: Any) -> None:
    """Every outgoing record by name, and none with images, personal weights or, on a real site, scores."""
    simulated = client.node_config.simulated
    sent = client.all_actions()
    expected = {
        "release": ({"message"}, ReleaseManifest),
        "upload": ({"message", "arrays"}, ShardManifest),
        "personalize": ({"message"}, PhaseReport),
        "sample": ({"message", "metrics"} if simulated else {"message"}, PhaseReport),
    }
    for action, (records, model) in expected.items():
        assert set(sent[action]) == records, action
        fields = dict(sent[action]["message"])
        model.model_validate(fields)
        assert set(fields) <= set(model.model_fields)
        assert not any(isinstance(value, bytes) for value in fields.values())
        assert all(len(str(value)) <= 64 for name, value in fields.items() if name != "certificate")
    assert set(sent["upload"]["arrays"]) == {"codes", "labels"}
    assert sent["release"]["message"]["site"] == ("client-1" if simulated else "north")
    assert ("number" in sent["release"]["message"]) == simulated
    _no_array_holds_an_image(client, sent)
    _no_array_holds_personal_weights(client, sent)
    _the_certificate_tells_nothing_else(client, sent["release"]["message"]["certificate"])


def _the_certificate_tells_nothing_else(client: Any, text: str) -> None:
    """It is the one beside the release; no key or digest of an image and no path of the site is in it."""
    outbox = client.folder / "state" / "release" / "outbox"
    assert json.loads(text) == json.loads((outbox / "certificate.json").read_text())
    with sqlite3.connect(outbox.parent / "ledger.sqlite") as ledger:
        keys = [key for (key,) in ledger.execute("SELECT key FROM images")]
    secret = (outbox.parent / "secret").read_bytes()
    assert len(keys) == len(client.data.train)
    assert not any(hidden.hex() in text for hidden in (*keys, *client.data.digests, secret))
    assert str(client.folder.parent) not in text


def _arrays(sent: dict[str, RecordDict]) -> list[np.ndarray]:
    return [
        array.numpy()
        for content in sent.values()
        for array in content.array_records.get("arrays", {}).values()
    ]


def _no_array_holds_an_image(client: Any, sent: dict[str, RecordDict]) -> None:
    arrays = [array.tobytes() for array in _arrays(sent)]
    everything = repr(sent).encode()
    for images in (client.data.train, client.data.test):
        for image in images.images.numpy():
            pixels = image / np.float32(127.5) - 1
            for form in (image, pixels, pixels.astype(np.float64), image[..., ::-1], image.astype(np.int16)):
                held = np.ascontiguousarray(form).tobytes()
                assert not any(held in array for array in arrays)
                assert held not in everything
    codes = sent["upload"]["arrays"]["codes"].numpy()
    noisy = decode(codes, 8, (len(client.data.train), 1, 8, 8)).reshape(-1, 64)
    clean = client.data.train.pixels().numpy().reshape(-1, 64)
    distance = np.linalg.norm(noisy[:, None] - clean[None], axis=2)
    expected = np.sqrt(64 * (1 - client.agreement.mechanism.alpha_bar))
    assert distance.min() > 0.5 * expected


def _no_array_holds_personal_weights(client: Any, sent: dict[str, RecordDict]) -> None:
    half = Denoiser.from_pretrained(client.folder / "state" / "personal", "cpu")
    assert half.base is not None
    personal = to_arrays(half.network) | to_arrays(half.base)
    assert {"means", "rotations"} < set(personal)
    names = {
        name for content in sent.values() for record in content.array_records.values() for name in record
    }
    assert not names & set(personal)
    arrays = [array.tobytes() for array in _arrays(sent)]
    for weights in personal.values():
        if weights.size >= 8:
            assert not any(weights.tobytes() in array for array in arrays)


def test_metrics_of_a_simulated_client_are_scores_of_groups(make_client: Callable[..., Any]) -> None:
    client = make_client("simulation")
    metrics = client.all_actions()["sample"]["metrics"]
    assert {key.split("/")[0] for key in metrics} == {"majority", "minority"}
    assert {key.split("/")[1] for key in metrics} == {"local", "pfdm", "oracle", "own"}
    assert {key.split("/")[2] for key in metrics} <= set(GroupScores.model_fields)
    assert (client.folder / "scores.json").is_file()


def test_what_stays_on_a_real_site(make_client: Callable[..., Any]) -> None:
    client = make_client("deployment")
    client.all_actions()
    kept = {path.name for path in client.folder.glob("samples/*")}
    assert kept == {"local.npz", "pfdm.npz", "global.npz"}  # no copy of private images
    assert (client.folder / "scores.json").read_text() != "{}\n"
    assert not Path(client.run["run-dir"]).exists()
    assert (client.folder / "state" / "release").stat().st_mode & 0o077 == 0
