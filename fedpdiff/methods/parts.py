"""The three parts of a U-Net that methods exchange apart: the way down, the middle, and the way up."""

from __future__ import annotations

from typing import Final, Literal

Part = Literal["down", "mid", "up"]
Parts = frozenset[Part]

DOWN: Final = "down"
MID: Final = "mid"
UP: Final = "up"
PARTS: Parts = frozenset({DOWN, MID, UP})

_MID = "mid_block."
_UP = ("up_blocks.", "conv_norm_out.", "conv_out.")


def part_of(name: str) -> Part:
    """Return the part that a weight of diffusers' ``UNet2DModel`` belongs to.

    As in FedDiffuse (de Goede et al. 2024): the input convolution and the embedding of the level belong to
    the way down, the output layers to the way up. The embedding of the class, which is in none of the
    paper's parts, goes with that of the level.
    """
    if name.startswith(_MID):
        return MID
    return UP if name.startswith(_UP) else DOWN
