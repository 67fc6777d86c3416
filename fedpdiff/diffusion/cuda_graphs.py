"""A network as the training loop calls it: tensors in, a tensor out; on a GPU, captured once and replayed.

A U-Net is some thousand small kernels. Without a CUDA graph a GPU waits for the CPU to launch each of them; a
graph launches all at once. ``torch.compile`` fuses them first, which saves most of what moves through memory
between them, and takes a minute or more.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import torch
from diffusers import UNet2DModel

from fedpdiff.errors import RunError

WORTH_CAPTURING = 50
"""Steps from which a capture pays: it takes as long as some ten, and saves half of each that follows."""

_CAPTURABLE = {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"}
"""Blocks whose work is the GPU's alone; others of diffusers copy to it meanwhile, which no capture allows."""

Evaluate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def worth_capturing(network: UNet2DModel, steps: int) -> bool:
    """Return whether a training of so many steps is captured: on a GPU, if it is long enough and can be."""
    blocks = {*network.config.down_block_types, *network.config.up_block_types}
    return network.device.type == "cuda" and steps >= WORTH_CAPTURING and blocks <= _CAPTURABLE


class Evaluated(torch.nn.Module):
    """Calls a U-Net with (x_t, timesteps, labels) and returns its output in float32.

    Parameters
    ----------
    network
        The network, or what wraps it.
    bfloat16
        Run it under bfloat16 autocast.
    """

    def __init__(self, network: torch.nn.Module, bfloat16: bool) -> None:
        super().__init__()
        self._network = network
        self._bfloat16 = bfloat16

    def forward(self, x_t: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the output, float32 (N, C, H, W), for float32 (N, C, H, W) and twice int64 (N,)."""
        # Weights cast during a capture must not be cached for later calls; each is used once anyway.
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self._bfloat16, cache_enabled=False):
            output: torch.Tensor = self._network(x_t, timesteps, class_labels=labels).sample
        return output.float()


def captured(evaluated: Evaluated, images: torch.Tensor, compiled: bool) -> Evaluate:
    """Return ``evaluated`` as CUDA graphs, one of the forward and one of the backward pass.

    Its results are those of the network; dropout follows torch's random stream (compiled, with draws of its
    own). It takes batches of one size only. No other thread may use the GPU until this returns.

    Parameters
    ----------
    evaluated
        In training mode, on a GPU; it must not be called otherwise from now on.
    images
        A batch as it will be called with; the values do not matter.
    compiled
        Fuse its kernels with ``torch.compile`` first.

    Raises
    ------
    RunError
        When torch cannot compile on this machine.
    torch.OutOfMemoryError
        When the GPU's memory does not suffice.
    """
    levels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    example = (torch.zeros_like(images), levels, levels.clone())
    gc.collect()  # graphs of an earlier training are in cycles of references, and must not go meanwhile
    with torch.cuda.device(images.device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # of the capture, not of steps
        warnings.filterwarnings("error", ".*CUDA Graph is empty")
        module = _compiled(evaluated, example) if compiled else evaluated
        evaluate: Evaluate = torch.cuda.make_graphed_callables(module, example)  # type: ignore[assignment]
    return evaluate


def _compiled(evaluated: Evaluated, example: tuple[torch.Tensor, ...]) -> torch.nn.Module:
    """Compile both passes, here, so that a failure is seen here."""
    module: torch.nn.Module = torch.compile(evaluated, dynamic=False)  # type: ignore[assignment]
    try:
        module(*example).sum().backward()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"compile = true: torch cannot compile the network on this machine: {reason} (Triton, which it "
            "uses, needs a C compiler and a folder that programs may be run from). Mend that, or set compile "
            "= false and start the run again"
        ) from error
    return module
