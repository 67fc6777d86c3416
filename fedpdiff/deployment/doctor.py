"""Everything that can be checked before the first run, on either side, with what to mend."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from fedpdiff.config import RunConfig
from fedpdiff.data.columns import class_names_of, find_columns
from fedpdiff.data.reading import TRAIN_NAMES, read_local
from fedpdiff.deployment import findings as checks
from fedpdiff.deployment.connection import coordinator as ask_coordinator
from fedpdiff.deployment.coordinator import SETTINGS, Coordinator
from fedpdiff.deployment.findings import Finding
from fedpdiff.deployment.ledger_state import PRIVATE, ledger_findings, private_node
from fedpdiff.deployment.sealed_layout import network_side, private_side
from fedpdiff.deployment.site import SETTINGS as SITE_SETTINGS
from fedpdiff.deployment.site import Site
from fedpdiff.errors import ConfigError, FedpdiffError
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.privacy.policy import Policy


def examine(root: Path, fingerprint: str = "", sealed: Path | None = None) -> list[Finding]:
    """Check a folder made by ``coordinator init`` or ``site init``, or a sealed site's private state folder.

    Parameters
    ----------
    root
        The folder.
    fingerprint
        The other side's code fingerprint, or its first 12 characters or more; "" = not compared.
    sealed
        For the private side of a sealed site: the folder with ``outbox`` and ``inbox``.

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
    elif (root / PRIVATE).exists():
        own = _private(root, sealed)
    else:
        raise ConfigError(
            f"{root} has neither {SETTINGS} nor {SITE_SETTINGS} nor {PRIVATE}; give a folder made by "
            "fedpdiff coordinator init or fedpdiff site init, or the --state of fedpdiff release"
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
    found += [_code(site), *ask_coordinator(*site.coordinator, root / "ca.crt")]
    found.append(_port("SuperNode", site.runtime_port, "start-supernode"))
    if site.node.sealed:
        return found + network_side(Path(site.node.outbox), Path(site.node.inbox))
    found += [_data(site.node.data_path), _policy(site.node.policy), _state(Path(site.node.state_dir))]
    return found + ledger_findings(site.node, root)


def _code(site: Site) -> Finding:
    """Check that the pinned code is installed, and that the start script would insist on it."""
    own, pin = code_fingerprint(), site.code_fingerprint
    if not pin:
        level: Literal["ok", "note"] = "ok" if site.node.sealed else "note"
        return Finding(level, "code-fingerprint", site.trusts())
    if pin != own:
        mend = f"install the version that was pinned or, after an upgrade that you meant, pin {own}"
        return Finding("problem", "code-fingerprint", f"{pin} is not the code installed here", mend)
    script = site.root / "start-clientapp"
    if not script.is_file() or "client_app.pinned_superexec" not in script.read_text(encoding="utf-8"):
        mend = f"delete {script} and run fedpdiff site init again"
        return Finding("problem", "code-fingerprint", "start-clientapp does not check it", mend)
    return Finding("ok", "code-fingerprint", site.trusts())


def _private(state: Path, sealed: Path | None) -> list[Finding]:
    """Check the private side of a sealed site."""
    if sealed is None:
        raise ConfigError(
            f"{state} is the private side of a sealed site: give --sealed DIR, the folder of outbox and inbox"
        )
    try:
        node = private_node(state)
    except ConfigError as error:
        return [Finding("problem", PRIVATE, str(error))]
    data, policy = Path(node.data_path), Path(node.policy)
    folders = (sealed.expanduser().absolute() / name for name in ("outbox", "inbox"))
    found = [_data(node.data_path), _policy(node.policy), *private_side(state, data, policy, *folders)]
    return found + ledger_findings(node, state)


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
