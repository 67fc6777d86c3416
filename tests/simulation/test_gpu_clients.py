"""How many clients share a GPU: arithmetic, settings that decide it, and measurements that fail."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.config import RunConfig
from fedpdiff.errors import ConfigError, RunError
from fedpdiff.simulation import gpu_clients, launcher
from fedpdiff.simulation import simulate as simulate_module
from fedpdiff.simulation.gpu_clients import RESERVE, clients_per_gpu, clients_that_fit

GIB = 2**30


@given(free=st.integers(0, 200 * GIB), peak=st.integers(1, 200 * GIB))
def test_clients_and_server_fit_with_something_to_spare(free: int, peak: int) -> None:
    clients = clients_that_fit(free, peak)
    assert clients >= 1
    if clients > 1:
        assert (clients + 1) * peak <= (1 - RESERVE) * free
    assert (clients + 2) * peak > (1 - RESERVE) * free - 1  # and one more would not


def test_by_hand() -> None:
    assert clients_that_fit(80 * GIB, 2 * GIB) == 35  # 72 GiB hold 36 processes, one of them the server
    assert clients_that_fit(8 * GIB, 6 * GIB) == 1


@pytest.mark.parametrize("given_as", ["3", 3])
def test_a_number_is_taken_as_it_is(given_as: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)  # nothing is measured
    config = RunConfig.parse({"gpu-clients": given_as, "clients": 9})
    assert clients_per_gpu(config)[0] == 3
    assert clients_per_gpu(RunConfig.parse({"clients": 1, "min-clients": 1}))[0] == 1


@pytest.mark.parametrize("wrong", ["0", 0, -1, "many", True, 2.0, "", "٣"])
def test_what_is_no_number_of_clients(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"gpu-clients = .*: must be auto or a whole number of at least 1"):
        RunConfig.parse({"gpu-clients": wrong})


def answering(text: str, status: int = 0) -> Any:
    def run(command: list[str], **settings: Any) -> Any:
        assert command[1:] == ["-m", "fedpdiff.federation.device_probe"]
        assert RunConfig.parse(json.loads(settings["input"])).clients == 9
        return subprocess.CompletedProcess(command, status, text.encode())

    return run


def test_a_measurement_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.dumps({"free": 80 * GIB, "peak": 2 * GIB})
    monkeypatch.setattr(subprocess, "run", answering(f"noise\n{found}\n"))
    number, why = clients_per_gpu(RunConfig(clients=9))
    assert number == 35
    assert "35 clients at a time" in why and "2.0 GiB" in why and "80.0 GiB" in why


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"error": "not even one client fits"}), "not even one client fits"),
        ("", "died .exit status 9.*set gpu-clients to a number"),
        ("{", "died"),
        ("[]", "died"),
    ],
)
def test_a_measurement_that_fails(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", answering(text, 9))
    with pytest.raises(RunError, match=message):
        clients_per_gpu(RunConfig(clients=9))


@pytest.mark.parametrize(
    ("device", "gpus", "at_once", "share"),
    [("auto", 2, 6, 1 / 3), ("cuda", 1, 3, 1 / 3), ("cuda:1", 1, 3, None), ("cpu", 0, 10, None)],
)
def test_flower_is_told(
    device: str, gpus: int, at_once: int, share: float | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launcher.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(simulate_module, "count_gpus", lambda _: gpus)
    said: list[str] = []
    config = RunConfig.parse({"clients": 10, "gpu-clients": 3, "device": device})
    settings = simulate_module._federation(config, tmp_path / "log", said.append)
    assert settings["init-args-num-cpus"] == at_once
    assert settings.get("client-resources-num-gpus") == (share and pytest.approx(share, abs=1e-3))
    assert len(said) == (gpus > 0)


def test_no_gpu_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clients.shutil, "which", lambda _: None)
    monkeypatch.setattr(gpu_clients.os.path, "exists", lambda _: False)
    assert gpu_clients.count_gpus("auto") == 0
    assert gpu_clients.count_gpus("cpu") == 0
