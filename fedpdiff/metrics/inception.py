"""pytorch-fid's Inception features, from a local weights file; nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pytorch_fid import inception as fid
from torch.nn import functional
from torchvision.models import inception_v3

from fedpdiff.errors import ConfigError
from fedpdiff.types import LabelledImages

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_DIM = 2048
_BATCH = 32


class InceptionFeatures:
    """The 2048 pooled features that published FIDs use.

    Parameters
    ----------
    weights
        Path of pytorch-fid's weights file (``pt_inception-2015-12-05-6726825d.pth``).
    device
        Where to compute.

    Raises
    ------
    ConfigError
        When the file is missing or does not hold that network.
    """

    name = "inception:pytorch-fid"
    dimension = INCEPTION_DIM

    def __init__(self, weights: str | Path, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.blocks = _blocks(_load(Path(weights).expanduser())).eval().to(self.device)

    @torch.no_grad()
    def features(self, images: LabelledImages) -> np.ndarray:
        """Return features, float64 of shape (N, 2048); grey images are repeated over the three channels."""
        parts = [np.zeros((0, INCEPTION_DIM))]
        for batch in images.images.split(_BATCH):
            pixels = batch.to(self.device).float().div(255.0).expand(-1, 3, -1, -1)
            # As pytorch-fid does it: bilinear to 299 x 299, then [0, 1] to [-1, 1].
            pixels = functional.interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=False)
            parts.append(self.blocks(2 * pixels - 1).flatten(1).double().cpu().numpy())
        return np.concatenate(parts)


def _load(path: Path) -> torch.nn.Module:
    """Build pytorch-fid's variant of Inception from its own blocks and read the weights from ``path``."""
    if not path.is_file():
        raise ConfigError(
            f'features = "inception" needs pytorch-fid\'s weights, but inception-weights = "{path}" is no '
            f"file. Download {fid.FID_WEIGHTS_URL} once and set inception-weights to where it lies, or use "
            'features = "classifier"'
        )
    network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for name, channels in (("5b", 32), ("5c", 64), ("5d", 64)):
        width = {"5b": 192, "5c": 256, "5d": 288}[name]
        setattr(network, f"Mixed_{name}", fid.FIDInceptionA(width, pool_features=channels))
    for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(network, f"Mixed_{name}", fid.FIDInceptionC(768, channels_7x7=channels))
    network.Mixed_7b = fid.FIDInceptionE_1(1280)
    network.Mixed_7c = fid.FIDInceptionE_2(2048)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ConfigError(
            f'inception-weights = "{path}" does not hold pytorch-fid\'s Inception ({type(error).__name__}); '
            f"expected is the file {WEIGHTS_FILE}"
        ) from error
    return network


def _blocks(network: torch.nn.Module) -> torch.nn.Module:
    """Return the layers up to the last average pooling, in order, without dropout and classifier."""
    layers = [layer for name, layer in network.named_children() if name not in ("dropout", "fc", "avgpool")]
    pool = torch.nn.AdaptiveAvgPool2d(output_size=(1, 1))
    return torch.nn.Sequential(*layers, pool).requires_grad_(False)
