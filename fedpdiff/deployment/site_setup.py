"""Making a site's folder: its key, its settings and policy, and its start scripts."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from fedpdiff.deployment import scripts
from fedpdiff.deployment.addresses import check_address, check_port, check_site
from fedpdiff.deployment.certificates import (
    is_authority,
    make_authority,
    make_server,
    make_site_key,
    read_certificate,
)
from fedpdiff.deployment.coordinator import check_folder
from fedpdiff.deployment.files import SCRIPT, SECRET, Setup
from fedpdiff.deployment.site import SETTINGS
from fedpdiff.errors import ConfigError
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.privacy.policy import policy_template

_SETTINGS = """\
# This site's settings. Edit it, then run: fedpdiff doctor {root}
# What may be asked of the images is decided in policy.toml, not here.
format = "fedpdiff-site/1"

[connection]
coordinator = {coordinator}  # HOST:PORT of the coordinator's proxy
runtime-port = {runtime_port}  # on this machine only, between start-supernode and start-clientapp

[code]
# The code that this site runs for the coordinator: the one with this fingerprint, which must be installed
# here; start-clientapp refuses any other before anything of it runs. "" = whatever the coordinator ships.
# After an upgrade that you meant: fedpdiff doctor says the new fingerprint.
code-fingerprint = {fingerprint}

[node]
# The name that the coordinator admitted this site under, and that the report shows.
site-name = {name}
"""

_OPEN = """
# The images: a folder with one sub-folder per class, or a parquet file or folder. Only read, never changed.
data-path = {data}

# What must outlive a crash: the noisy copy, the ledger of what was released, the personal model.
# Back it up with fedpdiff ledger, and read docs/years.md before you restore anything.
state-dir = {state}

# Notices a ledger that was restored from an old backup. Best on another disk or machine than state-dir; never
# copy it back from a backup. Without this line it is witness.json in state-dir.
witness = {witness}

# What may be asked of the images, and what may leave.
policy = {policy}
"""

_SEALED = """
# Sealed: images, policy and ledger are on the private side, of another user. This side has two folders only.
# The finished noisy copy, put there by fedpdiff release; only read.
outbox = {outbox}

# Where the global half of the model is put, for the private side.
inbox = {inbox}
"""


@dataclass(frozen=True)
class SiteSetup:
    """What a site's folder is made from.

    Parameters
    ----------
    coordinator
        ``HOST:PORT`` of the coordinator's proxy.
    authority
        The coordinator's ``ca.crt``.
    name
        The site's name; "" = the folder's.
    data
        Absolute path of the images; "" = to be filled in.
    sealed
        Folder with ``outbox`` and ``inbox``, for the network side of a sealed site, which has no data; None
        = not sealed.
    images
        About how many images there are; proposes delta.
    runtime_port
        Port of this machine between SuperNode and ClientApp.
    """

    coordinator: str
    authority: Path
    name: str = ""
    data: str = ""
    sealed: Path | None = None
    images: int = 10_000
    runtime_port: int = 9094

    def init(self, root: Path) -> Setup:
        """Make what is missing in a site's folder, and change nothing that is there.

        Raises
        ------
        ConfigError
            When an argument is not possible, or the folder belongs to another coordinator.
        """
        check_folder(root)
        root = root.expanduser().absolute()
        name = check_site(self.name or root.name, "--name")
        self._check()
        vouching = _authority(self.authority)
        if (root / "ca.crt").exists() and (root / "ca.crt").read_bytes() != vouching:
            raise ConfigError(
                f"{root} was set up with another certificate authority than {self.authority}; if the "
                f"coordinator's has really changed (ask it, do not trust the file), delete {root / 'ca.crt'} "
                "and repeat"
            )
        setup = Setup(root)
        for folder in ("empty", "flower") if self.sealed else ("state", "witness", "empty", "flower"):
            setup.folder(folder)
        setup.write("ca.crt", vouching)
        _write_keys(setup, name)
        setup.write(SETTINGS, self._settings(root, name))
        if not self.sealed:
            setup.write("policy.toml", policy_template(self.images))
        setup.write("start-supernode", scripts.supernode(), SCRIPT)
        setup.write("start-clientapp", scripts.clientapp(), SCRIPT)
        return setup

    def _check(self) -> None:
        check_address(self.coordinator, "--coordinator")
        check_port(self.runtime_port, "--runtime-port")
        if self.data and not Path(self.data).is_absolute():
            raise ConfigError(f'--data "{self.data}" must be an absolute path')
        if self.data and self.sealed:
            raise ConfigError(
                "--data must not be given with --sealed: the images belong to the private side (fedpdiff "
                "release --data), and this side must not be able to open them"
            )

    def _settings(self, root: Path, name: str) -> str:
        values = {
            "coordinator": self.coordinator,
            "runtime_port": self.runtime_port,
            "fingerprint": code_fingerprint(),
            "name": name,
            "data": self.data,
            "state": str(root / "state"),
            "witness": str(root / "witness" / "witness.json"),
            "policy": str(root / "policy.toml"),
        }
        if self.sealed:
            shared = self.sealed.expanduser().absolute()
            values |= {"outbox": str(shared / "outbox"), "inbox": str(shared / "inbox")}
        texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
        return (_SETTINGS + (_SEALED if self.sealed else _OPEN)).format(root=root, **texts)


def _authority(path: Path) -> bytes:
    try:
        pem = path.expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"--ca {path} cannot be read ({type(error).__name__})") from None
    if b"PRIVATE KEY" in pem:
        raise ConfigError(
            f"--ca {path} holds a private key, which must not leave the coordinator; ask for "
            "ca.crt, and tell it to make a new authority"
        )
    try:
        certificate = read_certificate(pem)
    except ConfigError as error:
        raise ConfigError(f"--ca {path}: {error}") from None
    if not is_authority(certificate):
        raise ConfigError(f"--ca {path} is not an authority's certificate; ask the coordinator for ca.crt")
    return pem


def _write_keys(setup: Setup, name: str) -> None:
    if not setup.has("site.key", "site.key.pub"):
        if setup.has("site.key"):
            raise ConfigError(
                f"{setup.root}: site.key is there without site.key.pub; put it back, or delete site.key and "
                "be admitted again"
            )
        private, public = make_site_key()
        setup.write("site.key", private, SECRET)
        setup.write("site.key.pub", public)
    if not setup.has("runtime-ca.crt", "runtime.pem", "runtime.key"):
        for part in ("runtime-ca.crt", "runtime.pem", "runtime.key"):
            (setup.root / part).unlink(missing_ok=True)
        authority = make_authority(
            f"fedpdiff runtime of {name}"
        )  # its key is forgotten: it signs this one only
        server = make_server(authority, ["localhost", "127.0.0.1"])
        setup.write("runtime.key", server.key_pem, SECRET)
        setup.write("runtime.pem", server.certificate_pem)
        setup.write("runtime-ca.crt", authority.certificate_pem)
    if not setup.has("superexec.secret"):
        setup.write("superexec.secret", secrets.token_bytes(32), SECRET)
