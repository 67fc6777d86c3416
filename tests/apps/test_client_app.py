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
import fedpdiff.federation.client
from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.data.client import load_client
from fedpdiff.data.public import load_public
from fedpdiff.diffusion.denoiser import Denoiser, network_arrays
from fedpdiff.federation.agreement import propose
from fedpdiff.federation.client import ClientTasks
from fedpdiff.federation.networks import Trainer
from fedpdiff.federation.protocol import (
    Instruction,
    PhaseReport,
    Refusal,
    ReleaseInstruction,
    ReleaseManifest,
    ShardInstruction,
    ShardManifest,
)
from fedpdiff.federation.spool import Spool, check_manifest
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.metrics.feature_training import train_feature_network
from fedpdiff.privacy.wire import decode
from fedpdiff.records import pack, unpack
from fedpdiff.runfolder import RunFolder

DIGITS = [str(digit) for digit in range(10)]
PRIVATE = "a private detail"


class Client:
    """One client, and a server's instructions to it."""

    def __init__(self, ask: Callable[..., RecordDict], run: dict[str, Any], node: dict[str, Any]) -> None:
        self._ask = ask
        self.run, self.node = run, node
        self.config, self.node_config = RunConfig.parse(run), NodeConfig.parse(node)
        self.agreement = propose(self.config, load_public(self.config))
        self.data = load_client(self.config, self.node_config)

    def release(self, **changes: Any) -> RecordDict:
        fields = self.agreement.mechanism.model_dump() | self._code() | {"class_names": DIGITS} | changes
        content = pack(ReleaseInstruction.model_validate(fields), {"centre": self.agreement.centre})
        return self.ask(content, "train.release")

    def upload(self, shard: int = 0) -> RecordDict:
        return self.ask(pack(ShardInstruction(shard=shard, **self._code())), "train.upload")

    def personalize(self) -> RecordDict:
        return self.ask(pack(Instruction(**self._code())), "train.personalize")

    def sample(self) -> RecordDict:
        return self.ask(pack(Instruction(**self._code()), self.weights()), "evaluate.sample")

    def weights(self) -> dict[str, np.ndarray]:
        """Return an untrained global half and a feature network."""
        trainer = Trainer(self.config, self.agreement.mechanism, self.agreement.centre, tuple(DIGITS))
        half = network_arrays(trainer.empty_global_half().network)
        features = train_feature_network(self.data.test, 10, 1).to_arrays()
        weights = {f"global/{name}": array for name, array in half.items()}
        return weights | {f"features/{name}": array for name, array in features.items()}

    def all_actions(self) -> dict[str, RecordDict]:
        sent = {"release": self.release(), "upload": self.upload()}
        if self.node_config.simulated:
            self.spool(sent)
        return sent | {"personalize": self.personalize(), "sample": self.sample()}

    def spool(self, sent: dict[str, RecordDict]) -> Spool:
        """Do what the server does with a release and its one shard."""
        manifest, _, _ = unpack(sent["release"], ReleaseManifest)
        check_manifest(manifest, self.agreement.mechanism, tuple(DIGITS), code_fingerprint())
        spool = Spool(RunFolder.of(self.config, 0).spool(manifest.site), manifest)
        spool.create()
        spool.accept(*unpack(sent["upload"], ShardManifest, arrays=True)[:2])
        spool.finish()
        return spool

    def ask(self, content: RecordDict, message_type: str) -> RecordDict:
        return self._ask(content, message_type, self.run, self.node)

    def _code(self) -> dict[str, str]:
        return {"fingerprint": code_fingerprint()}

    @property
    def folder(self) -> Path:
        return Path(self.node.get("state-dir") or f"{self.run['run-dir']}/client-{self.node['partition-id']}")


@pytest.fixture
def make_client(ask: Any, settings: Any, site_folder: Any, tmp_path: Path) -> Callable[..., Client]:
    def make(where: str, **changes: Any) -> Client:
        run = settings(**{"clip-rule": "fixed", "centre": "none", "epsilon": 50.0} | changes)
        node: dict[str, Any] = {"partition-id": 1, "num-partitions": 2}
        if where == "deployment":
            path = site_folder("north", range(10), 12)
            node = {"data-path": path, "state-dir": str(tmp_path / "state"), "site-name": "north"}
        return Client(ask, run, node)

    return make


