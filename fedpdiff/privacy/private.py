"""A client's private images as its release store takes them: pixels, labels, and who and what they are."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError

if TYPE_CHECKING:
    from fedpdiff.types import LabelledImages


@dataclass(frozen=True, eq=False)
class PrivateImages:
    """Images that a client is asked to release.

    Parameters
    ----------
    images
        Prepared as the request says, N of them.
    digests
        N digests of the originals, taken before any preparation: what makes an image the same image whatever
        size or format a later request asks for. Two rows with one digest are duplicates; only the first is
        released. (So the guarantee is for replacing an image by one that the data set does not hold yet: the
        number of images, and of duplicates left out, stays as it is.)
    persons
        N names of the persons shown, or None where the policy names no column for them.

    Raises
    ------
    PrivacyError
        When the three are not equally long.
    """

    images: LabelledImages
    digests: Sequence[bytes]
    persons: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Check the lengths."""
        for name, values in (("digests", self.digests), ("persons", self.persons)):
            if values is not None and len(values) != len(self.images):
                raise PrivacyError(
                    f"there are {len(self.images)} images, but {len(values)} {name}; give one for each image"
                )

    def __len__(self) -> int:
        """Return the number of images, duplicates included."""
        return len(self.images)

    def first_of_each(self) -> NDArray[np.int64]:
        """Return the rows to release: those whose digest did not come before."""
        first = {digest: row for row, digest in reversed(list(enumerate(self.digests)))}
        return np.sort(np.fromiter(first.values(), np.int64, len(first)))


def image_key(secret: bytes, digest: bytes) -> bytes:
    """Return the ledger's name of an image, 32 bytes.

    Keyed, because a plain hash of a private image lets anyone who can guess the image confirm the guess.
    """
    return hmac.digest(secret, b"image\0" + digest, "sha256")


def person_key(secret: bytes, person: str) -> bytes:
    """Return the ledger's name of a person, 32 bytes; keyed for the same reason."""
    return hmac.digest(secret, b"person\0" + person.encode(), "sha256")
