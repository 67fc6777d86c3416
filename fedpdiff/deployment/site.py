"""A site's settings, as its ``site.toml`` says them."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

from fedpdiff.config import NodeConfig
from fedpdiff.deployment.addresses import check_address, check_port
from fedpdiff.deployment.files import check_settings_format
from fedpdiff.errors import ConfigError

SETTINGS = "site.toml"
FORMAT = "fedpdiff-site/1"

_KEYS = {"connection": {"coordinator", "runtime-port"}, "code": {"code-fingerprint"}}
_FINGERPRINT = re.compile(r"^([0-9a-f]{64})?$")


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
    code_fingerprint
        The only code that this site runs; "" = what the coordinator ships.

    Raises
    ------
    ConfigError
        When a setting is not possible.
    """

    def __init__(
        self,
        root: Path,
        coordinator: str,
        runtime_port: int,
        node: dict[str, Any],
        code_fingerprint: str = "",
    ) -> None:
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
        if not _FINGERPRINT.match(code_fingerprint):
            raise ConfigError(
                f'code-fingerprint = "{code_fingerprint}" in {root / SETTINGS} must be the 64 hexadecimal '
                'digits that fedpdiff doctor prints, or ""'
            )
        self.code_fingerprint = code_fingerprint

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
            check_settings_format(path, found.pop("format", FORMAT), FORMAT)
            _check_keys(found, path)
            connection, node, pin = found["connection"], found["node"], found["code"]["code-fingerprint"]
            return cls(root, str(connection["coordinator"]), connection["runtime-port"], dict(node), str(pin))
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

    def trusts(self) -> str:
        """Return in one sentence whose code runs here and what it has before it."""
        reads = (
            "it has the outbox and the inbox before it, nothing private"
            if self.node.sealed
            else "it reads the images"
        )
        if self.code_fingerprint:
            return f"Only the installed code runs here, fingerprint {self.code_fingerprint[:12]}; {reads}."
        trust = "" if self.node.sealed else ": this site trusts whoever starts the run"
        return f"The code that the coordinator ships runs here; {reads}{trust}."

    def shell_settings(self) -> str:
        """Return what the start scripts need, as shell variables."""
        settings = {
            "SUPERLINK": "{}:{}".format(*self.coordinator),
            "RUNTIME_PORT": str(self.runtime_port),
            "NODE_CONFIG": self.node_config(),
            "CODE_FINGERPRINT": self.code_fingerprint,
            "TRUSTS": self.trusts(),
        }
        return "".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items())


def _check_keys(found: dict[str, Any], path: Path) -> None:
    """Refuse keys that mean nothing here: a misspelt one would silently be left at its default."""
    unknown = set(found) - {*_KEYS, "node"}
    for table, keys in _KEYS.items():
        if not isinstance(found[table], dict):
            raise ValueError(f"{table} is not a table")
        unknown |= {f"{table}.{key}" for key in set(found[table]) - keys}
    if unknown:
        raise ConfigError(
            f"{path} has unknown settings: {', '.join(sorted(unknown))}; compare with a new one from "
            "fedpdiff site init"
        )
