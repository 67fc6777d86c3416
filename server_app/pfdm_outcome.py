"""What ``results.json`` says of a run of PFDM besides scores and traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedpdiff.federation.server import ServerTasks
from fedpdiff.federation.spool import Spool
from fedpdiff.federation.verification import verify_upload
from fedpdiff.privacy.cautions import Caution
from fedpdiff.privacy.certificate_check import parse_certificate
from fedpdiff.privacy.release import NOT_PRIVATE
from fedpdiff.privacy.statement import privacy_statement
from fedpdiff.results import CertificateSummary

_LOCAL_SAME = "local-only is the personal denoiser itself, sampled on the whole chain"
_LOCAL_SEPARATE = (
    "local-only is a separate network on the whole chain, trained with the same number of gradient steps as "
    "the personal denoiser, which knows levels up to the hand-off only"
)
_SERVER_SEES = (
    "one clipped, noised copy of every image, with its label, once; nothing that was trained on them"
)


def outcome(tasks: ServerTasks, cautions: list[Caution]) -> dict[str, Any]:
    """Return what ``results.json`` says of PFDM itself: guarantee, certificates, notes."""
    config, mechanism = tasks.config, tasks.agreement.mechanism
    statement = privacy_statement(
        mechanism.alpha_bar, mechanism.clip, mechanism.delta, mechanism.t0, mechanism.schedule
    )
    return {
        "server_sees": _SERVER_SEES,
        "server_steps": config.global_steps,
        "privacy": _stamp(config.release_noise) | statement,
        "certificates": [_certificate(folder) for folder in tasks.folder.spools()],
        "notes": [
            _LOCAL_SEPARATE if config.personal_levels == "below-t0" else _LOCAL_SAME,
            # Tables and page say themselves what a large epsilon and seeded noise mean.
            *(str(caution) for caution in cautions if caution.subject in ("delta", "ball")),
        ],
    }


def _stamp(noise: str) -> dict[str, str]:
    return {"not_private": NOT_PRIVATE} if noise == "seeded" else {}


def _certificate(folder: Path) -> CertificateSummary:
    """Sum up what a pooled upload is certified to guarantee, verified once more as it lies on the disk."""
    manifest = Spool.open(folder).manifest
    if not manifest.certificate:
        return CertificateSummary(site=manifest.site, images=manifest.images, verified=False)
    stated = parse_certificate(manifest.certificate)
    persons = stated["persons"] or {"most_images": None, "epsilon": None}
    return CertificateSummary(
        site=manifest.site,
        images=stated["n_images"],
        epsilon=stated["epsilon"],
        delta=stated["delta"],
        noisings=stated["composition"]["noisings_per_image"],
        epsilon_total=stated["composition"]["epsilon_total"],
        most_images_of_a_person=persons["most_images"],
        epsilon_of_that_person=persons["epsilon"],
        sha256=stated["sha256"],
        verified=not verify_upload(folder),
    )