@pytest.fixture(params=["simulation", "deployment"])
def client(request: pytest.FixtureRequest, make_client: Callable[..., Client]) -> Client:
    return make_client(request.param)


def refusal(content: RecordDict) -> Refusal:
    assert set(content) == {"refusal"}
    return Refusal.model_validate(dict(content["refusal"]))


def test_handlers_are_short() -> None:
    tree = ast.parse(Path(client_app.app.__file__).read_text())
    handlers = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert {handler.name for handler in handlers} == {"release", "upload", "personalize", "sample"}
    for handler in handlers:
        assert handler.end_lineno - handler.lineno + 1 < 20, handler.name


def test_everything_that_leaves_a_client(client: Client) -> None:
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
        assert all(len(str(value)) <= 64 for value in fields.values())
    assert set(sent["upload"]["arrays"]) == {"codes", "labels"}
    assert sent["release"]["message"]["site"] == ("client-1" if simulated else "north")
    assert ("number" in sent["release"]["message"]) == simulated
    _no_array_holds_an_image(client, sent)
    _no_array_holds_personal_weights(client, sent)


def _arrays(sent: dict[str, RecordDict]) -> list[np.ndarray]:
    return [
        array.numpy()
        for content in sent.values()
        for array in content.array_records.get("arrays", {}).values()
    ]


def _no_array_holds_an_image(client: Client, sent: dict[str, RecordDict]) -> None:
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


def _no_array_holds_personal_weights(client: Client, sent: dict[str, RecordDict]) -> None:
    personal = network_arrays(Denoiser.from_pretrained(client.folder / "state" / "personal", "cpu").network)
    assert personal
    names = {
        name for content in sent.values() for record in content.array_records.values() for name in record
    }
    assert not names & set(personal)
    arrays = [array.tobytes() for array in _arrays(sent)]
    for weights in personal.values():
        if weights.size >= 8:
            assert not any(weights.tobytes() in array for array in arrays)


def test_metrics_of_a_simulated_client_are_scores_of_groups(make_client: Callable[..., Client]) -> None:
    client = make_client("simulation")
    metrics = client.all_actions()["sample"]["metrics"]
    assert {key.split("/")[0] for key in metrics} == {"majority", "minority"}
    assert {key.split("/")[1] for key in metrics} == {"local", "pfdm", "oracle"}
    assert {key.split("/")[2] for key in metrics} <= {"frechet", "precision", "recall", "accuracy"}
    assert (client.folder / "scores.json").is_file()


def test_what_stays_on_a_real_site(make_client: Callable[..., Client]) -> None:
    client = make_client("deployment")
    client.all_actions()
    kept = {path.name for path in client.folder.glob("samples/*")}
    assert kept == {"real.npz", "local.npz", "pfdm.npz", "global.npz"}
    assert (client.folder / "scores.json").read_text() != "{}\n"
    assert not Path(client.run["run-dir"]).exists()
    assert (client.folder / "state" / "release").stat().st_mode & 0o077 == 0


def test_a_release_is_made_once(client: Client) -> None:
    first = client.release()
    uploads = [client.upload(), client.upload()]
    again = client.release()
    uploads.append(client.upload())
    assert dict(first["message"]) == dict(again["message"])
    for name in ("codes", "labels"):
        assert len({upload["arrays"][name].data for upload in uploads}) == 1
    assert len({tuple(sorted(upload["message"].items())) for upload in uploads}) == 1
    stored = sorted(path.name for path in (client.folder / "state" / "release").iterdir())
    assert stored == ["lock", "release", "secret"]


def test_a_restarted_client_sends_the_same_bytes(client: Client) -> None:
    client.release()
    before = client.upload()["arrays"]["codes"].data
    again = Client(client._ask, client.run, client.node)
    again.release()
    assert again.upload()["arrays"]["codes"].data == before


