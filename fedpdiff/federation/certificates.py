"""Certificates on the network: what a site states of its upload, checked against what was agreed and sent."""

from __future__ import annotations

import json
from typing import Any

from fedpdiff.errors import MessageError, PrivacyError
from fedpdiff.federation.protocol import ReleaseManifest
from fedpdiff.privacy.certificate_check import check_certificate, parse_certificate

_DECLARED = ("t0", "alpha_bar", "schedule", "diffusion_steps", "clip", "delta", "image_shape")


def certificate_text(certificate: dict[str, Any] | None) -> str:
    """Return a certificate as it travels; empty for seeded noise, which has none."""
    return json.dumps(certificate, indent=2) + "\n" if certificate else ""


def check_declared(manifest: ReleaseManifest, settings: dict[str, Any]) -> None:
    """Refuse a certificate that is false, or about another release than the agreed one.

    Parameters
    ----------
    manifest
        What the site declares, already found to be the agreed mechanism.
    settings
        Of the agreed request, as ``ReleaseRequest.settings`` gives them.

    Raises
    ------
    MessageError
        Naming the site and what is wrong.
    """
    if manifest.noise == "seeded":
        if manifest.certificate:
            raise MessageError(f"{manifest.site} sends a certificate for seeded noise, which has none")
        return
    agreed = {key: value for key, value in settings.items() if key != "noise"}
    _compare(manifest.site, check_stated(manifest), agreed)


def check_stated(manifest: ReleaseManifest) -> dict[str, Any]:
    """Return a site's certificate if it is right and says what the site's manifest says.

    Raises
    ------
    MessageError
        Naming the site and what is wrong.
    """
    certificate = _read(manifest)
    problems = check_certificate(certificate)
    if problems:
        raise MessageError(f"{manifest.site} sends a false certificate: {'; '.join(problems[:3])}")
    declared: dict[str, Any] = {key: getattr(manifest, key) for key in _DECLARED}
    counts = {str(label): count for label, count in enumerate(manifest.class_counts) if count}
    _compare(manifest.site, certificate, declared | {"class_counts": counts})
    return certificate


def check_received(manifest: ReleaseManifest, upload_sha256: str) -> None:
    """Refuse an upload whose bytes are not those that its certificate is about.

    Parameters
    ----------
    manifest
        Of the upload, with a certificate that :func:`check_stated` accepted; seeded noise has none.
    upload_sha256
        Of all codes and labels, from :func:`~fedpdiff.privacy.certificate_digests.upload_digest`.

    Raises
    ------
    MessageError
        When they differ.
    """
    if manifest.noise == "secure" and _read(manifest)["wire"][str(manifest.wire_bits)] != upload_sha256:
        raise MessageError(f"{manifest.site} sent other bytes than its certificate is about")


def _compare(site: str, certificate: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if certificate[key] != value:
            raise MessageError(
                f"{site} sends the certificate of another release: its {key} is {certificate[key]!r}, but "
                f"must be {value!r}"
            )


def _read(manifest: ReleaseManifest) -> dict[str, Any]:
    try:
        return parse_certificate(manifest.certificate)
    except PrivacyError as error:
        raise MessageError(f"{manifest.site}: {error}") from None
