"""Both halves of one client, with the moments that its own images and everybody's uploads tell together."""

from __future__ import annotations

from fedpdiff.diffusion.class_gaussian import ClassGaussian
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.linear_gaussian import LinearGaussian


def join(global_half: Denoiser, personal: Denoiser) -> tuple[Denoiser, Denoiser]:
    """Return both halves over joined moments (:meth:`ClassGaussian.joined`), where both have moments.

    What the global network learnt to add to those of the uploads alone stays. Without a base on both sides
    the halves are returned as they are.
    """
    uploads, own = global_half.base, personal.base
    if not isinstance(uploads, LinearGaussian) or not isinstance(own, ClassGaussian):
        return global_half, personal
    config, chain = global_half.config, global_half.chain
    signal = float(chain.alpha_bar[config.hand_off])
    base = own.joined(uploads, global_half.centre, chain.start, signal)
    framed = base.around(base.means - global_half.centre.to(base.means).flatten())
    return (
        Denoiser(global_half.network, config, global_half.centre, framed),
        Denoiser(personal.network, personal.config, personal.centre, base),
    )
