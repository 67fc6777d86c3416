"""Checkpoints of a training in progress: one safetensors file, written atomically, never a pickle."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fedpdiff.errors import DataError, RunError, is_full


def save_checkpoint(
    path: Path,
    identity: str,
    step: int,
    network: UNet2DModel,
    optimizer: torch.optim.Optimizer,
    average: EMAModel,
    generator: torch.Generator,
) -> None:
    """Write weights, optimiser moments, moving average and random state after ``step`` steps.

    ``identity`` tells this training from every other one.

    Raises
    ------
    RunError
        When the disk is full or cannot be written; the checkpoint before this one stays.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average.{i}": tensor for i, tensor in enumerate(average.shadow_params)}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["generator"] = generator.get_state()
    # Shared storage is refused by safetensors, and a clone also frees the device while the file is written.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"identity": identity, "step": str(step)})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        cause = "the disk is full" if is_full(error) else str(error)
        raise RunError(
            f"the checkpoint {path} cannot be written after step {step}: {cause}; make room and start again: "
            "training goes on from the checkpoint before"
        ) from error


def load_checkpoint(
    path: Path,
    identity: str,
    network: UNet2DModel,
    optimizer: torch.optim.Optimizer,
    average: EMAModel,
    generator: torch.Generator,
) -> int:
    """Load what :func:`save_checkpoint` wrote and return the number of steps already done.

    A checkpoint of another training, by its ``identity``, is left alone: 0 steps are done.

    Raises
    ------
    DataError
        When the file is broken or belongs to another network.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata["identity"] != identity:
                return 0
            step = int(metadata["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        network.load_state_dict(_part(tensors, "network."))
        shadow = _part(tensors, "average.")
        average.shadow_params = [shadow[str(i)].to(network.device) for i in range(len(shadow))]
        average.optimization_step = step
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _part(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        generator.set_state(tensors["generator"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} is not a checkpoint of this network ({error}); delete it to train from the beginning"
        ) from error
    return step


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
