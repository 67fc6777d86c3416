"""A shared device: together or alone, nobody overtaken; what runs out of memory is done again, alone."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpdiff.config import RunConfig
from fedpdiff.errors import RunError
from fedpdiff.federation import device_probe
from fedpdiff.federation.device import DeviceShare, is_out_of_memory
from fedpdiff.federation.device_probe import measure, take_steps

CPU = torch.device("cpu")
LONG = 60.0  # seconds that no healthy machine needs
SHORT = 0.3  # seconds after which something that must not happen has not happened


class User(threading.Thread):
    """Uses a device from when it can until it is let go."""

    def __init__(self, folder: Path, alone: bool = False) -> None:
        super().__init__(daemon=True)
        self.share, self.alone = DeviceShare(folder, CPU), alone
        self.inside, self.let_go = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.share.used(self.alone):
            self.inside.set()
            assert self.let_go.wait(LONG)

    def leave(self) -> None:
        self.let_go.set()
        self.join(LONG)


def test_a_device_is_used_together_or_alone(tmp_path: Path) -> None:
    together = [User(tmp_path), User(tmp_path)]
    assert all(user.inside.wait(LONG) for user in together)
    alone = User(tmp_path, alone=True)
    assert not alone.inside.wait(SHORT)
    late = User(tmp_path)
    assert not late.inside.wait(SHORT)  # or a stream of newcomers would keep the other one out for ever
    for user in together:
        user.leave()
    assert alone.inside.wait(LONG)
    assert not late.inside.is_set()
    alone.leave()
    assert late.inside.wait(LONG)
    late.leave()


class Work:
    """Runs out of memory the first ``failures`` times, holding a tensor; notes who else could come in."""

    def __init__(self, share: DeviceShare, failures: int) -> None:
        self.share, self.failures = share, failures
        self.times = 0
        self.held: list[weakref.ref[torch.Tensor]] = []
        self.alone: list[bool] = []

    def __call__(self) -> str:
        tensor = torch.zeros(1000)
        self.held.append(weakref.ref(tensor))
        self.alone.append(not self._somebody_comes_in())
        self.times += 1
        if self.times <= self.failures:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        assert all(held() is None for held in self.held[:-1])  # what failed holds nothing any more
        return "done"

    def _somebody_comes_in(self) -> bool:
        other = User(self.share._users.parent)
        came = other.inside.wait(SHORT if self.times else LONG)
        other.let_go.set()
        return came


@pytest.mark.parametrize("failures", [0, 1])
def test_work_that_runs_out_of_memory_is_done_again_alone(failures: int, tmp_path: Path) -> None:
    share, waited = DeviceShare(tmp_path, CPU), []

    def waiting() -> Any:
        waited.append(True)
        return nullcontext()

    work = Work(share, failures)
    assert share.run(work, RunConfig(), waiting) == "done"
    assert work.alone == [False, True][: failures + 1]
    assert len(waited) == failures


def test_a_second_failure_names_the_settings(tmp_path: Path) -> None:
    share, config = DeviceShare(tmp_path, CPU), RunConfig(network="ddpm", image_size=32, batch_size=512)
    work = Work(share, failures=2)
    with pytest.raises(RunError) as error:
        share.run(work, config, nullcontext)
    assert work.times == 2
    for part in ('network = "ddpm"', "batch-size = 512", 'precision = "auto"', "no other client"):
        assert part in str(error.value)
    assert error.value.__context__ is None  # it would hold the tensors as long as it is being told
    assert work.held[-1]() is None


def test_other_errors_are_not_tried_again(tmp_path: Path) -> None:
    times = []

    def work() -> None:
        times.append(1)
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        DeviceShare(tmp_path, CPU).run(work, RunConfig(), nullcontext)
    assert len(times) == 1
    User(tmp_path, alone=True).leave()


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_errors_that_mean_a_full_gpu(error: Exception, meant: bool) -> None:
    assert is_out_of_memory(error) is meant


@pytest.mark.parametrize("meant", [True, False])
def test_what_a_failed_capture_raises_is_understood(meant: bool) -> None:
    with pytest.raises(RuntimeError) as error:
        try:
            raise (
                torch.OutOfMemoryError("CUDA out of memory") if meant else RuntimeError("index out of bounds")
            )
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    assert is_out_of_memory(error.value) is meant


# -- the probe --------------------------------------------------------------------------------------------


def reader(*readings: list[int]) -> Callable[[], list[int]]:
    left = iter(readings)
    return lambda: next(left)


@pytest.fixture
def small() -> RunConfig:
    return RunConfig(device="cpu", batch_size=8)


@pytest.mark.slow
def test_the_probe_trains_and_compares_what_is_free(small: RunConfig) -> None:
    """On a CPU what is trained is real, and what is read of the GPUs is not."""
    assert measure(small, reader([80_000, 70_000], [78_000, 70_000])) == {"free": 70_000, "peak": 2_000}
    with pytest.raises(RunError, match=r"gpu-clients = \"auto\".*cannot be measured"):
        measure(small, reader([80_000], [81_000]))


@pytest.mark.slow
def test_a_probe_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"missing\.json"):
        measure(RunConfig(device="cpu", network=str(tmp_path / "missing.json")), reader([1], [1]))


@pytest.mark.parametrize("method", ["pfdm", "fedprox"])
def test_the_probe_says_when_not_even_one_client_fits(
    method: str, small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(RunError, match=r"for a single client: network = \"tiny\" at batch-size = 8"):
        take_steps(small.model_copy(update={"method": method}))


def test_the_probe_takes_the_steps_of_the_method(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *_: (taken.append(1), step(self))[1])
    captured, own = device_probe.STEPS, device_probe.PRIVATE_STEPS
    for method, steps in (("pfdm", captured), ("fedavg", captured), ("dpdm-fedavg", own)):
        taken.clear()
        take_steps(small.model_copy(update={"method": method, "personal_steps": 800, "checkpoint_every": 5}))
        assert len(taken) == steps
