"""One release of each image: noised once, kept in the ledger, re-sent ever after.

WITNESS            in a second place: how far the ledger had come, so that an old one is noticed
FOLDER/            0700
  secret           32 random bytes, never sent: the key under which images and persons are known
  ledger.sqlite    every noising for ever, append-only, with the exact integers
  lock
  witness-path     where the witness lies
  outbox/          what may be sent, made from the ledger
    release.npy    int16 (N, C, H, W), the noisy integers, rows in random order
    labels.npy     int64 (N,), in the same order
    manifest.json  mechanism, settings, counts, hashes
    certificate.json  what the release guarantees; none for seeded noise
  outbox-hashed.json  that these very files were hashed and found right

The same request gives the same bytes. Of a data set that has grown only the new images are noised; an image
that was taken out is no longer sent. Other settings mean another noising, which composes with the earlier
ones (mu_total = sqrt(sum mu^2), exact for Gaussians) and is refused beyond the client's policy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import steps
from fedpdiff.privacy.gaussian_noise import NoiseSource
from fedpdiff.privacy.ledger import ADVICE, Ledger
from fedpdiff.privacy.ledger_entries import StoredRelease
from fedpdiff.privacy.making import Making
from fedpdiff.privacy.manifest import NOT_PRIVATE, make_manifest, same_bytes
from fedpdiff.privacy.outbox import Outbox, Release
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release_facts import certify
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.privacy.store_folder import StoreFolder

__all__ = ["NOT_PRIVATE", "Release", "ReleaseRequest", "ReleaseStore"]

_NONE = "there is no release yet; the server asks for one first"


class ReleaseStore:
    """The releases of one client.

    Parameters
    ----------
    folder
        Made if missing, readable by its owner only. It must outlive runs, and be backed up like the data.
    policy
        The client's limits; they bind every request, and re-sending as well.
    witness
        File in a second place that notices a ledger restored from an old backup; None = none, as in
        simulation, where no state outlives its run.
    """

    def __init__(self, folder: str | os.PathLike[str], policy: Policy, witness: Path | None = None) -> None:
        """Make the folder."""
        self.policy = policy
        self._folder = StoreFolder(Path(folder), witness)
        self._outbox = Outbox(self._folder.root)

    def get_or_make(self, request: ReleaseRequest, private: PrivateImages, noise: NoiseSource) -> Release:
        """Return the release of these images, noising those that never were with these settings.

        Parameters
        ----------
        request
            The settings.
        private
            The images; of exact duplicates the first is released.
        noise
            Of the requested kind.

        Raises
        ------
        PrivacyError
            When the policy does not allow it (the message names the limit), the noise fails its health check
            or failed it before, ledger or secret are damaged or lost, new images would have to be noised
            while the ledger may not be the newest, or ``noise`` is of the wrong kind.
        """
        if noise.kind != request.noise or noise.private != (request.noise == "secure"):
            raise PrivacyError(f"release-noise is {request.noise!r}, but the noise source is {noise.kind!r}")
        self.policy.check_request(request)
        if len(private) == 0:
            raise PrivacyError("there are no images to release; this client has no training images")
        with self._folder.locked():
            steps.reached("locked")
            with self._folder.ledger() as (ledger, secret):
                found = self._found()
                _refuse_older_ledger(ledger, found)
                making = Making(ledger, request, private, secret, self.policy)
                making.check()
                steps.reached("checked")
                release = making.find() or making.make(noise)
                self._folder.tell_witness(ledger)
                steps.reached("witnessed")
                return self._serve(ledger, release, found)

    def read(self) -> Release:
        """Return the release that was asked for last; never noises anything.

        Its arrays are hashed again only if they are other files than when they were found right.

        Raises
        ------
        PrivacyError
            When there is none, the policy no longer allows it, or ledger or secret are damaged or lost.
        """
        with self._folder.locked():
            if not self._folder.begun:
                raise PrivacyError(_NONE)
            with self._folder.ledger() as (ledger, _):
                found = self._found(again=False)
                _refuse_older_ledger(ledger, found)
                return self._serve(ledger, _last(ledger, found), found)

    def _found(self, again: bool = True) -> Release | None:
        """Return what is in the outbox, unless that is damaged."""
        try:
            return self._outbox.read(again)
        except PrivacyError:
            return None  # made again from the ledger

    def _serve(self, ledger: Ledger, release: StoredRelease, found: Release | None) -> Release:
        """Bring a release into the outbox, unless it was found there, and read it from the disk."""
        settings = json.loads(release.settings)
        spent = ledger.totals.of_release(release.id)
        self.policy.check_spent(settings["schedule"], spent.mu, release.delta)
        labels = ledger.labels(release)
        manifest = make_manifest(release, settings, labels)
        certificate = certify(release, settings, labels, ledger.totals, self.policy)
        if found is None or (found.manifest, found.certificate) != (manifest, certificate):
            self._outbox.write(manifest, certificate, ledger.integers(release), labels)
            steps.reached("outbox written")
            found = self._outbox.read()
        steps.reached("read again")
        return found


def _refuse_older_ledger(ledger: Ledger, found: Release | None) -> None:
    """Refuse to go on when the outbox holds a release that the ledger does not know."""
    if found is None or any(same_bytes(release, found.manifest) for release in ledger.releases()):
        return
    if ledger.losses.knows(found.manifest["sha256"], found.manifest["labels_sha256"]):
        return  # its loss is charged
    raise PrivacyError(
        f"the ledger is older than what was sent, restore a newer one: {ADVICE}. If there is none: "
        "fedpdiff ledger DIR --lost with the certificates of all that was sent"
    )


def _last(ledger: Ledger, found: Release | None) -> StoredRelease:
    """Return the release in the outbox; if that is damaged, the last one made."""
    releases = ledger.releases()
    if not releases:
        raise PrivacyError(_NONE)
    if found:
        for release in reversed(releases):
            if same_bytes(release, found.manifest) and release.delta == found.manifest.get("delta"):
                return release
    return releases[-1]
