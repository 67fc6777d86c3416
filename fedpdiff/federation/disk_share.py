"""How much of the server's disk one site's upload may take, known before its first shard is asked for."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from fedpdiff.errors import MessageError
from fedpdiff.federation.protocol import ReleaseManifest
from fedpdiff.privacy.wire import encoded_size

_LABEL_BYTES = 8


def upload_bytes(manifest: ReleaseManifest) -> int:
    """Return how many bytes of codes and labels a release has on the wire and on the server's disk."""
    codes = encoded_size(manifest.images * math.prod(manifest.image_shape), manifest.wire_bits)
    return codes + _LABEL_BYTES * manifest.images


def check_disk_share(manifest: ReleaseManifest, folder: Path, sites: int) -> None:
    """Refuse an upload that takes more than its share of the server's free disk.

    The uploads together may take half of what is free, each site an equal part of that half: no site can
    crowd out the others, or the SuperLink's database, checkpoints and models, which need the other half.

    Parameters
    ----------
    manifest
        What the site declares.
    folder
        Where its upload goes; what an earlier attempt left there counts as free.
    sites
        How many sites are to share the disk.

    Raises
    ------
    MessageError
        Naming the site, the size it declares and its share.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    held = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    free = shutil.disk_usage(there).free + held
    size, share = upload_bytes(manifest), free // (2 * sites)
    if size > share:
        raise MessageError(
            f"{manifest.site} declares an upload of {_text(size)}, but its share of the server's disk is "
            f"{_text(share)} (half of the {_text(free)} free, for {sites} {'site' if sites == 1 else 'sites'}"
            "); free space there, give run-dir on a larger disk, or lower wire-bits"
        )


def _text(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"
