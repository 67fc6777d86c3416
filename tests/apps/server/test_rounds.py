"""Every method that averages weights, as whole runs behind a grid in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from safetensors.numpy import load_file

from fedpdiff.errors import ConfigError, RunError
from fedpdiff.federation import round_server
from fedpdiff.methods import METHODS, fedavg
from fedpdiff.methods.base import RoundMethod
from fedpdiff.privacy.policy import policy_template
from fedpdiff.results import Results

Settings = Callable[..., dict[str, Any]]

FEW = {"rounds": 2, "personal_steps": 6, "auxiliary_images": 24, "server_steps": 1, "centralised": False}
AVERAGED = [name for name in METHODS if name not in ("local-only", "centralised")]
OF_EVERYBODY = [name for name in AVERAGED if name not in ("feddiffuse-ulatdec", "feddiffuse-udec")]


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Return the network for everybody that a run left."""
    (path,) = (folder / "server" / "global").rglob("diffusion_pytorch_model.safetensors")
    return load_file(path)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


# -- whole runs ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", AVERAGED)
def test_a_whole_run(
    name: str, fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    """Scores, traffic and steps of each client, what is guaranteed, and the same again for the same seed."""

    def once(folder: str) -> Results:
        more = {
            "run-dir": str(tmp_path / folder),
            "release-noise": "seeded",
        }  # noise of dpdm-fedavg, else none
        run = settings(method=name, clients=3, **FEW, **more)
        return fake_grid(run, simulated_nodes(3)).run_app()

    results, again = once("one"), once("other")
    assert results.model_dump(exclude={"seconds"}) == again.model_dump(exclude={"seconds"})
    assert (results.method, results.refused) == (name, [])
    assert results.participants == ["client-0", "client-1", "client-2"]
    assert results.client_steps == [6, 6, 6]
    for client in results.clients:
        for scores in client.groups.values():
            assert set(scores) == {name, "real", "own"}
            assert scores[name].accuracy is not None
    assert set(results.privacy) == {"epsilon", "guarantee"}
    assert ("NOT PRIVATE" in results.privacy["guarantee"]) is (name == "dpdm-fedavg")
    assert results.server_sees == METHODS[name].server_sees
    saved = list((tmp_path / "one" / "server" / "global").rglob("*.safetensors"))
    assert bool(saved) is (name in OF_EVERYBODY)


def test_a_run_has_a_report(fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path) -> None:
    fake_grid(settings(method="fedprox", **FEW), simulated_nodes(2)).run_app()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "FedProx" in page
    assert "no formal guarantee" in page
    for of_pfdm in ("oracle hand-off", "Minority gap closed", "noisy copy of each"):
        assert of_pfdm not in page
    table = (tmp_path / "run" / "results.md").read_text()
    assert "FedProx" in table.splitlines()[0]


@pytest.mark.usefixtures("no_report")
def test_what_travels(fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path) -> None:
    """Bytes up of a client, against FedAvg's: a quarter in 8 bits, and the shares of the network's parts."""

    def up(name: str) -> int:
        run = settings(method=name, **FEW, **{"run-dir": str(tmp_path / name)})
        grid = fake_grid(run, simulated_nodes(2))
        results = grid.run_app()
        sent = sum(
            sum(array.numpy().nbytes for array in content["arrays"].values())
            for content in grid.replies("train.round")
        )
        assert sent == sum(results.bytes_up)
        return sent

    sent = {name: up(name) for name in AVERAGED}
    shares = {name: count / sent["fedavg"] for name, count in sent.items()}
    assert shares["fedprox"] == 1
    assert 0.25 < shares["feddm-quant"] < 0.3
    assert shares["feddiffuse-usplit"] == pytest.approx(0.5)  # two clients: together once the network
    assert 0 < shares["feddiffuse-udec"] < shares["feddiffuse-ulatdec"] < 1
    assert shares["dpdm-fedavg"] == shares["fedphd"] == 1
    assert shares["fedddpm"] == 1.5  # and its own model before the two rounds


@pytest.mark.usefixtures("no_report")
def test_local_only_is_pfdms_local_baseline(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    """Image for image: the personal denoiser that PFDM's clients train, sampled on the whole chain."""
    samples = {}
    for method in ("pfdm", "local-only"):
        run_dir = tmp_path / method
        run = settings(method=method, personal_steps=6, centralised=False, **{"run-dir": str(run_dir)})
        grid = fake_grid(run, simulated_nodes(2))
        results = grid.run_app()
        with np.load(run_dir / "client-1" / "samples" / "local.npz") as file:
            samples[method] = file["images"]
    assert np.array_equal(samples["pfdm"], samples["local-only"])
    assert set(results.clients[0].groups["majority"]) == {"local", "real", "own"}
    assert results.bytes_up == results.bytes_down == [0, 0]
    assert not any(len(content["arrays"]) for content in grid.replies("train.round"))


@pytest.mark.usefixtures("no_report")
def test_centralised_is_pfdms_bound(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    found = {}
    for method in ("pfdm", "centralised"):
        run = settings(method=method, personal_steps=6, **{"run-dir": str(tmp_path / method)})
        results = fake_grid(run, simulated_nodes(2)).run_app()
        found[method] = results.clients[1].groups["majority"]["centralised"]
    assert found["pfdm"] == found["centralised"]
    assert set(results.clients[0].groups["majority"]) == {"centralised", "real"}
    assert (results.client_steps, results.server_steps) == ([0, 0], 6)


@pytest.mark.usefixtures("no_report")
def test_fedddpm_without_server_steps_is_fedavg(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    """With the steps that its own models leave; with server steps it is another network."""
    runs = {
        "fedavg": {"personal_steps": 3},
        "fedddpm": {"personal_steps": 6, "pretraining_share": 0.5, "server_steps": 0},
        "fedddpm+": {"personal_steps": 6, "pretraining_share": 0.5, "server_steps": 0},
        "corrected": {"personal_steps": 6, "pretraining_share": 0.5, "server_steps": 1, "method": "fedddpm"},
    }
    for name, changes in runs.items():
        run = settings(**{"method": name} | FEW | changes | {"run-dir": str(tmp_path / name)})
        results = fake_grid(run, simulated_nodes(2)).run_app()
        assert results.server_steps == 2 * (name == "corrected")
    averaged = weights(tmp_path / "fedavg")
    for name in ("fedddpm", "fedddpm+", "corrected"):
        assert equal(weights(tmp_path / name), averaged) is (name != "corrected")


@pytest.mark.usefixtures("no_report")
def test_the_plus_corrects_less_often(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 0.5, 0.49, 0.2])
    monkeypatch.setattr(round_server.RoundServer, "_loss", lambda self, weights, images: next(losses))
    run = settings(method="fedddpm+", **FEW | {"rounds": 4, "personal_steps": 8, "server_steps": 3})
    assert fake_grid(run, simulated_nodes(2)).run_app().server_steps == 3  # after the third round only


@pytest.mark.usefixtures("no_report")
def test_fedphd_without_a_choice_is_fedavg(
    fake_grid: Any,
    settings: Settings,
    simulated_nodes: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One edge server: bit for bit. Several that meet in every round, by their images: but for rounding.

    With plain SGD, which does not make rounding larger, as Adam does where a gradient is 0 but for rounding.
    """
    sgd = staticmethod(lambda parameters, rate: torch.optim.SGD(parameters, lr=rate))
    monkeypatch.setattr(RoundMethod, "make_optimizer", sgd)
    runs: dict[str, dict[str, Any]] = {
        "fedavg": {"method": "fedavg"},
        "one": {"edge_servers": 1},
        "each": {"edge_rounds": 1, "homogeneity_weight": 0.0},
        "published": {},
    }
    few = {"clients": 3, "method": "fedphd"} | FEW | {"rounds": 6, "personal_steps": 12, "learning_rate": 0.1}
    between, networks = {}, {}
    for name, changes in runs.items():
        run = settings(**few | changes, **{"run-dir": str(tmp_path / name)})
        between[name] = fake_grid(run, simulated_nodes(3)).run_app().bytes_between_servers
        networks[name] = weights(tmp_path / name)
    averaged = networks["fedavg"]
    assert equal(networks["one"], averaged)
    away = {
        name: max(float(np.abs(network[key] - averaged[key]).max()) for key in averaged)
        for name, network in networks.items()
    }
    assert away["each"] < 0.01 * away["published"]
    once = 2 * 2 * sum(array.nbytes for array in averaged.values())  # two servers, there and back
    # after every round; or after the first and after the sixth, which is the last
    assert between == {"fedavg": 0, "one": 0, "each": 6 * once, "published": 2 * once}


def test_only_a_simulation_can_be_centralised(
    fake_grid: Any, settings: Settings, site_folder: Any, site_policy: Any, tmp_path: Path
) -> None:
    nodes = _sites(site_folder, site_policy, tmp_path, methods=["centralised"])
    with pytest.raises(RunError, match="only a simulation"):
        fake_grid(settings(method="centralised"), nodes).run_app()
    with pytest.raises(ConfigError, match="centralised = false"):
        fake_grid(settings() | {"method": "centralised", "centralised": False}, nodes).run_app()


# -- real sites ----------------------------------------------------------------------------------------------


def _sites(
    site_folder: Any, site_policy: Any, tmp_path: Path, methods: list[str]
) -> dict[int, dict[str, Any]]:
    return {
        node: {
            "data-path": site_folder(name, range(10), 8),
            "state-dir": str(tmp_path / f"state-{name}"),
            "policy": site_policy(name, methods=methods),
            "site-name": name,
        }
        for node, name in enumerate(("north", "south"), start=11)
    }


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", ["fedavg", "feddiffuse-udec", "fedphd"])
def test_real_sites_take_part_where_their_policies_allow(
    name: str, fake_grid: Any, settings: Settings, site_folder: Any, site_policy: Any, tmp_path: Path
) -> None:
    """Weights leave, scores do not; the site's own parts stay in its folder."""
    grid = fake_grid(settings(method=name, **FEW), _sites(site_folder, site_policy, tmp_path, ["pfdm", name]))
    results = grid.run_app()
    assert results.participants == ["north", "south"]
    assert [client.groups for client in results.clients] == [{}, {}]
    assert not any(content.metric_records for _, _, content in grid.sent)
    assert (tmp_path / "state-north" / "scores.json").is_file()
    down = [name for reply in grid.replies("train.round") for name in reply["arrays"] if "down" in name]
    assert bool(down) is (name != "feddiffuse-udec")


def test_without_its_policys_word_nothing_is_trained(
    fake_grid: Any, settings: Settings, site_folder: Any, site_policy: Any, tmp_path: Path
) -> None:
    """The policy as it is made allows PFDM alone; a sealed site never trains at a request."""
    assert 'methods = ["pfdm"]' in policy_template(100)
    grid = fake_grid(settings(method="fedavg"), _sites(site_folder, site_policy, tmp_path, ["pfdm"]))
    with pytest.raises(RunError, match=r'method = "fedavg" is not among the methods of this site\'s policy'):
        grid.run_app()
    assert {kind for _, kind, _ in grid.sent} == {"query.join"}
    sealed = {node: {"outbox": "/out", "inbox": "/in", "site-name": f"s{node}"} for node in (1, 2)}
    with pytest.raises(RunError, match="a sealed site never"):
        fake_grid(settings(method="fedavg"), sealed).run_app()


# -- clients that fail, lie or are asked twice ---------------------------------------------------------------


def _changed(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Message, Message], Message]:
    def behave(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train.round":
            arrays = {name: array.numpy().copy() for name, array in reply.content["arrays"].items()}
            change(arrays)
            reply.content["arrays"] = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        return reply

    return behave


def _field(kind: str, **fields: Any) -> Callable[[Message, Message], Message]:
    def behave(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kind:
            reply.content["message"] = ConfigRecord(dict(reply.content["message"]) | fields)
        return reply

    return behave


def _fails(message: Message, reply: Message) -> Message:
    if message.metadata.message_type == "train.round":
        raise OSError("the disk is full")
    return reply


SPOILERS: dict[str, tuple[Callable[[Message, Message], Message], str]] = {
    "not a number": (_changed(lambda a: a["conv_in.bias"].fill(np.nan)), "not finite"),
    "another shape": (_changed(lambda a: a.update({"conv_in.bias": np.zeros(3, np.float32)})), "shape"),
    "one weight too few": (_changed(lambda a: a.pop("conv_in.bias")), "missing"),
    "one weight too many": (_changed(lambda a: a.update(x=np.zeros(1, np.float32))), "not expected"),
    "another round": (_field("train.round", round=0), "not 0"),
    "as somebody else": (_field("train.round", site="client-0"), "reports as"),
    "no image": (_field("query.join", class_counts=[0] * 10), "class_counts"),
    "other code": (_field("query.join", fingerprint="0" * 64), "other code"),
    "fails": (_fails, "the disk is full"),
}


@pytest.mark.usefixtures("no_report")
def test_spoilers_are_left_out_and_named(fake_grid: Any, settings: Settings, simulated_nodes: Any) -> None:
    count = 2 + len(SPOILERS)
    run = settings(method="fedavg", clients=count, partitioner="iid", **FEW, **{"min-clients": 2})
    grid = fake_grid(run, simulated_nodes(count))
    for node, (behaviour, _) in enumerate(SPOILERS.values(), start=102):
        grid.behaviour[node] = behaviour
    results = grid.run_app()
    assert results.participants == ["client-0", "client-1"]
    reasons = [refusal.reason for refusal in results.refused]
    assert len(reasons) == len(SPOILERS)
    for name, (_, reason) in SPOILERS.items():
        assert sum(reason in told for told in reasons) >= 1, name


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", ["fedavg", "feddiffuse-udec"])
def test_asked_twice_a_client_trains_once(
    name: str, fake_grid: Any, settings: Settings, simulated_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again, after a lost reply or by a server that lost its rounds, it sends the same bytes."""
    run = settings(method=name, **FEW)
    first = fake_grid(run, simulated_nodes(2))
    first.run_app()
    for lost in ("results.json", "server/rounds.safetensors"):
        (Path(run["run-dir"]) / lost).unlink()
    trained: list[int] = []
    fit = fedavg.FedAvg.fit
    for method in (fedavg.FedAvg, METHODS[name]):
        monkeypatch.setattr(method, "fit", lambda self, local: trained.append(1) or fit(self, local))
    grid = fake_grid(run, simulated_nodes(2))
    state = Path(run["run-dir"]) / "client-0" / "state" / "round.safetensors"
    kept = load_file(state)

    def again(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train.round":
            before = RecordDict({"arrays": reply.content["arrays"]})
            repeated = fake_grid(run, simulated_nodes(2))
            repeated._push(Message(message.content, message.metadata.dst_node_id, "train.round"))
            ((_, _, content),) = repeated.sent
            assert content["arrays"] == before["arrays"]
        return reply

    grid.behaviour[100] = again
    shutil.rmtree(state.parents[2] / "client-1")
    grid.run_app()
    assert len(trained) == 4  # two clients, two rounds: a state holds the last reply only
    assert equal(load_file(state), kept)


# -- the worked example --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_report")
def test_the_example_of_contributing_runs(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file, one line in METHODS, and it runs."""
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    source = text.split("## Add a method")[1].split("```python\n")[1].split("```")[0]
    module: dict[str, Any] = {"__name__": "example"}
    exec(source, module)
    example = module["FedDecay"]
    monkeypatch.setitem(METHODS, example.name, example)
    results = fake_grid(settings(method="feddecay", **FEW), simulated_nodes(2)).run_app()
    assert results.method_title == "FedDecay"
    assert set(results.clients[0].groups["majority"]) == {"feddecay", "real", "own"}
