"""One device that several clients train on: who may use it when, and what if its memory runs out."""

from __future__ import annotations

import fcntl
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch

from fedpdiff.config import RunConfig
from fedpdiff.errors import RunError

Outcome = TypeVar("Outcome")

# Of CUDA's own errors; torch's allocator has an error class.
_SIGNS = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a GPU's memory did not suffice, or came of one that does.

    When memory runs out while kernels are captured, ending the capture fails too, and that is what is raised.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)


def out_of_memory(config: RunConfig, alone: str = "") -> RunError:
    """Return the error of a training or sampling that the device's memory is too small for.

    ``alone`` says who else used the device, for example ``", with no other client on the device"``.
    """
    return RunError(
        f'the memory of the GPU did not suffice{alone}: network = "{config.network}" at batch-size = '
        f'{config.batch_size}, image-size = {config.image_size}, precision = "{config.precision}"; lower '
        "batch-size, set precision to bfloat16, or choose a smaller network"
    )


def give_back_memory(device: torch.device) -> None:
    """Return the memory that this process holds on a GPU without using it; a CPU's is left alone."""
    if device.type == "cuda":
        gc.collect()  # networks and optimisers are in cycles of references
        torch.cuda.empty_cache()


class DeviceShare:
    """A device that the clients of one run share; one of them can have it alone for a while.

    Two lock files: users hold the first one together, or one of them holds it alone. All pass through the
    second one on their way, so that nobody overtakes a client that waits to be alone.

    Parameters
    ----------
    folder
        For the lock files; the same for all who share the device.
    device
        The device.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.device = device
        self._users = folder / f".{_name(device)}.lock"
        self._gate = folder / f".{_name(device)}-gate.lock"

    @contextmanager
    def used(self, alone: bool = False) -> Iterator[None]:
        """Use the device, together with others or alone; waits until that is possible."""
        self._users.parent.mkdir(parents=True, exist_ok=True)
        with self._users.open("w") as users, self._gate.open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield  # the locks go when the files are closed, or their process ends

    def run(
        self, work: Callable[[], Outcome], config: RunConfig, waiting: Callable[[], AbstractContextManager]
    ) -> Outcome:
        """Do work on the device; once more, alone, when its memory runs out. Returns its outcome.

        Parameters
        ----------
        work
            Must be such that it can be done twice.
        config
            Names the settings in the error.
        waiting
            Is entered while the work waits to be done alone.

        Raises
        ------
        RunError
            When the memory does not suffice even so.
        """
        for alone in (False, True):
            try:
                with ExitStack() as held:
                    with waiting() if alone else nullcontext():
                        held.enter_context(self.used(alone))
                    return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            finally:
                give_back_memory(self.device)  # only now: an error holds what the work had on the device
        raise out_of_memory(config, ", even with no other client on it")


def _name(device: torch.device) -> str:
    """Return what tells the device from the machine's others, in whatever order a process sees them."""
    if device.type != "cuda":
        return device.type
    return f"gpu-{torch.cuda.get_device_properties(device).uuid}"
