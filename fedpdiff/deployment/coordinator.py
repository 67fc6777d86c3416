"""The coordinator's folder: authority, server certificate, settings, proxy and start scripts."""

from __future__ import annotations

import secrets
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from fedpdiff.deployment import scripts
from fedpdiff.deployment.addresses import check_host, check_port
from fedpdiff.deployment.certificates import Identity, make_authority, make_server
from fedpdiff.deployment.files import SCRIPT, SECRET, Setup, check_settings_format
from fedpdiff.errors import ConfigError

SETTINGS = "coordinator.toml"
FORMAT = "fedpdiff-coordinator/1"
CONNECTION = "fedpdiff"  # the SuperLink's name in Flower's own configuration

_SETTINGS = """\
# How this coordinator was set up; the start scripts and nginx.conf were made from it.
# To change something: delete this file, server.pem, server.key, nginx.conf, flower/config.toml and the
# start scripts, and run fedpdiff coordinator init again. The authority (ca.crt, ca.key) stays.
format = "fedpdiff-coordinator/1"
host = "{host}"           # the name by which sites reach this machine
port = {port}             # where the proxy listens, for sites
superlink-port = {superlink_port}   # where the SuperLink listens, on this machine only
# fedpdiff coordinator expire deletes uploads that are older; change it as you like.
keep-uploads-days = 365
"""

_CONNECTION = """\
[superlink]
default = "{name}"

[superlink.{name}]
address = "127.0.0.1:{port}"
root-certificates = "{authority}"
"""


@dataclass(frozen=True)
class Coordinator:
    """Settings of a coordinator.

    Parameters
    ----------
    host
        Name or address by which sites reach it.
    port
        Where the proxy listens.
    superlink_port
        Where the SuperLink listens, on the machine itself only.
    keep_uploads_days
        How long ``fedpdiff coordinator expire`` keeps uploads.
    """

    host: str
    port: int = 8443
    superlink_port: int = 8000
    keep_uploads_days: float = field(default=365, compare=False)  # the owner's, not the init command's

    @classmethod
    def load(cls, root: Path) -> Coordinator:
        """Read the settings of a folder.

        Raises
        ------
        ConfigError
            When it is not a coordinator's folder.
        """
        try:
            found = tomllib.loads((root / SETTINGS).read_text(encoding="utf-8"))
            check_settings_format(root / SETTINGS, found.get("format", FORMAT), FORMAT)
            days = float(found.get("keep-uploads-days", cls.keep_uploads_days))
            if not days >= 0:
                raise ValueError(f"keep-uploads-days = {days:g} must be at least 0")
            return cls(
                str(found["host"]),
                check_port(found["port"], "port"),
                check_port(found["superlink-port"], "superlink-port"),
                days,
            )
        except OSError:
            raise ConfigError(
                f"{root} is not a coordinator's folder (no {SETTINGS}); fedpdiff coordinator init DIR "
                "--host NAME makes one"
            ) from None
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"{root / SETTINGS} is damaged ({error}); it must have host, port and superlink-port"
            ) from None

    def init(self, root: Path) -> Setup:
        """Make what is missing in ``root``, and change nothing that is there.

        Raises
        ------
        ConfigError
            When the folder was set up with other settings, or a setting is not possible.
        """
        self._check(root)
        setup = Setup(root)
        for name in ("state", "empty", "flower", "proxy"):
            setup.folder(name)
        setup.write(
            SETTINGS,
            _SETTINGS.format(host=self.host, port=self.port, superlink_port=self.superlink_port),
        )
        self._write_certificates(setup)
        if not setup.has("superexec.secret"):
            setup.write("superexec.secret", secrets.token_bytes(32), SECRET)
        setup.write("nginx.conf", scripts.nginx(self.port, self.superlink_port))
        setup.write("start-superlink", scripts.superlink(self.superlink_port), SCRIPT)
        setup.write("start-serverapp", scripts.serverapp(self.superlink_port), SCRIPT)
        setup.write("start-proxy", scripts.proxy(), SCRIPT)
        setup.write(
            "flower/config.toml",
            _CONNECTION.format(name=CONNECTION, port=self.superlink_port, authority=setup.root / "ca.crt"),
        )
        return setup

    def _check(self, root: Path) -> None:
        check_host(self.host, "--host")
        check_port(self.port, "--port")
        check_port(self.superlink_port, "--superlink-port")
        check_folder(root)
        if self.port == self.superlink_port:
            raise ConfigError(f"--port and --superlink-port are both {self.port}: two servers need two ports")
        if (root / SETTINGS).exists() and (found := Coordinator.load(root)) != self:
            raise ConfigError(
                f"{root} was set up with --host {found.host} --port {found.port} --superlink-port "
                f"{found.superlink_port}; give the same, another folder, or see the top of {SETTINGS}"
            )

    def _write_certificates(self, setup: Setup) -> None:
        if not setup.has("ca.crt", "ca.key"):
            if setup.has("ca.crt"):
                raise ConfigError(
                    f"{setup.root}: ca.crt is there without ca.key; put the key back to make server "
                    "certificates, or delete ca.crt, after which every site needs the new one"
                )
            authority = make_authority(f"fedpdiff {self.host}")
            setup.write("ca.key", authority.key_pem, SECRET)
            setup.write("ca.crt", authority.certificate_pem)
        if not setup.has("server.pem", "server.key"):
            authority = Identity.load(
                (setup.root / "ca.crt").read_bytes(), (setup.root / "ca.key").read_bytes()
            )
            for name in ("server.pem", "server.key"):  # one without the other is of no use
                (setup.root / name).unlink(missing_ok=True)
            server = make_server(authority, [self.host, "localhost", "127.0.0.1"])
            setup.write("server.key", server.key_pem, SECRET)
            setup.write("server.pem", server.certificate_pem)


def check_folder(root: Path) -> None:
    """Refuse a folder whose name scripts and configuration files could misread.

    Raises
    ------
    ConfigError
        Naming the characters.
    """
    if wrong := sorted({character for character in str(root.absolute()) if character in "\"'\\$`;{}\n\r"}):
        raise ConfigError(f"the folder {root} must not have {' '.join(map(repr, wrong))} in its path")
