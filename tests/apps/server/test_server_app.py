"""The ServerApp with real ClientApps behind a grid in memory: whole runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedpdiff.config import RunConfig
from fedpdiff.errors import ConfigError, RunError
from fedpdiff.federation.server import ServerTasks
from fedpdiff.runfolder import RunFolder
from fedpdiff.simulation.presets import read_presets
from server_app.pfdm import PFDM

Settings = Callable[..., dict[str, Any]]


# -- whole runs ----------------------------------------------------------------------------------------------


def test_a_whole_run(fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path) -> None:
    grid = fake_grid(settings(clients=3), simulated_nodes(3))
    results = grid.run_app()
    assert results.participants == ["client-0", "client-1", "client-2"]
    assert results.refused == []
    assert results.privacy["epsilon"] <= RunConfig.parse(grid.run_config).epsilon
    assert results.privacy["schedule"] == "linear"
    assert list(results.seconds) == ["waiting for clients", "upload", "training", "sampling"]
    for client in results.clients:
        assert set(client.groups) == {"majority", "minority"}
        for scores in client.groups.values():
            assert set(scores) == {"local", "pfdm", "oracle", "centralised", "real", "own"}
            assert all(score.accuracy is not None for name, score in scores.items() if name != "own")
            assert {name for name, score in scores.items() if score.utility is None} == {"oracle"}
            assert {name for name, score in scores.items() if score.utility_added is not None} == {
                "local",
                "pfdm",
            }
    counts = [sum(content["message"]["class_counts"]) for content in grid.replies("train.release")]
    assert results.bytes_up == [count * (64 + 8) for count in counts]
    weights = sum(path.stat().st_size for path in (tmp_path / "run/server/global").rglob("*.safetensors"))
    assert all(0.9 * weights < down < 1.1 * weights for down in results.bytes_down)
    _everything_is_in_the_run_folder(tmp_path / "run")


def _everything_is_in_the_run_folder(folder: Path) -> None:
    for name in ("config.json", "environment.json", "results.json", "results.md", "report.html"):
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "config.json").read_text())["clients"] == 3
    assert len(list((folder / "events").glob("*.jsonl"))) == 4
    assert list((folder / "figures").glob("*.png"))
    for number in range(3):
        client = folder / f"client-{number}"
        assert (client / "scores.json").is_file()
        names = {path.stem for path in (client / "samples").iterdir()}
        assert names == {"real", "local", "pfdm", "global", "oracle", "centralised"}
        with np.load(client / "samples" / "pfdm.npz") as samples:
            assert samples["images"].shape == (20, 1, 8, 8)
            assert samples["labels"].tolist() == [label for label in range(10) for _ in range(2)]


@pytest.mark.usefixtures("no_report")
def test_seeded_runs_are_equal(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    def once(name: str, **changes: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        run_dir = tmp_path / name
        seeded = {"release-noise": "seeded", "run-dir": str(run_dir)} | changes
        results = fake_grid(settings(**seeded), simulated_nodes(2)).run_app()
        samples = {
            str(p.relative_to(run_dir)): p.read_bytes() for p in run_dir.glob("client-*/samples/*.npz")
        }
        return results.model_dump(exclude={"seconds"}), samples

    first, second = once("first"), once("second")
    other = once("other", seed=2, centralised=False)
    secure = once("secure", centralised=False, **{"release-noise": "secure"})
    assert len(first[1]) == 12
    assert first == second
    for changed in (other, secure):
        name = "client-0/samples/pfdm.npz"
        assert first[1][name] != changed[1][name]
    assert first[1]["client-0/samples/local.npz"] == secure[1]["client-0/samples/local.npz"]
    assert "NOT PRIVATE" in (tmp_path / "first" / "results.md").read_text()
    assert "NOT PRIVATE" not in (tmp_path / "secure" / "results.md").read_text()


@pytest.mark.usefixtures("no_report")
def test_cautions_are_logged_and_kept(
    fake_grid: Any,
    settings: Settings,
    simulated_nodes: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    grid = fake_grid(settings(delta=1e-3, centralised=False, oracle=False), simulated_nodes(2))
    results = grid.run_app()
    images = max(sum(content["message"]["class_counts"]) for content in grid.replies("train.release"))
    found = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert found["images"] == images
    assert found["statement"]["epsilon"] == results.privacy["epsilon"]
    of_images = f"Warning: delta 0.001 is above 1 / (10 x {images:,} images of one client)"
    assert any(text.startswith(of_images) for text in found["cautions"])
    assert any(text.startswith(of_images) for text in results.notes)
    logged = [record.message for record in caplog.records if record.message.startswith("Warning: ")]
    assert len(logged) == len(set(logged)) == 3  # an empty guarantee, a large delta, and for these images
    assert set(found["cautions"]) < set(logged)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("name", "t0", "epsilon", "theorem"),
    [("paper", 690, 8.774, 10.243), ("paper-v1", 100, 1315.375, None)],
)
def test_the_papers_presets_give_the_epsilon_that_they_have(
    name: str,
    t0: int,
    epsilon: float,
    theorem: float | None,
    fake_grid: Any,
    settings: Settings,
    simulated_nodes: Any,
    tmp_path: Path,
) -> None:
    preset = dict(read_presets()[name].settings)
    results = fake_grid(settings(**preset, centralised=False), simulated_nodes(2)).run_app()
    assert results.privacy["t0"] == t0
    assert results.privacy["epsilon"] == pytest.approx(epsilon, abs=1e-9)
    if theorem:
        assert results.privacy["epsilon_theorem_5_1"] == pytest.approx(theorem, abs=1e-9)
    assert f"epsilon = {epsilon:,.3f}" in (tmp_path / "run" / "results.md").read_text()
    separate = (tmp_path / "run" / "client-0" / "state" / "local").exists()
    assert separate == (name == "paper-v1")
    assert ("separate network" in results.notes[0]) == separate


@pytest.mark.usefixtures("no_report")
def test_real_sites_with_other_classes(
    fake_grid: Any, settings: Settings, site_folder: Any, site_policy: Any, tmp_path: Path
) -> None:
    """Three sites, each with its own digits: no score, no loss and no sample reaches the server."""
    nodes = {
        node: {
            "data-path": site_folder(name, digits, 8),
            "state-dir": str(tmp_path / f"state-{name}"),
            "policy": site_policy(name),
            "site-name": name,
        }
        for node, (name, digits) in enumerate(
            {"north": range(0, 5), "south": range(3, 9), "west": [9]}.items(), start=11
        )
    }
    grid = fake_grid(settings(clients=3), nodes)
    results = grid.run_app()
    assert results.participants == ["north", "south", "west"]
    assert [client.client for client in results.clients] == [0, 1, 2]
    assert [client.groups for client in results.clients] == [{}, {}, {}]
    assert results.gap_closed == [None] * 3
    assert results.clients[2].classes == {"majority": [9], "minority": [], "absent": list(range(9))}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.json",
        "environment.json",
        "events",
        "format.json",
        "participants.json",
        "privacy.json",
        "results.json",
        "results.md",
        "server",
    ]
    assert [path.name for path in (tmp_path / "run" / "events").iterdir()] == ["server.jsonl"]
    assert not any(content.metric_records for _, _, content in grid.sent)
    assert (tmp_path / "state-north" / "scores.json").is_file()


@pytest.mark.usefixtures("no_report")
def test_a_real_site_may_let_its_scores_leave(
    fake_grid: Any, settings: Settings, site_folder: Any, site_policy: Any, tmp_path: Path
) -> None:
    """The site decides, not the server: of two sites one sends scores."""
    nodes = {
        node: {
            "data-path": site_folder(name, range(10), 8),
            "state-dir": str(tmp_path / f"state-{name}"),
            "policy": site_policy(name, metrics_may_leave=may_leave),
            "site-name": name,
        }
        for node, (name, may_leave) in enumerate({"north": False, "south": True}.items(), start=11)
    }
    results = fake_grid(settings(clients=2), nodes).run_app()
    north, south = results.clients
    assert north.groups == {}
    assert set(south.groups["majority"]) == {"local", "pfdm", "own"}


# -- settings and earlier attempts ---------------------------------------------------------------------------


def test_wrong_settings_fail_before_anything(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    grid = fake_grid(settings() | {"clients": 0, "colour": "red"}, simulated_nodes(2))
    with pytest.raises(ConfigError, match=r"(?s)colour.*clients|clients.*colour"):
        grid.run_app()
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_report")
def test_an_attempt_that_failed_can_be_tried_again(
    fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path
) -> None:
    """The second attempt finds the same release, asks for no shard, and knows nothing of half an upload."""
    grid = fake_grid(settings(), simulated_nodes(2))

    def fail_in_training(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train.personalize":
            raise OSError("the disk is full")
        return reply

    grid.behaviour[101] = fail_in_training
    with pytest.raises(RunError):
        grid.run_app()
    gone = tmp_path / "run" / "server" / "spool" / "client-9"
    gone.mkdir()
    (gone / "manifest.json").write_text("{}")
    again = fake_grid(settings(), simulated_nodes(2))
    results = again.run_app()
    assert results.participants == ["client-0", "client-1"]
    assert results.bytes_up == [64 * images + 8 * images for images in map(images_of, again.releases())]
    assert not gone.exists()
    assert again.replies("train.upload") == []
    for first, second in zip(grid.releases(), again.releases(), strict=True):
        assert first["certificate"] == second["certificate"]


def images_of(release: dict[str, Any]) -> int:
    return sum(release["class_counts"])


def test_hooks_of_flowers_strategy_have_nothing_to_aggregate(settings: Settings) -> None:
    config = RunConfig.parse(settings())
    strategy = PFDM(config, ServerTasks(config, RunFolder.of(config, 7)))
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.aggregate_evaluate(1, []) is None
