"""From a request for private images to a committed release: checked, drawn, tested, written in that order."""

from __future__ import annotations

import hashlib
import json
import math
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy import steps
from fedpdiff.privacy.gaussian_noise import NoiseSource
from fedpdiff.privacy.ledger import Ledger
from fedpdiff.privacy.ledger_entries import Batch, Contents, StoredRelease
from fedpdiff.privacy.mechanism import noise_sigma, release_with_signal
from fedpdiff.privacy.noise_health import check_noise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages, image_key, person_key
from fedpdiff.privacy.release_facts import certify
from fedpdiff.privacy.request import ReleaseRequest

_CHUNK_VALUES = 1 << 22
_OWNER = (
    "The site's owner finds out why, and allows another noising with: "
    "fedpdiff ledger FOLDER --accept-failed-noise"
)


class Making:
    """One request, from its check to its commit."""

    def __init__(
        self, ledger: Ledger, request: ReleaseRequest, private: PrivateImages, secret: bytes, policy: Policy
    ) -> None:
        self._ledger = ledger
        self._request = request
        self._private = private
        self._policy = policy
        self._rows = private.first_of_each()
        self._settings = json.dumps(request.noising(), sort_keys=True)
        keys = [image_key(secret, private.digests[row]) for row in self._rows]
        labels = private.images.labels.numpy()[self._rows].tolist()
        persons: list[bytes | None] = [None] * len(keys)
        if private.persons is not None:
            persons = [person_key(secret, private.persons[row]) for row in self._rows]
        ledger.want(self._settings, keys, labels, persons)
        self._new = self._rows[ledger.new_rows()]
        members = sorted(key + b"%d;" % label for key, label in zip(keys, labels, strict=True))
        self._contents = Contents(
            settings=self._settings,
            delta=float(request.delta),
            members=hashlib.sha256(b"".join(members)).digest(),
            duplicates=len(private) - len(keys),
        )

    def check(self) -> None:
        """Refuse what policy or ledger do not allow, before anything is drawn.

        Raises
        ------
        PrivacyError
            Naming the limit.
        """
        totals, request = self._ledger.totals, self._request
        if len(self._new) and totals.failed_batches(self._settings):
            raise PrivacyError(
                "a release with these settings failed its noise health check before; nothing was released. "
                + _OWNER
            )
        if len(self._new):
            self._check_newest()
        self._check_persons()
        self._policy.check_spent(request.schedule, totals.spent_if_made(request.mu), request.delta)
        if len(self._new):
            self._check_kinds()
            self._ledger.check()

    def _check_newest(self) -> None:
        doubt = self._ledger.losses.doubt
        if doubt:
            raise PrivacyError(
                f"this ledger may not be the newest one of this site: {doubt.reason}. {len(self._new)} "
                "images look new to it and may have been noised before; nothing was released. What it holds "
                "is sent again as it was. The site's owner restores a newer backup, or settles it: "
                "fedpdiff ledger DIR --nothing-lost, or --lost CERTIFICATE..."
            )

    def _check_kinds(self) -> None:
        kinds = self._ledger.totals.noise_kinds()
        if kinds and (self._request.noise == "seeded" or "seeded" in kinds):
            raise PrivacyError(
                "release-noise = 'seeded': seeded noise would repeat, and secure noise beside it would not "
                "make these images private; use another state folder (a simulation: start a run of its own)"
            )

    def _check_persons(self) -> None:
        limit, totals = self._policy.images_per_person, self._ledger.totals
        if not limit:
            return
        if len(self._new) and totals.losses.uncertain:
            raise PrivacyError(
                f"images-per-person = {limit} of this site's policy cannot be checked: releases were lost "
                "from this ledger, and with them who was shown; nothing was released"
            )
        if self._private.persons is None or totals.images_of_unknown_persons():
            raise PrivacyError(
                f"images-per-person = {limit} of this site's policy cannot be checked: of some images, now "
                "or in earlier releases, it is not known who is shown; nothing was released. Name "
                "person-column, and put the images of earlier releases back into the data"
            )
        if totals.most_images_of_a_person() > limit:
            raise PrivacyError(
                f"a person has more images than images-per-person = {limit} of this site's policy; nothing "
                "was released"
            )

    def find(self) -> StoredRelease | None:
        """Return the release if these very images were released so before."""
        release = self._ledger.find_release(self._contents)
        if release and self._ledger.persons_are_new():
            with self._ledger.transaction():
                self._ledger.add_persons()
        return release

    def make(self, noise: NoiseSource) -> StoredRelease:
        """Noise the new images, if any, and commit them with the release that they complete."""
        batch = self._draw(noise) if len(self._new) else None
        with self._ledger.transaction():
            if batch:
                self._ledger.add_batch(self._settings, batch)
            self._ledger.add_persons()
            if batch is None or batch.integers is not None:
                release = self._ledger.add_release(self._contents, _software())
                # What cannot be certified is not made: this raises, and all of it is rolled back, unseen.
                labels = self._ledger.labels(release)
                certify(release, self._request.noising(), labels, self._ledger.totals, self._policy)
            steps.reached("inside transaction")
        steps.reached("committed")
        if batch and batch.integers is None:
            failed = ", ".join(json.loads(batch.health)["failed"])
            raise PrivacyError(
                f"the noise failed its health check ({failed}); nothing was released, but the noising is "
                f"charged. {_OWNER}"
            )
        return release

    def _draw(self, noise: NoiseSource) -> Batch:
        count, request = len(self._new), self._request
        positions = np.frombuffer(noise.read(8 * count), np.uint64) >> np.uint64(1)
        integers, signal = self._integers(noise)
        steps.reached("noise drawn")
        health = check_noise(integers, signal, noise_sigma(request.alpha_bar))
        del signal
        steps.reached("health checked")
        return Batch(
            mu=request.mu,
            coordinator=request.coordinator,
            software=_software(),
            health=json.dumps(health.to_dict()),
            integers=integers if health.ok else None,
            positions=positions.tolist(),
        )

    def _integers(self, noise: NoiseSource) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """Return release and signal of the new images, without a second full copy of them as pixels."""
        import torch  # here, because the accounting must be quick to import

        request, images = self._request, self._private.images
        shape = (len(self._new), *images.images.shape[1:])
        integers, signal = np.empty(shape, np.int16), np.empty(shape, np.int16)
        step = max(1, _CHUNK_VALUES // math.prod(shape[1:]))
        for start in range(0, len(self._new), step):
            part = slice(start, start + step)
            pixels = images.select(torch.from_numpy(self._new[part])).pixels().numpy()
            integers[part], signal[part] = release_with_signal(
                pixels, request.centre, request.clip, request.alpha_bar, noise
            )
        return integers, signal


def _software() -> str:
    try:
        return f"fedpdiff {version('fedpdiff')}"
    except PackageNotFoundError:  # run from a bundle that Flower unpacked
        return "fedpdiff, not installed"
