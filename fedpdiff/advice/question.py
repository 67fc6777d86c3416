"""The question of ``fedpdiff advise``: a planned federation, and the noise that its budget asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedpdiff.advice.spectrum import Spectrum, digits_like, radius
from fedpdiff.advice.theory import Noise
from fedpdiff.config import RunConfig
from fedpdiff.errors import ConfigError, PrivacyError
from fedpdiff.privacy.accountant import mu_from_epsilon
from fedpdiff.privacy.calibration import smallest_t0
from fedpdiff.schedule import NoiseSchedule

UNSEEN_SIGNAL = 0.98
"""Share of signal at which the personal half begins with a class that it has no image of."""


@dataclass(frozen=True)
class Question:
    """A federation that is planned.

    Parameters
    ----------
    epsilon, delta
        Budget of one image.
    images
        Of all clients together, equally many of each class.
    minority
        Images of a rare class at the client that asks.
    shape
        (height, width, channels).
    classes, clients
        How many there are.

    Raises
    ------
    ConfigError, PrivacyError
        When a number is out of range.
    """

    epsilon: float
    images: int
    minority: int
    shape: tuple[int, int, int]
    delta: float = 1e-5
    classes: int = 10
    clients: int = 2

    def __post_init__(self) -> None:
        """Check."""
        if not 0 < self.epsilon < math.inf:
            raise PrivacyError(f"epsilon is {self.epsilon:g}, but must be a number above 0; 1 to 10 is usual")
        if not 0 < self.delta < 1:
            raise PrivacyError(
                f"delta is {self.delta:g}, but must lie strictly between 0 and 1; 1e-5 is usual"
            )
        height, width, channels = self.shape
        if not (4 <= height <= 512 and 4 <= width <= 512 and channels in (1, 3)):
            raise ConfigError(
                f"shape is {height}x{width}x{channels}, but sides must be 4 to 512 and channels 1 or 3"
            )
        for name, value, least in (("classes", self.classes, 2), ("clients", self.clients, 2)):
            if value < least:
                raise ConfigError(f"{name} is {value}, but must be at least {least}")
        if self.minority < 0:
            raise ConfigError(f"minority is {self.minority}, but must be a number of images, 0 or more")
        least = self.classes * max(self.minority, 1)
        if self.images < least:
            raise ConfigError(
                f"images is {self.images}, but {self.classes} classes with {self.minority} images of each at "
                f"this client alone make {least}: give the number of images of all clients together"
            )

    @property
    def values(self) -> int:
        """Values of one image, d."""
        return math.prod(self.shape)

    @property
    def pooled(self) -> float:
        """Uploads of one class."""
        return self.images / self.classes

    @property
    def largest(self) -> int:
        """Images of one client, shared equally."""
        return math.ceil(self.images / self.clients)

    @property
    def spectrum(self) -> Spectrum:
        """What the images are taken to be like."""
        return digits_like(self.values, self.classes)

    def noise(self) -> tuple[Noise, int | None]:
        """Return the noise, and t0 on the default chain; None where no t0 reaches the budget.

        Without a t0 it is that of the exact mechanism.
        """
        config = RunConfig()
        clip = radius(self.values)
        schedule = NoiseSchedule(config.schedule, config.diffusion_steps)
        try:
            t0 = smallest_t0(schedule.alpha_bar, clip, self.epsilon, self.delta)
        except PrivacyError:
            t0 = schedule.steps
        begins = tuple((1 / signal - 1) / clip**2 for signal in (config.hand_off_signal, UNSEEN_SIGNAL))
        if t0 < schedule.steps:
            return Noise((schedule.noise_to_signal(t0) / clip) ** 2, *begins), t0
        exact = 4 / mu_from_epsilon(self.epsilon, self.delta) ** 2  # s = 2C / mu
        return Noise(exact, *begins), None
