"""A denoiser: a trained network, the chain it was trained on, and the frame its images live in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from fedpdiff.diffusion.class_gaussian import ClassGaussian
from fedpdiff.diffusion.denoiser_config import CONFIG_FILE, DenoiserConfig
from fedpdiff.diffusion.linear_gaussian import LinearGaussian
from fedpdiff.errors import DataError

UNSEEN_SIGNAL = 0.98
"""Share of signal down to which the base stands for a personal network that has seen no image of a class."""

_CENTRE_FILE = "centre.safetensors"
_BASE_FILE = "base.safetensors"
_NETWORK_FOLDER = "network"
_WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


class Denoiser(torch.nn.Module):
    """Estimates clean images from noisy ones.

    The global half works on clipped images around the public centre c (u = CLIP(x - c, C)), the personal
    half on pixels x. :meth:`clean` takes and gives pixels for both, so that one chain can pass from one half
    to the other: at level t the two frames differ by sqrt(abar_t) c.

    Parameters
    ----------
    network
        U-Net whose class embedding has ``config.conditions`` entries.
    config
        The denoiser's description.
    centre
        float32, shape (C, H, W); the public centre. Zeros for a personal half.
    base
        What ``config.base`` says, if anything.
    """

    def __init__(
        self,
        network: UNet2DModel,
        config: DenoiserConfig,
        centre: torch.Tensor,
        base: LinearGaussian | ClassGaussian | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.base = base
        self.config = config
        self.chain = config.chain()
        self.centre = centre

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the network's weights."""
        return self.network.dtype

    def clean(self, x_t: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        """Return E[x_0 | x_t] in pixels, clamped to [-1, 1]; ``x_t`` has shape (N, C, H, W), pixel frame."""
        return self._in_pixels(x_t, t, labels, 1.0)

    def guided(self, x_t: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        """Return what sampling takes for :meth:`clean`: the same, moved by ``config.guidance_scale``."""
        return self._in_pixels(x_t, t, labels, self.config.guidance_scale)

    def _in_pixels(self, x_t: torch.Tensor, t: int, labels: torch.Tensor, guidance: float) -> torch.Tensor:
        offset = self.centre.to(x_t)
        shifted = x_t - self.chain.alpha_bar[t].sqrt().to(x_t) * offset
        return (self._clean(shifted, t, labels, guidance) + offset).clamp(-1.0, 1.0)

    def clean_clipped(self, x_t: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        """Return E[u | x_t] for images in this half's own frame (global half: clipped, around the centre)."""
        return self._clean(x_t, t, labels, 1.0)

    def _clean(self, x_t: torch.Tensor, t: int, labels: torch.Tensor, guidance: float) -> torch.Tensor:
        if self.config.kind == "personal":
            return self._personal_clean(x_t, t, labels, guidance)
        levels = torch.full((len(x_t),), t)
        return self.chain.clean_from_output(self._output(x_t, t, labels), x_t, levels)

    def _personal_clean(
        self, x_t: torch.Tensor, t: int, labels: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """Return what the base says above the hand-off, of classes without an image far below it; or else the
        network."""
        if self.base is not None and t > self.config.hand_off:
            return self._from_base(x_t, t, labels)
        levels = torch.full((len(x_t),), t)
        clean = self.chain.clean_from_output(self._guided_output(x_t, t, labels, guidance), x_t, levels)
        if self.base is None:
            return clean
        unseen = self._unseen(labels)
        if float(self.chain.alpha_bar[t]) <= UNSEEN_SIGNAL and unseen.any():
            clean[unseen] = self._from_base(x_t[unseen], t, labels[unseen]).to(clean)
        return clean

    def _unseen(self, labels: torch.Tensor) -> torch.Tensor:
        """Return which labels are of classes that the network was trained on no image of."""
        return torch.isin(labels, torch.tensor(self.config.unseen, dtype=labels.dtype, device=labels.device))

    def start(self, x_t: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        """Return E[y | x_t], the estimated upload, in this half's own frame (nested chain)."""
        levels = torch.full((len(x_t),), t)
        return self.chain.start_from_output(self._output(x_t, t, labels), x_t, levels)

    def noise(self, x_t: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        """Return E[e | x_t], the noise that diffused the start image to x_t, in this half's own frame."""
        levels = torch.full((len(x_t),), t)
        return self.chain.noise_from_output(self._output(x_t, t, labels), x_t, levels)

    def _output(self, x_t: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        if self.base is None or self.config.kind == "personal":  # a personal base adds nothing to the network
            return self._network_output(x_t, t, labels)
        estimate = self._from_base(x_t, t, labels)
        if t < self.chain.first:
            return estimate
        return estimate + self._network_output(x_t, t, labels)

    def _from_base(self, x_t: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        assert self.base is not None
        return self.base(x_t, self.chain.alpha_bar[t].expand(len(x_t)), labels)

    def _guided_output(
        self, x_t: torch.Tensor, t: int, labels: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """Return the network's output, moved away from what it says without the label.

        Ho and Salimans (2022), eq. 6, with 1 for no guidance. Noise, velocity and clean image are affine in
        each other at a given x_t, so it does not matter which of them is moved.
        """
        output = self._network_output(x_t, t, labels)
        if guidance == 1.0:
            return output
        unlabelled = self._evaluate(x_t, t, torch.full_like(labels, self.config.conditions - 1)).float()
        return unlabelled + guidance * (output.float() - unlabelled)

    def _network_output(self, x_t: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        # Clipped is only what comes from the hand-off, down to the switch; a whole chain starts unclipped.
        clipped = self.config.clip_flag_switch * self.config.t0 < t <= self.config.t0
        unseen = self._unseen(labels)
        if self.config.clip_flag and not clipped:
            labels = labels + len(self.config.class_names)  # flag 1: unclipped
        labels = labels.masked_fill(unseen, self.config.conditions - 1)
        return self._evaluate(x_t, t, labels)

    def _evaluate(self, x_t: torch.Tensor, t: int, conditions: torch.Tensor) -> torch.Tensor:
        # diffusers counts levels from 0
        return self.network(x_t, torch.tensor(t - 1, device=x_t.device), class_labels=conditions).sample

    def save_pretrained(self, folder: Path | str) -> None:
        """Write network (safetensors), description (JSON), centre and base, if any, to ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.network.save_pretrained(folder / _NETWORK_FOLDER)
        save_file({"centre": self.centre.cpu().contiguous()}, folder / _CENTRE_FILE)
        if self.base is not None:
            moments = {name: tensor.cpu().contiguous() for name, tensor in self.base.state_dict().items()}
            save_file(moments, folder / _BASE_FILE)
        text = self.config.model_dump_json(indent=2) + "\n"
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str | torch.device = "cpu") -> Denoiser:
        """Read a denoiser that :meth:`save_pretrained` wrote.

        Raises
        ------
        DataError
            When a file is missing, broken, or does not belong to the others.
        """
        folder = Path(folder)
        try:
            config = DenoiserConfig.read(folder)
            centre = load_file(folder / _CENTRE_FILE)["centre"]
            network = _read_network(folder / _NETWORK_FOLDER)
            base = config.empty_base()
            if base is not None:
                moments = load_file(folder / _BASE_FILE)
                load_arrays(base, {name: tensor.numpy() for name, tensor in moments.items()})
                base.to(device)
            denoiser = cls(network.to(device).eval(), config, centre, base)
        except DataError as error:
            raise DataError(f"{folder}: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "it"
            if place == "format":
                raise DataError(
                    f"{folder} holds a denoiser of format {str(first['input'])[:80]!r}, this version reads "
                    f"{DenoiserConfig.model_fields['format'].default!r}; make the run again"
                ) from None
            raise DataError(f"{folder / CONFIG_FILE} is no denoiser's: {place}: {first['msg']}") from None
        except Exception as error:  # three libraries read here, and each raises many kinds
            raise DataError(
                f"{folder} does not hold a readable denoiser ({type(error).__name__}): {_first_line(error)}"
            ) from error
        if list(centre.shape) != config.image_shape or centre.dtype != torch.float32:
            raise DataError(
                f"{folder}: the centre is {centre.dtype} of shape {tuple(centre.shape)}, not torch.float32 "
                f"of {config.image_shape}"
            )
        if not centre.isfinite().all():
            raise DataError(f"{folder}: the centre holds values that are not finite")
        takes = (network.config["in_channels"], network.config["num_class_embeds"])
        if takes != (config.image_shape[0], config.conditions):
            raise DataError(
                f"{folder}: the network takes {takes[0]} channels and {takes[1]} conditions, but "
                f"{CONFIG_FILE} says {config.image_shape[0]} and {config.conditions}"
            )
        return denoiser


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _read_network(folder: Path) -> UNet2DModel:
    """Read a U-Net whose weights are all there, fit and are finite.

    ``UNet2DModel.from_pretrained`` would only warn of weights that are missing, and go on with random ones.

    Raises
    ------
    DataError
        When the weights are not those of the description beside them.
    """
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    if not isinstance(settings, dict) or settings.get("_class_name") != UNet2DModel.__name__:
        raise DataError(f"{_NETWORK_FOLDER}/config.json does not describe a {UNet2DModel.__name__}")
    weights = load_file(folder / _WEIGHTS_FILE)
    # A description may claim any size: it is compared with the weights before anything of it is built.
    if settings.get("layers_per_block", 0) > len(weights):
        raise DataError(f"{_NETWORK_FOLDER}/config.json describes more layers than there are weights")
    with torch.device("meta"):
        expected = UNet2DModel.from_config(settings).state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        wanted, found = (
            list(tensors[name].shape) if name in tensors else "nothing" for tensors in (expected, weights)
        )
        if wanted != found:
            raise DataError(f"the weights do not fit the network: {name} is {found}, but must be {wanted}")
    if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in weights.values()):
        raise DataError("the weights hold values that are no numbers or not finite")
    network = UNet2DModel.from_config(settings)
    network.load_state_dict(weights)
    return network


def to_arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the weights of a network, or of a whole denoiser, as float32 arrays by name, for a message."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in module.state_dict().items()}


def load_arrays(module: torch.nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Load weights by name.

    Raises
    ------
    DataError
        When names, shapes or values (not finite) do not fit the module.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(array.shape) for name, array in arrays.items()}
    if expected != given:
        wrong = sorted(set(expected.items()) ^ set(given.items()))
        raise DataError(
            f"the received weights do not fit the network of the settings; first difference: {wrong[0]}"
        )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise DataError("the received weights hold values that are not finite")
    module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
