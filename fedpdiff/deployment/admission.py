"""Which sites may join: asked of the running SuperLink, and written down beside it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from fedpdiff.deployment.addresses import check_site
from fedpdiff.deployment.coordinator import CONNECTION, Coordinator
from fedpdiff.errors import ConfigError, RunError
from fedpdiff.runfolder import write_json

SITES = "sites.json"
_SECONDS = 60


def admit(root: Path, key: Path, name: str) -> str:
    """Register a site's public key with the running SuperLink; once, however often asked.

    Parameters
    ----------
    root
        The coordinator's folder.
    key
        The site's ``site.key.pub``.
    name
        The site's name.

    Returns
    -------
    str
        What was done, in words.

    Raises
    ------
    ConfigError
        When it is not a public key, or name or key belong to another site.
    RunError
        When the SuperLink cannot be reached or refuses.
    """
    Coordinator.load(root)
    check_site(name, "--name")
    digest = _digest(key)
    sites = _load(root)
    for other, entry in sites.items():
        if entry["revoked"] is None and entry["key-sha256"] == digest:
            if other == name:
                return f"{name} was admitted already"
            raise ConfigError(f"{key} is the key of {other}; every site has a key of its own")
    if name in sites and sites[name]["revoked"] is None:
        raise ConfigError(f"--name {name} was admitted with another key; revoke it first")
    answer = _flower(root, "register", str(key.absolute()), CONNECTION, "--name", name)
    sites[name] = {
        "node-id": str(answer["node-id"]),
        "key-sha256": digest,
        "admitted": _now(),
        "revoked": None,
    }
    _save(root, sites)
    return f"{name} is admitted"


def revoke(root: Path, name: str) -> str:
    """Take a site's right to join back; its next call to the SuperLink is refused.

    Raises
    ------
    ConfigError
        When there is no such site.
    RunError
        When the SuperLink cannot be reached or refuses.
    """
    Coordinator.load(root)
    sites = _load(root)
    if name not in sites:
        raise ConfigError(f'no site "{name}" was admitted; admitted were: {", ".join(sites) or "none"}')
    if sites[name]["revoked"]:
        return f"{name} was revoked already"
    _flower(root, "unregister", sites[name]["node-id"], CONNECTION)
    sites[name]["revoked"] = _now()
    _save(root, sites)
    return (
        f"{name} is revoked and can no longer join; its uploads stay until fedpdiff coordinator forget "
        "deletes them"
    )


def _digest(key: Path) -> str:
    try:
        text = key.expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"{key} cannot be read ({type(error).__name__})") from None
    if b"PRIVATE KEY" in text:
        raise ConfigError(
            f"{key} is a private key, which must stay with the site; let it make a new pair and send "
            "site.key.pub"
        )
    try:
        loaded = load_ssh_public_key(text)
    except Exception:
        raise ConfigError(f"{key} is not a public key; ask the site for site.key.pub") from None
    if not isinstance(loaded, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{key} is not an elliptic-curve key; fedpdiff site init makes the right kind")
    return hashlib.sha256(b" ".join(text.split()[:2])).hexdigest()


def _flower(root: Path, *arguments: str) -> dict[str, Any]:
    """Run ``flwr supernode`` against this coordinator's SuperLink and return its answer."""
    environment = {
        **os.environ,
        "FLWR_HOME": str((root / "flower").absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    command = [str(Path(sys.executable).parent / "flwr"), "supernode", *arguments, "--format", "json"]
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=root / "empty",  # flwr takes a folder of the connection's name for an app of an older kind
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"the SuperLink did not answer within {_SECONDS} s; is start-superlink running?"
        ) from None
    try:
        answer = json.loads(done.stdout)
        if answer["success"] is True:
            return dict(answer)
    except (ValueError, KeyError, TypeError):
        pass
    said = " ".join((done.stdout + done.stderr).split())[-600:]
    raise RunError(f"the SuperLink refused, or is not running (start-superlink must be): {said}")


def _load(root: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads((root / SITES).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{root / SITES} is damaged: {error}") from None


def _save(root: Path, sites: dict[str, dict[str, Any]]) -> None:
    write_json(root / SITES, sites)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
