"""FedDiffuse: only some parts of the network are trained or exchanged.

Published: de Goede, Cox & Decouchant 2024 (arXiv 2406.12575). Three variants beside ``full``, which is
FedAvg:

* ``usplit``: clients are paired; one trains the way up, the other the way down, the middle goes to one of the
  two at random; an odd client trains the middle and one of the others; a single client all. Everybody
  receives the whole network, and each part is averaged over those who trained it.
* ``ulatdec``: middle and way up are exchanged, the way down stays each client's own.
* ``udec``: only the way up is exchanged.

The last two have no network of everybody: samples come from each client's own. Ours: the common protocol in
the place of the paper's network and smooth-L1 loss, and where the class embedding belongs
(:mod:`fedpdiff.methods.parts`).
"""

from __future__ import annotations

import numpy as np

from fedpdiff.methods.base import RoundMethod
from fedpdiff.methods.parts import DOWN, MID, PARTS, UP, Parts

_SOURCE = "de Goede et al. 2024, arXiv 2406.12575"


class USplit(RoundMethod):
    """Every client trains, and sends, about half of the network."""

    name = "feddiffuse-usplit"
    title = "FedDiffuse USplit"
    source = _SOURCE
    server_sees = "about half of every client's weights after each round, and its number of images per class"

    def assign(self, clients: int, generator: np.random.Generator) -> list[Parts]:
        """Pair the clients at random and divide the network between the two."""
        roles: list[Parts] = [PARTS] * clients
        order = generator.permutation(clients).tolist()
        while len(order) > 1:
            one, other = order.pop(), order.pop()
            middle_goes_up = bool(generator.integers(2))
            roles[one] = frozenset({UP, MID}) if middle_goes_up else frozenset({UP})
            roles[other] = frozenset({DOWN}) if middle_goes_up else frozenset({DOWN, MID})
        if order and clients > 1:
            roles[order[0]] = frozenset({MID, UP if generator.integers(2) else DOWN})
        return roles


class ULatDec(RoundMethod):
    """The way down is each client's own."""

    name = "feddiffuse-ulatdec"
    title = "FedDiffuse ULatDec"
    source = _SOURCE
    server_sees = "middle and way up of every client's network after each round, and its images per class"

    @property
    def exchanged(self) -> Parts:
        """The middle and the way up."""
        return frozenset({MID, UP})

    def assign(self, clients: int, generator: np.random.Generator) -> list[Parts]:
        """Every client trains everything, its own parts too."""
        return [PARTS] * clients


class UDec(ULatDec):
    """Only the way up is shared."""

    name = "feddiffuse-udec"
    title = "FedDiffuse UDec"
    server_sees = "the way up of every client's network after each round, and its images per class"

    @property
    def exchanged(self) -> Parts:
        """The way up."""
        return frozenset({UP})
