"""Both halves of one client, with the moments that its own images and everybody's uploads tell together.

Of the N uploads of a class n are of the client's own images, and tell it nothing new. What the others,
N - n, tell follows: their mean is (N m_all - n m_own) / (N - n). In a class of covariance S and with noise of
variance s2 = (1 - abar_t0) / abar_t0 on each value of an upload it errs by S / (N - n) + s2 N / (N - n)^2, an
own mean by S / n. Entry i, j of an own sample covariance, in the directions of the variances l, errs by
l_i l_j / n (twice that for i = j). That of the others, where v = l + s2, errs by
l_i l_j / (N - n) + (v_i v_j - l_i l_j) N / (N - n)^2.
"""

from __future__ import annotations

import torch

from fedpdiff.diffusion.class_gaussian import PRIOR, ClassGaussian
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.linear_gaussian import LinearGaussian

DOUBT = 2.0
"""How often the errors of own moments count: the network of the levels below errs with them
(docs/more-signal.md has what other numbers give)."""
LIKELY = 16.0
"""Images that the covariance of a class without two own ones counts as, beside what uploads tell of it:
chosen on two data sets with five known classes at each client (docs/more-signal.md)."""


def join(global_half: Denoiser, personal: Denoiser) -> tuple[Denoiser, Denoiser]:
    """Return both halves over joined moments, where both have moments.

    What the global network learnt to add to those of the uploads alone stays. Without a base on both sides
    the halves are returned as they are.
    """
    uploads, own = global_half.base, personal.base
    if not isinstance(uploads, LinearGaussian) or not isinstance(own, ClassGaussian):
        return global_half, personal
    config, chain = global_half.config, global_half.chain
    signal = float(chain.alpha_bar[config.hand_off])
    base = joined(own, uploads, global_half.centre, chain.start, signal)
    framed = base.having(means=base.means - global_half.centre.to(base.means).flatten())
    return (
        Denoiser(global_half.network, config, global_half.centre, framed),
        Denoiser(personal.network, personal.config, personal.centre, base),
    )


def joined(
    own: ClassGaussian, uploads: LinearGaussian, centre: torch.Tensor, start: float, signal: float
) -> ClassGaussian:
    """Return own moments together with those of uploads.

    Parameters
    ----------
    own
        Of the client's images, in pixels. All of them are taken to be among the uploads; for an exact copy,
        which is not uploaded, a little too much is taken off what the others tell.
    uploads
        Of clipped images around the centre. That clipping makes them smaller is not made up for.
    centre
        float32 (C, H, W), in pixels.
    start
        abar_t0, the uploads' share of signal.
    signal
        abar of the level at which the personal half takes over.
    """
    spread, noise = own.spread(), (1 - start) / start
    everybody = uploads.means.to(own.means) + centre.to(own.means).flatten()
    sent = uploads.counts.to(own.counts).view(-1, 1)
    # A context of mixed precision is meant for networks.
    with torch.autocast(own.means.device.type, enabled=False):
        if spread is None:  # nothing is known of how far own moments err
            return own.having(means=torch.where(sent > own.counts.view(-1, 1), everybody, own.means))
        variances, rotations = _covariances(own, uploads, spread, noise)
        means = _means(own, everybody, sent, spread, noise, (1 - signal) / signal)
        return own.having(means=means, variances=variances, rotations=rotations)


def _means(
    own: ClassGaussian,
    everybody: torch.Tensor,
    sent: torch.Tensor,
    spread: torch.Tensor,
    noise: float,
    below: float,
) -> torch.Tensor:
    """Return the class means (K, d), from those of all uploads (K, d) and their numbers (K, 1).

    ``noise``, ``below``: s2 of the uploads and of the hand-off.

    In a direction of variance l the own mean errs by e_o = ``DOUBT`` l / n and that of the others by
    e_s = l / (N - n) + s2 N / (N - n)^2. Its best share in the samples is e_o / (e_o + e_s). The personal
    half, which refines them from a level with noise s2_h, follows what it is handed by
    f = sqrt(l / (l + s2_h)) and adds the rest from its own images (Theorem 5.2 of PFDM, direction by
    direction). So of the mean that is handed over the others make e_o / (e_o + e_s) / f, at most all of it.
    """
    images = own.counts.view(-1, 1)
    others = (sent - images).clamp_min(0)
    error_own = DOUBT * spread / images  # of no image: infinite
    error_theirs = spread / others + noise * sent / others**2  # of no upload: infinite
    follow = (spread / (spread + below)).sqrt()
    share = (1 / (1 + error_theirs / error_own) / follow).clamp(0, 1)
    share = torch.where(images == 0, 1.0, share)
    share = torch.where(others == 0, 0.0, share)
    offset = (everybody - own.means) * sent / others.clamp_min(1)
    along = offset @ own.directions.T
    beyond = offset - along @ own.directions
    return own.means + (share[:, :-1] * along) @ own.directions + share[:, -1:] * beyond


def _covariances(
    own: ClassGaussian, uploads: LinearGaussian, spread: torch.Tensor, noise: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the variances (K, R) and rotations (K, R, R) of each class; ``noise``: s2 of the uploads.

    Uploads tell of the coarse directions alone. Along the axes of the common covariance there each entry is
    the mean of three, weighted by images: n own ones and the common covariance, ``PRIOR`` images, both
    through ``DOUBT`` (without two own ones ``LIKELY`` images for the likely covariance), and as many as
    l_i l_j over the error says that the others are worth. What that changes along the axes goes on to other
    directions by the common covariance, as in a regression on them.
    """
    common, beyond = spread[:-1], spread[-1]
    across = uploads.coarse.to(own.directions) @ own.directions.T
    identity = torch.eye(len(across)).to(across)
    power, axes = torch.linalg.eigh((across * (common - beyond)) @ across.T + beyond * identity)
    seen = axes.T @ across  # (coarse directions, own directions)
    follow = common.view(-1, 1) * seen.T / power
    clean, sent = torch.outer(power, power), torch.outer(power + noise, power + noise)
    rest = own.rest * (identity - seen @ seen.T)
    variances, rotations = own.variances.clone(), own.rotations.clone()
    for label, (images, count) in enumerate(zip(own.counts.tolist(), uploads.counts.tolist(), strict=True)):
        others = count - images
        if count < 2 or others < 1:
            continue
        before = (rotations[label] * variances[label]) @ rotations[label].T
        mine = seen @ before @ seen.T + rest
        everybody = axes.T @ uploads.spreads[label].to(axes) @ axes
        theirs = mine + (everybody - mine) * count / others
        worth = clean / (clean / others + (sent - clean) * count / others**2)
        counted = (PRIOR + images) / DOUBT if images > 1 else LIKELY
        share = worth / (worth + counted)
        change = share * (theirs - mine)
        values, rotations[label] = torch.linalg.eigh(before + follow @ change @ follow.T)
        variances[label] = values.clamp_min(0)
    return variances, rotations
