"""What is asked of a client's images: everything that decides what a release is, except the images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedpdiff.privacy.calibration import mu_of


@dataclass(frozen=True, eq=False)
class ReleaseRequest:
    """Everything that decides what a release is, except the images.

    Parameters
    ----------
    t0
        Number of forward steps, at least 1.
    alpha_bar
        abar after t0 steps; the noise is made from this number.
    clip
        C in pixel units.
    centre
        float32, shape (C, H, W), in [-1, 1]; public.
    schedule, diffusion_steps
        Name and length T of the noise schedule.
    delta
        At which epsilon is stated.
    noise
        ``secure`` or, in simulation, ``seeded``.
    preprocessing
        In words, how original images became pixels of this shape, such as ``"fit=resize"``: the same image
        prepared otherwise is another request.
    coordinator
        Who says to ask; no part of what is released.
    """

    t0: int
    alpha_bar: float
    clip: float
    centre: NDArray[np.float32]
    schedule: str
    diffusion_steps: int
    delta: float
    noise: Literal["secure", "seeded"]
    preprocessing: str = ""
    coordinator: str = ""

    @property
    def mu(self) -> float:
        """Privacy spent by one noising, ``2 C sqrt(abar) / sqrt(1 - abar)``.

        Raises
        ------
        PrivacyError
            When ``alpha_bar`` or ``clip`` is out of range.
        """
        return mu_of(self.alpha_bar, self.clip)

    def settings(self) -> dict[str, Any]:
        """Return the request as JSON values, the centre by its hash."""
        return self.noising() | {"delta": float(self.delta)}

    def noising(self) -> dict[str, Any]:
        """Return what a noising depends on; another delta only states the same one in other numbers."""
        centre = np.ascontiguousarray(self.centre, np.float32)
        return {
            "t0": int(self.t0),
            "alpha_bar": float(self.alpha_bar),
            "clip": float(self.clip),
            "centre_sha256": hashlib.sha256(repr(centre.shape).encode() + centre.tobytes()).hexdigest(),
            "schedule": self.schedule,
            "diffusion_steps": int(self.diffusion_steps),
            "noise": self.noise,
            "image_shape": list(centre.shape),
            "preprocessing": self.preprocessing,
        }
