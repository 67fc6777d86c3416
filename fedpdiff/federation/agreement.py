"""From the settings to one mechanism: the server derives it, every client derives it again and compares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedpdiff.config import PFDM, RunConfig
from fedpdiff.errors import ConfigError, MessageError, PrivacyError
from fedpdiff.federation.protocol import Mechanism
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.ball import choose_centre, choose_radius
from fedpdiff.privacy.calibration import mu_of, smallest_t0
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.runfolder import write_json
from fedpdiff.schedule import NoiseSchedule

if TYPE_CHECKING:
    from fedpdiff.types import LabelledImages


@dataclass(frozen=True)
class Agreement:
    """A mechanism and its public centre, float32 of shape (C, H, W), in pixels."""

    mechanism: Mechanism
    centre: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write the agreement to ``folder``; both parts are public."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "centre.npy", self.centre)
        write_json(folder / "mechanism.json", self.mechanism.model_dump())

    @classmethod
    def load(cls, folder: Path) -> Agreement:
        """Read what :meth:`save` wrote.

        Raises
        ------
        MessageError
            When nothing was agreed yet: the server left out the release.
        """
        try:
            mechanism = Mechanism.model_validate_json((folder / "mechanism.json").read_text("utf-8"))
            return cls(mechanism, np.load(folder / "centre.npy", allow_pickle=False))
        except (OSError, ValueError) as error:
            # Not the error's own words: this may be told to the server, and they hold a path.
            raise MessageError(
                f"no release was agreed on before this request ({type(error).__name__})"
            ) from error

    def request(self, config: RunConfig) -> ReleaseRequest:
        """Return what is asked of a client's images; what the mechanism leaves open is in the settings."""
        # Size and channels are those of the centre; the colours of painted images depend on the seed.
        painted = f", colours of seed {config.seed}" if config.data_transform == "colorize" else ""
        mechanism = self.mechanism
        return ReleaseRequest(
            t0=mechanism.t0,
            alpha_bar=mechanism.alpha_bar,
            clip=mechanism.clip,
            centre=self.centre,
            schedule=mechanism.schedule,
            diffusion_steps=mechanism.diffusion_steps,
            delta=mechanism.delta,
            noise=mechanism.noise,
            preprocessing=f"fit = {config.fit}{painted}",
            coordinator=config.coordinator,
        )


def public_ball(config: RunConfig, public: LabelledImages) -> tuple[NDArray[np.float32], float]:
    """Return the centre, float32 (C, H, W), and the radius C of the ball that images are clipped to.

    Raises
    ------
    PrivacyError
        When a public rule has no public images.
    """
    pixels = public.pixels().numpy() if len(public) else None
    centre = choose_centre(config.centre, pixels, config.image_shape)
    return centre, choose_radius(config.clip_rule, config.clip, pixels, centre)


def propose(config: RunConfig, public: LabelledImages) -> Agreement:
    """Derive the mechanism from the settings and the public images.

    The budget decides: ``epsilon`` gives the smallest t0 whose exact epsilon does not exceed it; only with
    ``epsilon = 0`` is t0 taken as it is.

    Raises
    ------
    PrivacyError
        When a public rule has no public images, or no t0 reaches the budget.
    """
    centre, clip = public_ball(config, public)
    schedule = NoiseSchedule(config.schedule, config.diffusion_steps)
    t0 = config.t0 or smallest_t0(schedule.alpha_bar, clip, config.epsilon, config.delta)
    hand_off_level(config, t0)
    mechanism = Mechanism(
        t0=t0,
        alpha_bar=float(schedule.alpha_bar[t0]),
        schedule=config.schedule,
        diffusion_steps=config.diffusion_steps,
        clip=clip,
        delta=config.delta,
        noise=config.release_noise,
        wire_bits=config.wire_bits,
        image_shape=list(config.image_shape),
    )
    return Agreement(mechanism, centre)


def hand_off_level(config: RunConfig, t0: int) -> int:
    """Return the level at which the personal half takes over: t0, or the first with so little signal.

    Raises
    ------
    ConfigError
        When the global half has no levels, or no base and has learnt nothing there.
    """
    if config.method == PFDM and config.chain == "continued" and t0 >= config.diffusion_steps:
        raise ConfigError(
            f"epsilon = {config.epsilon:g} asks for t0 = {t0}, the last level, so that the global half has "
            "no levels above it; choose a larger epsilon"
        )
    if not config.hand_off_signal:
        return t0
    level = level_of_signal(config)
    if config.method == PFDM and config.global_base == "none" and level < t0:
        raise ConfigError(
            f'hand-off-signal = {config.hand_off_signal:g} with global-base = "none": that is level {level}, '
            f"but uploads at t0 = {t0} teach a network nothing below t0; set hand-off-signal to 0 (at t0) or "
            'global-base to "gaussian"'
        )
    return level


def level_of_signal(config: RunConfig) -> int:
    """Return the first level whose share of signal, abar_t, is at most ``hand-off-signal``; T - 1 at most."""
    alpha_bar = NoiseSchedule(config.schedule, config.diffusion_steps).alpha_bar
    return min(int((alpha_bar > config.hand_off_signal).sum()), config.diffusion_steps - 1)


def check_request(
    mechanism: Mechanism, centre: NDArray[np.float32], config: RunConfig, simulated: bool
) -> None:
    """Refuse a requested release that is not the one the settings describe (client side).

    Raises
    ------
    PrivacyError
        When the request differs from the settings, spends more than ``epsilon``, or asks a real site for
        seeded noise.
    """
    if mechanism.noise == "seeded" and not simulated:
        raise PrivacyError(
            "release-noise = 'seeded': a real site never releases seeded noise, because whoever learns the "
            "seed can take the noise off; set release-noise = 'secure'"
        )
    schedule = NoiseSchedule(config.schedule, config.diffusion_steps)
    expected = {
        "schedule": config.schedule,
        "diffusion_steps": config.diffusion_steps,
        "delta": config.delta,
        "noise": config.release_noise,
        "wire_bits": config.wire_bits,
        "image_shape": list(config.image_shape),
    }
    if config.t0:
        expected["t0"] = config.t0
    if config.clip_rule == "fixed":
        expected["clip"] = config.clip
    for key, value in expected.items():
        if getattr(mechanism, key) != value:
            raise PrivacyError(
                f"the server asks for {key} = {getattr(mechanism, key)!r}, but the settings say {value!r}; "
                f"nothing was released"
            )
    if mechanism.t0 > config.diffusion_steps or mechanism.alpha_bar != schedule.alpha_bar[mechanism.t0]:
        raise PrivacyError(
            f"the server asks for t0 = {mechanism.t0} with alpha_bar = {mechanism.alpha_bar}, which is not "
            f"that of the {config.schedule} schedule; nothing was released"
        )
    if list(centre.shape) != list(config.image_shape) or not np.isfinite(centre).all():
        raise PrivacyError(
            f"the server's centre has shape {centre.shape}, but must have {config.image_shape}"
        )
    epsilon = epsilon_from_mu(mu_of(mechanism.alpha_bar, mechanism.clip), mechanism.delta)
    if config.epsilon and epsilon > config.epsilon:
        raise PrivacyError(
            f"the server asks for a release of epsilon {epsilon:.4g}, above epsilon = {config.epsilon} of "
            "the settings; nothing was released"
        )
