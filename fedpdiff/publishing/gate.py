"""Whether a run's global model may be published: every upload behind it is certified, and verified."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpdiff.deletions import Deletion
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.errors import PrivacyError, RunError
from fedpdiff.federation.spool import Spool
from fedpdiff.federation.verification import verify_certificate, verify_upload
from fedpdiff.privacy.certificate_check import parse_certificate
from fedpdiff.privacy.verify import CERTIFICATE
from fedpdiff.results import Results
from fedpdiff.runfolder import RunFolder


@dataclass(frozen=True, eq=False)
class PooledUpload:
    """One upload that the model was trained on; whose it was is not among what is published.

    Attributes
    ----------
    certificate
        Verified.
    deleted
        Whether its bytes were compared with the certificate earlier and have been deleted since.
    simulated
        Whether a simulated client made it.
    """

    certificate: dict[str, Any]
    deleted: bool
    simulated: bool


@dataclass(frozen=True, eq=False)
class Publishable:
    """What may be published of a run.

    Attributes
    ----------
    model
        The global half.
    results
        Of the run.
    uploads
        All that the model was trained on, in an order that says nothing about the sites.
    """

    model: Denoiser
    results: Results
    uploads: list[PooledUpload]


def publishable(folder: Path) -> Publishable:
    """Verify what a run's global model was trained on.

    Parameters
    ----------
    folder
        The run folder.

    Raises
    ------
    RunError
        When the run has not finished, or its model is not that of its uploads.
    PrivacyError
        When noise was seeded, or an upload has no valid certificate, does not fit it, or was withdrawn; names
        the site and the reason.
    """
    run, results = RunFolder(folder), Results.read(folder)
    if results.release_noise != "secure":
        raise PrivacyError(
            f"{folder} is NOT PRIVATE: its noise was seeded, so whoever knows the seed can take it off, and "
            'no upload has a certificate. Nothing was written; run it with release-noise = "secure"'
        )
    if not run.global_half.is_dir():
        raise RunError(f"{folder} holds no global model: the run has not finished, or failed")
    stated = {summary.site for summary in results.certificates}
    sites = sorted({spool.name for spool in run.spools()} | stated | set(results.participants))
    if not sites:
        raise RunError(f"{folder} does not say on which uploads its model was trained; nothing was written")
    uploads = [_upload(run.spool(site), site) for site in sites]
    model = Denoiser.from_pretrained(run.global_half)
    _check_model(model, results, uploads)
    uploads.sort(key=lambda upload: str(upload.certificate["sha256"]))
    return Publishable(model, results, uploads)


def _upload(spool: Path, site: str) -> PooledUpload:
    deletion = Deletion.read(spool)
    if deletion and deletion.reason == "withdrawn":
        raise PrivacyError(
            f"{site} has withdrawn: {deletion.words}. A model trained on it is not published; run again "
            "without this site"
        )
    if deletion and not deletion.verified:
        raise PrivacyError(
            f"{site}: {deletion.words}, and before that it was not found to fit its certificate; nothing was "
            "written"
        )
    problems = verify_certificate(spool) if deletion else verify_upload(spool)
    if problems:
        raise PrivacyError(
            f"the upload of {site} has no valid certificate: {'; '.join(problems[:3])}. Nothing was written; "
            "fedpdiff verify says more"
        )
    certificate = parse_certificate((spool / CERTIFICATE).read_bytes())
    return PooledUpload(certificate, deletion is not None, Spool.open(spool).manifest.number is not None)


def _check_model(model: Denoiser, results: Results, uploads: list[PooledUpload]) -> None:
    """Refuse a model that is not the global half of these uploads."""
    config, centre = model.config, model.centre.cpu().numpy()
    digest = hashlib.sha256(repr(centre.shape).encode() + centre.tobytes()).hexdigest()
    own = {
        "t0": config.t0,
        "clip": config.clip,
        "schedule": config.schedule,
        "diffusion_steps": config.diffusion_steps,
        "image_shape": config.image_shape,
        "centre_sha256": digest,
    }
    if config.kind == "personal":
        raise PrivacyError(
            "server/global holds a personal half, which knows its client's images: never publish it"
        )
    if config.release_noise != "secure":
        raise PrivacyError("server/global was trained on seeded noise: NOT PRIVATE. Nothing was written")
    if config.class_names != results.class_names:
        raise RunError("server/global has other classes than results.json: it is not this run's model")
    for upload in uploads:
        for key, value in own.items():
            if upload.certificate[key] != value:
                raise RunError(
                    f"server/global is not this run's model: its {key} is {value!r}, but the uploads' "
                    f"{upload.certificate[key]!r}"
                )
