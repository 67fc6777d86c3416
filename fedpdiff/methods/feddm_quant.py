"""FedDM-quant: weights travel as 8-bit integers, in both directions.

Published: Vora et al. 2024 (FedDM, arXiv 2407.14730): a "quantization module" and up to four times less
communication; bits and rule are not published, so this is re-implemented from the abstract. Ours: symmetric,
per tensor, q = round(w / s) with s = max |w| / 127, for every weight of two and more dimensions; biases and
norms, a small share, stay as they are.
"""

from __future__ import annotations

import numpy as np

from fedpdiff.errors import DataError
from fedpdiff.methods.base import RoundMethod
from fedpdiff.methods.weights import Arrays

_SCALE = "/scale"
_LARGEST = 127


class FedDMQuant(RoundMethod):
    """FedAvg with quantised weights."""

    name = "feddm-quant"
    title = "FedDM-quant"
    source = "Vora et al. 2024, arXiv 2407.14730, re-implemented from the abstract"
    server_sees = "every client's weights in 8 bits after each round, and its number of images per class"

    def encode(self, weights: Arrays) -> Arrays:
        """Quantise the tensors of two and more dimensions."""
        coded: Arrays = {}
        for name, array in weights.items():
            if array.ndim < 2:
                coded[name] = array
                continue
            scale = np.float32(np.abs(array).max(initial=0.0) / _LARGEST)
            coded[name] = np.rint(array / (scale or np.float32(1))).astype(np.int8)
            coded[name + _SCALE] = np.array([scale], np.float32)
        return coded

    def decode(self, arrays: Arrays) -> Arrays:
        """Return w = s q as float32."""
        weights: Arrays = {}
        for name, array in arrays.items():
            if name.endswith(_SCALE):
                continue
            if array.dtype == np.int8:
                scale = arrays.get(name + _SCALE)
                if scale is None or scale.shape != (1,) or scale.dtype != np.float32:
                    raise DataError(f"the quantised weights {name[:80]!r} come without their scale")
                array = array.astype(np.float32) * scale[0]
            weights[name] = array
        return weights