def test_the_server_accepts_an_honest_upload(client: Client) -> None:
    spool = client.spool({"release": client.release(), "upload": client.upload()})
    assert spool.manifest.class_counts == client.data.train.counts(10)
    assert spool.read()[1].tolist() != client.data.train.labels.tolist()  # shuffled


@pytest.mark.parametrize("action", ["release", "upload", "personalize", "sample"])
def test_other_code_is_refused(
    action: str, make_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client("deployment")
    client.release()
    monkeypatch.setattr(Client, "_code", lambda self: {"fingerprint": "0" * 64})
    declined = refusal(getattr(client, action)())
    assert declined.kind == "MessageError"
    assert "other code" in declined.message


def test_nothing_is_done_before_a_release(client: Client) -> None:
    for content in (client.upload(), client.personalize(), client.sample()):
        assert "no release was agreed" in refusal(content).message


def test_a_shard_that_is_not_there_is_refused(client: Client) -> None:
    client.release()
    assert "shard 1" in refusal(client.upload(1)).message


def test_a_tampered_request_releases_nothing(client: Client) -> None:
    assert "above epsilon" in refusal(client.release(t0=10, alpha_bar=_alpha_bar(client, 10))).message
    assert "noise" in refusal(client.release(noise="seeded")).message
    assert not (client.folder / "state" / "release" / "release").exists()


def _alpha_bar(client: Client, t0: int) -> float:
    from fedpdiff.diffusion.schedule import NoiseSchedule

    return float(NoiseSchedule(client.config.schedule, client.config.diffusion_steps).alpha_bar[t0])


def test_a_second_release_is_refused(client: Client) -> None:
    client.release()
    before = client.upload()["arrays"]["codes"].data
    safer = refusal(client.release(t0=999, alpha_bar=_alpha_bar(client, 999)))
    assert safer.kind == "PrivacyError"
    assert "second release" in safer.message
    assert client.upload()["arrays"]["codes"].data == before


def test_seeded_noise_only_in_simulation(make_client: Callable[..., Client]) -> None:
    seeded = make_client("simulation", **{"release-noise": "seeded"})
    seeded.release()
    assert "NOT PRIVATE" in (seeded.folder / "state/release/release/manifest.json").read_text()
    real = make_client("deployment", **{"release-noise": "seeded"})
    assert "real site never releases seeded noise" in refusal(real.release()).message


@pytest.mark.parametrize(
    "extra", [{"images": np.zeros(3, np.uint8)}, {"centre": np.zeros((1, 8, 8), np.int64)}]
)
def test_other_arrays_with_a_request_are_refused(extra: dict[str, np.ndarray], client: Client) -> None:
    fields = client.agreement.mechanism.model_dump() | client._code() | {"class_names": DIGITS}
    arrays = {"centre": client.agreement.centre} | extra
    content = pack(ReleaseInstruction.model_validate(fields), arrays)
    assert "public centre" in refusal(client.ask(content, "train.release")).message


def test_weights_that_do_not_fit_are_refused(make_client: Callable[..., Client]) -> None:
    client = make_client("simulation")
    client.release()
    client.personalize()
    weights = {"global/conv_in.weight": np.zeros(3, np.float32)}
    content = pack(Instruction(fingerprint=code_fingerprint()), weights)
    assert "do not fit" in refusal(client.ask(content, "evaluate.sample")).message


def test_errors_about_data_are_not_told_by_a_real_site(
    make_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fedpdiff.federation.client, "load_client", load_client)
    simulated, real = make_client("simulation"), make_client("deployment")
    changes = {"class_names": ["cat", "dog"]}
    assert "cat, dog" in refusal(simulated.release(**changes)).message
    declined = refusal(real.release(**changes))
    assert (declined.kind, declined.message) == (
        "DataError",
        "the site's data cannot be used; its log says why",
    )
    (Path(real.node["data-path"]) / "7" / f"{PRIVATE}.png").write_bytes(b"no image")
    assert PRIVATE not in str(dict(real.release()["refusal"]))


def test_unexpected_errors_are_told_without_content(
    make_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
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
