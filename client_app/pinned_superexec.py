"""Flower's SuperExec at a site that pins its code: it starts ClientApps of the pinned code, and nothing else.

    python -P -m client_app.pinned_superexec FINGERPRINT [options of flower-superexec]

``start-clientapp`` runs this from the local installation, never from an app bundle. Left to itself, SuperExec
starts whatever kind of task it is handed, and each unpacks and runs the bundle that the server shipped.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, Executor, LaunchResult, SubprocessExecutor

from fedpdiff.errors import ConfigError, FedpdiffError
from fedpdiff.fingerprint import code_fingerprint

FLOWER = "1.41."  # whose inner parts this and pinned_clientapp take the place of


class PinnedExecutor(SubprocessExecutor):
    """Starts a process of :mod:`client_app.pinned_clientapp` for each message to the ClientApp.

    Parameters
    ----------
    pin
        The fingerprint that the site accepts.
    """

    def __init__(self, pin: str) -> None:
        self.pin = pin

    def get_eligible_capacity(
        self,
        supported_task_types: set[TaskType],
        *,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> tuple[set[TaskType], set[str]]:
        """Ask for tasks of the ClientApp only."""
        return supported_task_types & {TaskType.CLIENT_APP}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process, with the options that Flower's own command takes."""
        if spec.task_type != TaskType.CLIENT_APP:
            return LaunchResult.failed(f"this site runs no {spec.task_type}")
        command = [sys.executable, "-P", "-m", "client_app.pinned_clientapp", self.pin]
        command += ["--runtime-api-address", spec.runtime_api_address, "--token", spec.token]
        if spec.insecure:
            command.append("--insecure")
        elif spec.root_certificates_path is not None:
            command += ["--root-certificates", spec.root_certificates_path]
        if spec.parent_pid is not None:
            command += ["--parent-pid", str(spec.parent_pid)]
        subprocess.Popen(command)
        return LaunchResult.accepted()


def check_installed(pin: str) -> None:
    """Check that the pinned code is what is installed here, and that Flower is the one that is known.

    Raises
    ------
    ConfigError
        When either is not so.
    """
    if not version("flwr").startswith(FLOWER):
        raise ConfigError(
            f"flwr {version('flwr')}: a code-fingerprint can be enforced with flwr {FLOWER}* only; install it"
        )
    if (own := code_fingerprint()) != pin:
        raise ConfigError(
            f"code-fingerprint {pin[:12]}... in site.toml is not that of the code installed here ({own}); "
            "install the version that you pinned or, if you meant to change it, pin this one"
        )


def main() -> None:
    """Check the installation, then run Flower's SuperExec with an executor of our own."""
    pin, *options = sys.argv[1:]
    try:
        check_installed(pin)
    except FedpdiffError as error:
        print(f"start-clientapp: {error}", file=sys.stderr)
        sys.exit(2)
    superexec = import_module("flwr.supercore.superexec.run_superexec")
    command = import_module("flwr.supercore.cli.flower_superexec")
    executor: Executor = PinnedExecutor(pin)
    superexec.get_executor = lambda *_, **__: executor  # type: ignore[attr-defined]
    sys.argv = ["flower-superexec", *options]
    command.flower_superexec()


if __name__ == "__main__":
    main()
