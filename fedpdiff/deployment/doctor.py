"""Everything that can be checked before the first run, on either side, with what to mend."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from fedpdiff.config import RunConfig
from fedpdiff.data.columns import class_names_of, find_columns
from fedpdiff.data.reading import TRAIN_NAMES, read_local
from fedpdiff.deployment import findings as checks
from fedpdiff.deployment.connection import coordinator as ask_coordinator
from fedpdiff.deployment.coordinator import SETTINGS, Coordinator
from fedpdiff.deployment.findings import Finding
from fedpdiff.deployment.site import SETTINGS as SITE_SETTINGS
from fedpdiff.deployment.site import Site
from fedpdiff.errors import ConfigError, FedpdiffError
from fedpdiff.privacy.policy import Policy


def examine(root: Path, fingerprint: str = "") -> list[Finding]:
    """Check a folder made by ``coordinator init`` or ``site init``.

    Parameters
    ----------
    root
        The folder.
    fingerprint
        The other side's code fingerprint, or its first 12 characters or more; "" = not compared.

    Raises
    ------
    ConfigError
        When it is neither's folder.
    """
    root = root.expanduser().absolute()
    if (root / SETTINGS).exists():
        own = _coordinator(root)
    elif (root / SITE_SETTINGS).exists():
        own = _site(root)
    else:
        raise ConfigError(
            f"{root} has neither {SETTINGS} nor {SITE_SETTINGS}; give a folder made by fedpdiff coordinator "
            "init or fedpdiff site init"
        )
    return [*checks.versions(fingerprint), *own, checks.disk(root), checks.gpu()]


def _coordinator(root: Path) -> list[Finding]:
    settings = Coordinator.load(root)
    renew = "delete server.pem and server.key and run fedpdiff coordinator init again, then restart"
    again = (
        "make a new authority: delete ca.crt, ca.key, server.pem, server.key; every site needs the new ca.crt"
    )
    return [
        *checks.private_files(root, ["ca.key", "server.key", "superexec.secret"]),
        checks.certificate(root, "ca.crt", "ca.crt", [], again),
        checks.certificate(root, "server.pem", "ca.crt", [settings.host, "localhost"], renew),
        _proxy(root),
        _port("SuperLink", settings.superlink_port, "start-superlink"),
        _port("proxy", settings.port, "start-proxy"),
    ]


def _proxy(root: Path) -> Finding:
    """Check that nginx is there and understands its configuration."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if nginx is None:
        return Finding(
            "problem", "nginx", "not installed", "apt-get install nginx-light (or your system's nginx)"
        )
    command = [
        nginx,
        "-t",
        "-p",
        f"{root}/proxy",
        "-c",
        f"{root}/nginx.conf",
        "-e",
        f"{root}/proxy/error.log",
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        return Finding(
            "problem", "nginx", f"refuses nginx.conf: {said}", "delete nginx.conf and run init again"
        )
    return Finding("ok", "nginx", f"{nginx} accepts nginx.conf")


def _port(what: str, port: int, script: str) -> Finding:
    if checks.listens(port):
        return Finding("note", f"port {port}", f"something answers; right if it is your {what} ({script})")
    return Finding("ok", f"port {port}", f"free for the {what}")


def _site(root: Path) -> list[Finding]:
    renew = (
        "delete runtime-ca.crt, runtime.pem and runtime.key and run fedpdiff site init again, then restart"
    )
    found = [
        *checks.private_files(root, ["site.key", "runtime.key", "superexec.secret"]),
        checks.certificate(root, "ca.crt", "ca.crt", [], "ask the coordinator for its new ca.crt"),
        checks.certificate(root, "runtime.pem", "runtime-ca.crt", ["localhost"], renew),
    ]
    try:
        site = Site.load(root)
    except ConfigError as error:
        return [*found, Finding("problem", SITE_SETTINGS, str(error), f"edit {root / SITE_SETTINGS}")]
    found += ask_coordinator(*site.coordinator, root / "ca.crt")
    found.append(_port("SuperNode", site.runtime_port, "start-supernode"))
    if site.node.data_path:  # a sealed site's process has none of these
        found += [_data(site.node.data_path), _policy(site.node.policy), _state(Path(site.node.state_dir))]
    return found


def _data(data_path: str) -> Finding:
    """Read the images as a run would; say how many, never what they show."""
    config = RunConfig()
    try:
        parts = read_local(data_path, "data-path")
        train = next((parts[name] for name in TRAIN_NAMES if name in parts), None)
        train = next(iter(parts.values())) if train is None else train
        columns = find_columns(train, config)
        classes = class_names_of(train, columns[1])
        train[0][columns[0]].load()
    except FedpdiffError as error:
        return Finding("problem", "data", str(error), "see docs/data.md for what can be read")
    except Exception as error:
        # Only the kind of error: a library's message may quote what it read, which is private.
        said = f"{data_path} cannot be decoded ({type(error).__name__})"
        return Finding("problem", "data", said, "see docs/data.md for what can be read")
    return Finding("ok", "data", f"{len(train)} images, {len(classes)} classes in {data_path}")


def _policy(path: str) -> Finding:
    try:
        policy = Policy.load(path)
    except ConfigError as error:
        return Finding("problem", "policy", str(error), f"edit {path}")
    return Finding("ok", "policy", f"epsilon at most {policy.epsilon:g} at delta = {policy.delta:g}")


def _state(folder: Path) -> Finding:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        mend = "let the user who starts the scripts own it, or set another state-dir"
        return Finding("problem", "state-dir", f"{folder} cannot be written", mend)
    return checks.disk(nearest)
