"""A run that averages weights and ended too early goes on after its last finished round, for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load_file

from fedpdiff.config import RunConfig
from fedpdiff.errors import DataError
from fedpdiff.federation import round_server, round_state
from fedpdiff.federation.server import ServerTasks
from fedpdiff.methods import METHODS
from fedpdiff.results import Results
from fedpdiff.runfolder import RunFolder

Settings = Callable[..., dict[str, Any]]
Start = Callable[..., Any]

FEW = {"rounds": 3, "personal_steps": 6, "auxiliary_images": 24, "server_steps": 1, "centralised": False}
TRAINED = [name for name in METHODS if name != "centralised"]


class Died(BaseException):
    """A process that ends here: nothing catches it."""


@pytest.fixture
def start(fake_grid: Any, settings: Settings, simulated_nodes: Any, tmp_path: Path) -> Start:
    """Return ``start(method, folder)``: an attempt in this run folder, not yet begun."""

    def make(name: str, folder: str, **changes: Any) -> Any:
        more = {"run-dir": str(tmp_path / folder), "release-noise": "seeded"}
        return fake_grid(settings(method=name, clients=2, **FEW, **changes, **more), simulated_nodes(2))

    return make


def made(folder: Path) -> dict[str, np.ndarray]:
    """Return all that a run made: networks, samples of every client, and what the server knows."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found |= {f"{path.relative_to(folder)} {name}": array for name, array in load_file(path).items()}
    for path in sorted(folder.rglob("samples/*.npz")):
        with np.load(path) as file:
            found |= {f"{path.relative_to(folder)} {name}": file[name] for name in file.files}
    return found


def dies(action: str, count: int) -> Callable[[Message, Message], Message]:
    """Return a behaviour with which the server dies when the n-th reply to one action comes."""
    left = count

    def behave(message: Message, reply: Message) -> Message:
        nonlocal left
        left -= message.metadata.message_type == action
        if left == 0:
            raise Died
        return reply

    return behave


@contextmanager
def dying(owner: Any, name: str, after: bool = False) -> Iterator[None]:
    """Let the server die when it calls this, before it is done or after."""
    real = getattr(owner, name)

    def die(*args: Any, **keywords: Any) -> None:
        if after:
            real(*args, **keywords)
        raise Died

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, die)
        yield


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", TRAINED)
def test_killed_at_every_step_a_run_ends_as_if_it_had_not_been(
    name: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with the same counts; and no client trains a round twice."""
    trained: list[range] = []
    fit = METHODS[name].fit
    monkeypatch.setattr(
        METHODS[name], "fit", lambda self, local: trained.append(local.span) or fit(self, local)
    )
    expected = start(name, "one").run_app()
    once, trained[:] = list(trained), []

    def attempt(action: str = "", count: int = 1, **changes: Any) -> Any:
        grid = start(name, "other", **changes)
        if action:
            grid.behaviour[101] = dies(action, count)
        return grid

    server = round_server.RoundServer
    with pytest.raises(Died):
        attempt("query.join").run_app()
    with pytest.raises(Died):  # one client has trained its first round, the other's reply is lost
        attempt("train.round").run_app()
    for owner, method, after in (
        (server, "take", False),
        (server, "take", True),
        (server, "finish_round", False),
        (round_state, "save_file", True),  # what the clients sent is known, half of it written
        (server, "finish_round", True),
        (server, "add_to_average", True),
        (server, "finish_round", True),
    ):
        if name == "local-only" and (tmp_path / "other/server/rounds.safetensors").is_file():
            break  # it has one round
        with dying(owner, method, after), pytest.raises(Died):
            attempt(**{"wait-seconds": 2, "reply-seconds": 3000}).run_app()
    with pytest.raises(Died):
        attempt("evaluate.sample").run_app()
    with dying(Results, "write"), pytest.raises(Died):
        attempt().run_app()
    results = attempt().run_app()
    assert results.model_dump(exclude={"seconds"}) == expected.model_dump(exclude={"seconds"})
    assert trained == once
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    assert set(one) == set(other)
    assert [key for key in one if not np.array_equal(one[key], other[key])] == []
    assert any("samples" in key for key in one)


@pytest.mark.usefixtures("no_report")
def test_only_rounds_that_are_missing_are_asked_for(start: Start, tmp_path: Path) -> None:
    grid = start("fedavg", "run")
    grid.behaviour[101] = dies("train.round", 3)
    with pytest.raises(Died):
        grid.run_app()
    kept = round_state.ServerState.load(tmp_path / "run/server/rounds.safetensors", _first(start))
    assert kept.round == 2
    assert kept.seconds > 0
    second = start("fedavg", "run")
    results = second.run_app()
    assert len(second.replies("train.round")) == 2
    assert results.seconds["training"] > kept.seconds
    assert results.client_steps == [6, 6]


def _first(start: Start) -> round_state.ServerState:
    """Return the server's state before the first round."""
    config = RunConfig.parse(start("fedavg", "elsewhere").run_config)
    tasks = ServerTasks(config, RunFolder.of(config, 1))
    return round_server.RoundServer(tasks, METHODS["fedavg"](config)).state


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("spoil", ["half", "another network", "no state"])
def test_a_damaged_state_is_named_and_nothing_is_trained(spoil: str, start: Start, tmp_path: Path) -> None:
    grid = start("fedavg", "run")
    grid.behaviour[101] = dies("train.round", 2)
    with pytest.raises(Died):
        grid.run_app()
    path = tmp_path / "run/server/rounds.safetensors"
    if spoil == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif spoil == "another network":
        state = round_state.ServerState.load(path, _first(start))
        state.edges[0].weights["conv_in.bias"] = np.zeros(3, np.float32)
        state.save(path)
    else:
        round_state._write(path, {"x": np.zeros(1, np.float32)}, {})
    second = start("fedavg", "run")
    with pytest.raises(DataError, match=r"rounds\.safetensors does not hold the rounds of this run .*delete"):
        second.run_app()
    assert second.sent == []
    path.unlink()
    assert start("fedavg", "run").run_app().client_steps == [6, 6]
