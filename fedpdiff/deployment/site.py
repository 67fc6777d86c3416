"""A site's folder: its key, its settings and policy, and its start scripts."""

from __future__ import annotations

import json
import secrets
import shlex
import tomllib
from pathlib import Path
from typing import Any

from fedpdiff.config import NodeConfig
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
from fedpdiff.errors import ConfigError
from fedpdiff.privacy.policy import policy_template

SETTINGS = "site.toml"

_SETTINGS = """\
# This site's settings. Edit it, then run: fedpdiff doctor {root}
# What may be asked of the images is decided in policy.toml, not here.

[connection]
coordinator = {coordinator}  # HOST:PORT of the coordinator's proxy
runtime-port = {runtime_port}  # on this machine only, between start-supernode and start-clientapp

[node]
# The name that the coordinator admitted this site under, and that the report shows.
site-name = {name}

# The images: a folder with one sub-folder per class, or a parquet file or folder. Only read, never changed.
data-path = {data}

# What must outlive a crash: the noisy copy, the ledger of what was released, the personal model.
# Back it up, and never restore an old ledger: see the deployment guide.
state-dir = {state}

# What may be asked of the images, and what may leave.
policy = {policy}
"""


class Site:
    """Settings of a site, as its ``site.toml`` says them.

    Parameters
    ----------
    root
        The site's folder.
    coordinator
        ``HOST:PORT`` of the coordinator's proxy.
    runtime_port
        Port of this machine between SuperNode and ClientApp.
    node
        The node settings.

    Raises
    ------
    ConfigError
        When a setting is not possible.
    """

    def __init__(self, root: Path, coordinator: str, runtime_port: int, node: dict[str, Any]) -> None:
        self.root = root
        self.coordinator = check_address(coordinator, "coordinator")
        self.runtime_port = check_port(runtime_port, "runtime-port")
        if not node.get("data-path") and not node.get("outbox"):
            raise ConfigError(f'data-path = "" in {root / SETTINGS}: set it to the folder of the images')
        for key, value in node.items():
            if isinstance(value, str) and '"' in value:
                raise ConfigError(
                    f"{key} in {root / SETTINGS} must not have a quotation mark (Flower's limit)"
                )
        self.node = NodeConfig.parse(node)
        self._given = node

    @classmethod
    def load(cls, root: Path) -> Site:
        """Read the settings of a site's folder.

        Raises
        ------
        ConfigError
            When they cannot be read, or one is missing or not possible.
        """
        path = root / SETTINGS
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
            connection, node = found["connection"], found["node"]
            return cls(root, str(connection["coordinator"]), connection["runtime-port"], dict(node))
        except OSError:
            raise ConfigError(
                f"{root} is not a site's folder (no {SETTINGS}); fedpdiff site init DIR --coordinator "
                "HOST:PORT --ca FILE makes one"
            ) from None
        except KeyError as error:
            raise ConfigError(
                f"{path} has no {error}; compare with a new one from fedpdiff site init"
            ) from None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None

    def node_config(self) -> str:
        """Return the settings as Flower's ``--node-config`` takes them."""
        return " ".join(
            f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in self._given.items()
        )

    def shell_settings(self) -> str:
        """Return what the start scripts need, as shell variables."""
        settings = {
            "SUPERLINK": "{}:{}".format(*self.coordinator),
            "RUNTIME_PORT": str(self.runtime_port),
            "NODE_CONFIG": self.node_config(),
        }
        return "".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items())


def init_site(
    root: Path,
    coordinator: str,
    authority: Path,
    name: str = "",
    data: str = "",
    images: int = 10_000,
    runtime_port: int = 9094,
) -> Setup:
    """Make what is missing in a site's folder, and change nothing that is there.

    Parameters
    ----------
    root
        The folder.
    coordinator
        ``HOST:PORT`` of the coordinator's proxy.
    authority
        The coordinator's ``ca.crt``.
    name
        The site's name; "" = the folder's.
    data
        Absolute path of the images; "" = to be filled in.
    images
        About how many images there are; proposes delta.
    runtime_port
        Port of this machine between SuperNode and ClientApp.

    Raises
    ------
    ConfigError
        When an argument is not possible, or the folder belongs to another coordinator.
    """
    check_folder(root)
    root = root.expanduser().absolute()
    check_address(coordinator, "--coordinator")
    check_port(runtime_port, "--runtime-port")
    name = check_site(name or root.name, "--name")
    if data and not Path(data).is_absolute():
        raise ConfigError(f'--data "{data}" must be an absolute path')
    vouching = _authority(authority)
    if (root / "ca.crt").exists() and (root / "ca.crt").read_bytes() != vouching:
        raise ConfigError(
            f"{root} was set up with another certificate authority than {authority}; if the coordinator's "
            f"has really changed (ask it, do not trust the file), delete {root / 'ca.crt'} and repeat"
        )
    setup = Setup(root)
    for folder in ("state", "empty", "flower"):
        setup.folder(folder)
    setup.write("ca.crt", vouching)
    _write_keys(setup, name)
    values = {
        "coordinator": coordinator,
        "runtime_port": runtime_port,
        "name": name,
        "data": data,
        "state": str(root / "state"),
        "policy": str(root / "policy.toml"),
    }
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    setup.write(SETTINGS, _SETTINGS.format(root=root, **texts))
    setup.write("policy.toml", policy_template(images))
    setup.write("start-supernode", scripts.supernode(), SCRIPT)
    setup.write("start-clientapp", scripts.clientapp(), SCRIPT)
    return setup


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
