"""The ClientApp called directly, as a simulated client and as a real site: what it does and what it tells."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

import client_app.app
import fedpdiff.data.client
from fedpdiff.config import RunConfig
from fedpdiff.data.client import load_client
from fedpdiff.data.public import load_public
from fedpdiff.federation.agreement import propose
from fedpdiff.federation.client import ClientTasks
from fedpdiff.federation.protocol import (
    Instruction,
    Refusal,
    ReleaseInstruction,
)
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.records import pack

DIGITS = [str(digit) for digit in range(10)]
PRIVATE = "a private detail"


def refusal(content: RecordDict) -> Refusal:
    assert set(content) == {"refusal"}
    return Refusal.model_validate(dict(content["refusal"]))


def test_handlers_are_short() -> None:
    tree = ast.parse(Path(client_app.app.__file__).read_text())
    handlers = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert {handler.name for handler in handlers if not handler.name.startswith("_")} == {
        *("release", "upload", "personalize", "join", "train_round", "sample")
    }
    for handler in handlers:
        assert handler.end_lineno - handler.lineno + 1 < 20, handler.name


def test_a_release_is_made_once(client: Any) -> None:
    first = client.release()
    uploads = [client.upload(), client.upload()]
    again = client.release()
    uploads.append(client.upload())
    assert dict(first["message"]) == dict(again["message"])
    for name in ("codes", "labels"):
        assert len({upload["arrays"][name].data for upload in uploads}) == 1
    assert len({tuple(sorted(upload["message"].items())) for upload in uploads}) == 1
    stored = sorted(path.name for path in (client.folder / "state" / "release").iterdir())
    real = (client.folder / "witness.json").exists()  # a simulated client's ledger has no witness
    own = ["ledger.sqlite", "lock", "outbox", "outbox-hashed.json", "secret"]
    assert stored == own + (["witness-path"] if real else [])
    assert real == ("state-dir" in client.node)


def test_a_restarted_client_sends_the_same_bytes(client: Any) -> None:
    client.release()
    before = client.upload()["arrays"]["codes"].data
    again = type(client)(client._ask, client.run, client.node)
    again.release()
    assert again.upload()["arrays"]["codes"].data == before


def test_the_server_accepts_an_honest_upload(client: Any) -> None:
    spool = client.spool({"release": client.release(), "upload": client.upload()})
    assert spool.manifest.class_counts == client.data.train.counts(10)
    assert spool.read()[1].tolist() != client.data.train.labels.tolist()  # shuffled


@pytest.mark.parametrize("action", ["release", "upload", "personalize", "sample"])
def test_other_code_is_refused(
    action: str, make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client("deployment")
    client.release()
    monkeypatch.setattr(type(client), "_code", lambda self: {"fingerprint": "0" * 64})
    declined = refusal(getattr(client, action)())
    assert declined.kind == "MessageError"
    assert "other code" in declined.message


def test_nothing_is_done_before_a_release(client: Any) -> None:
    for content in (client.upload(), client.personalize(), client.sample()):
        assert "no release was agreed" in refusal(content).message


def test_a_shard_that_is_not_there_is_refused(client: Any) -> None:
    client.release()
    assert "shard 1" in refusal(client.upload(1)).message


def test_a_tampered_request_releases_nothing(client: Any) -> None:
    assert "above epsilon" in refusal(client.release(t0=10, alpha_bar=_alpha_bar(client, 10))).message
    assert "noise" in refusal(client.release(noise="seeded")).message
    assert not (client.folder / "state" / "release" / "outbox").exists()


def _alpha_bar(client: Any, t0: int) -> float:
    from fedpdiff.schedule import NoiseSchedule

    return float(NoiseSchedule(client.config.schedule, client.config.diffusion_steps).alpha_bar[t0])


def test_a_simulated_client_releases_what_its_run_asks_for_once(make_client: Callable[..., Any]) -> None:
    client = make_client("simulation")
    client.release()
    before = client.upload()["arrays"]["codes"].data
    assert "above the epsilon" in refusal(client.release(t0=999, alpha_bar=_alpha_bar(client, 999))).message
    client.release()
    assert client.upload()["arrays"]["codes"].data == before


def test_seeded_noise_only_in_simulation(make_client: Callable[..., Any]) -> None:
    seeded = make_client("simulation", **{"release-noise": "seeded"})
    seeded.release()
    assert "NOT PRIVATE" in (seeded.folder / "state/release/outbox/manifest.json").read_text()
    real = make_client("deployment", **{"release-noise": "seeded"})
    assert "real site never releases seeded noise" in refusal(real.release()).message


@pytest.mark.parametrize(
    "extra", [{"images": np.zeros(3, np.uint8)}, {"centre": np.zeros((1, 8, 8), np.int64)}]
)
def test_other_arrays_with_a_request_are_refused(extra: dict[str, np.ndarray], client: Any) -> None:
    fields = client.agreement.mechanism.model_dump() | client._code() | {"class_names": DIGITS}
    arrays = {"centre": client.agreement.centre} | extra
    content = pack(ReleaseInstruction.model_validate(fields), arrays)
    assert "public centre" in refusal(client.ask(content, "train.release")).message


def test_weights_that_do_not_fit_are_refused(make_client: Callable[..., Any]) -> None:
    client = make_client("simulation")
    client.release()
    client.personalize()
    weights = {"global/conv_in.weight": np.zeros(3, np.float32)}
    content = pack(Instruction(fingerprint=code_fingerprint()), weights)
    assert "do not fit" in refusal(client.ask(content, "evaluate.sample")).message


def test_errors_about_data_are_not_told_by_a_real_site(
    make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fedpdiff.data.client, "load_client", load_client)
    simulated, real = make_client("simulation"), make_client("deployment")
    changes = {"class_names": ["cat", "dog"]}
    assert "cat, dog" in refusal(simulated.release(**changes)).message
    declined = refusal(real.release(**changes))
    assert (declined.kind, declined.message) == (
        "DataError",
        "the site declined; its own log says why",
    )
    (Path(real.node["data-path"]) / "7" / f"{PRIVATE}.png").write_bytes(b"no image")
    assert PRIVATE not in str(dict(real.release()["refusal"]))


def test_unexpected_errors_are_told_without_content(
    make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ClientTasks) -> None:
        raise ValueError(PRIVATE)

    simulated, real = make_client("simulation"), make_client("deployment")
    monkeypatch.setattr(ClientTasks, "personalize", fail)
    assert refusal(simulated.personalize()).message == f"ValueError: {PRIVATE}"
    declined = refusal(real.personalize())
    assert declined.kind == "UnexpectedError"
    assert declined.message == "ValueError; this site's log says more"


def test_wrong_settings_are_told(ask: Any, settings: Any) -> None:
    content = pack(Instruction(fingerprint=code_fingerprint()))
    unknown = settings() | {"colour": "red"}
    declined = refusal(ask(content, "train.personalize", unknown, {"partition-id": 0, "num-partitions": 2}))
    assert (declined.kind, "colour" in declined.message) == ("ConfigError", True)
    declined = refusal(ask(content, "train.personalize", settings(), {"data-path": "/data"}))
    assert (declined.kind, "state-dir" in declined.message) == ("ConfigError", True)


def test_another_number_of_clients_is_refused(ask: Any, settings: Any) -> None:
    run = settings(**{"clip-rule": "fixed", "centre": "none"})
    agreement = propose(RunConfig.parse(run), load_public(RunConfig.parse(run)))
    fields = agreement.mechanism.model_dump() | {"fingerprint": code_fingerprint(), "class_names": DIGITS}
    content = pack(ReleaseInstruction.model_validate(fields), {"centre": agreement.centre})
    declined = refusal(ask(content, "train.release", run, {"partition-id": 2, "num-partitions": 3}))
    assert "num-supernodes=2" in declined.message
