"""The two folders between a site's private side and its network side: the outbox and the inbox.

OUTBOX   written by the private side, read by the network side
    release.npy, labels.npy, manifest.json, certificate.json   as in the release store
    request.json                                               what it answers
INBOX    written by the network side, read by the private side
    agreement/    what the server last asked for
    global/       the global half
    features.npz  the classifier that scores rest on, where the server has one
    outbox-hashed.json  the network side's own: that the files in the outbox were hashed and found right
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from fedpdiff.errors import ConfigError, DataError, PrivacyError
from fedpdiff.federation.run_request import RunRequest
from fedpdiff.federation.uploads import Arrays
from fedpdiff.privacy.outbox import Release, read_release
from fedpdiff.privacy.verify import verify_release

if TYPE_CHECKING:
    from fedpdiff.diffusion.denoiser import Denoiser

REQUEST = "request.json"
_RELEASE = ("release.npy", "labels.npy", "certificate.json", "manifest.json")
_MOST_ARRAYS = 100  # of a feature network, which has about twenty
_ADVICE = "on the private side, run fedpdiff release"


def check_outside(outbox: Path, private: Path) -> None:
    """Refuse an outbox inside a private folder, where the network side must not look, or around one.

    Raises
    ------
    ConfigError
        When one is inside the other.
    """
    if private.resolve().is_relative_to(outbox.resolve()):
        raise ConfigError(
            f"--outbox {outbox} holds the private folder {private}: the network side must be able to read "
            "the outbox and nothing else; choose a folder elsewhere"
        )
    if outbox.resolve().is_relative_to(private.resolve()):
        raise ConfigError(
            f"--outbox {outbox} is inside the private folder {private}: the network side must be able to "
            "read the outbox and nothing else; choose a folder elsewhere"
        )


def fill_outbox(outbox: Path, release: Path, request: RunRequest) -> None:
    """Copy a release to the outbox, readable by the network side's user, and check what lies there then.

    A crash in between leaves files that do not belong together: the network side refuses them, and the next
    call replaces them.

    Parameters
    ----------
    outbox
        Made if missing.
    release
        The folder in the release store that holds what may be sent.
    request
        What the release answers.

    Raises
    ------
    PrivacyError
        When certificate and bytes do not belong together.
    """
    if not outbox.exists():
        outbox.mkdir(parents=True)
        outbox.chmod(0o755)
    for name in _RELEASE:
        with (release / name).open("rb") as file:
            _put(file, outbox / name)
    _put(io.BytesIO(request.to_bytes()), outbox / REQUEST)
    _verify(outbox)


def _put(source: BinaryIO, target: Path) -> None:
    """Copy a file, whole or not at all; never through a link that somebody else may have put there."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(0o644)
    os.replace(temporary, target)


def read_outbox(outbox: Path, inbox: Path, verify: bool) -> tuple[Release, RunRequest]:
    """Return the release in the outbox and what it answers.

    Parameters
    ----------
    outbox
        As :func:`fill_outbox` left it.
    inbox
        Where the network side may note that it hashed the arrays.
    verify
        Whether to hash the arrays and recompute the certificate; otherwise the arrays are hashed only if they
        are other files than when they were found right.

    Raises
    ------
    PrivacyError
        When there is none, it is damaged, or its certificate is not right.
    """
    if not (outbox / "manifest.json").exists():
        raise PrivacyError(f"this site's outbox holds no release; {_ADVICE}")
    if verify:
        _verify(outbox)
    return read_release(outbox, inbox / "outbox-hashed.json", verify), RunRequest.load(outbox / REQUEST)


def _verify(outbox: Path) -> None:
    problems = verify_release(outbox)
    if problems:
        raise PrivacyError(f"this site's outbox is not in order: {'; '.join(problems[:3])}; {_ADVICE} again")


def fill_inbox(inbox: Path, half: Denoiser, features: Arrays) -> None:
    """Put the global half, and the feature network where there is one, where the private side finds them."""
    inbox.mkdir(parents=True, exist_ok=True)
    target, temporary, old = (inbox / name for name in ("global", ".global.tmp", ".global.old"))
    for left_over in (temporary, old):
        shutil.rmtree(left_over, ignore_errors=True)
    half.save_pretrained(temporary)
    for path in (temporary, *temporary.rglob("*")):  # for the private side's user, whatever this one's umask
        path.chmod(0o755 if path.is_dir() else 0o644)
    if features:
        with (inbox / ".features.tmp").open("wb") as file:
            np.savez(file, allow_pickle=False, **features)
        (inbox / ".features.tmp").chmod(0o644)
        os.replace(inbox / ".features.tmp", inbox / "features.npz")
    else:
        (inbox / "features.npz").unlink(missing_ok=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def read_inbox(inbox: Path) -> Arrays:
    """Return the global half and the feature network under the names that a server sends them by.

    Raises
    ------
    DataError
        When the global half has not arrived, or a file is damaged; nothing in them is ever executed.
    """
    from fedpdiff.diffusion.denoiser import Denoiser, to_arrays  # heavy; not for every shard sent

    if not (inbox / "global").is_dir():
        raise DataError(f"{inbox} holds no global half yet: the server sends it after its training")
    half = to_arrays(Denoiser.from_pretrained(inbox / "global"))
    arrays = {f"global/{name}": array for name, array in half.items()}
    if (inbox / "features.npz").exists():
        features = _read_features(inbox / "features.npz")
        arrays |= {f"features/{name}": array for name, array in features.items()}
    return arrays


def _read_features(path: Path) -> Arrays:
    """Read the feature network; :func:`fill_inbox` does not compress it, so nothing may unpack to more."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        if len(parts) > _MOST_ARRAYS or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise DataError(f"{path} is compressed or has more than {_MOST_ARRAYS} arrays, so it is not read")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DataError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds
        raise DataError(
            f"{path} is damaged ({type(error).__name__}); delete it: the coordinator's next run sends it "
            "again"
        ) from None
