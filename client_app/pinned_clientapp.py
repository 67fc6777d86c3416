"""Flower's ClientApp process at a site that pins its code: the installed app runs, never the shipped one.

    python -P -m client_app.pinned_clientapp FINGERPRINT [options of flwr-clientapp]

The bundle is compared in memory with the pinned fingerprint and then dropped: it is not unpacked, no path to
it is searched for modules, none of its dependencies is installed. What runs is the code that lies here and
has that very fingerprint, so nothing can be exchanged between the check and the run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from flwr.clientapp import ClientApp

import fedpdiff
from client_app.pinned_superexec import check_installed
from fedpdiff.errors import ConfigError, FedpdiffError, MessageError
from fedpdiff.fingerprint import bundle_fingerprint


def check_bundle(pin: str, bundle: bytes) -> None:
    """Refuse a bundle with other code than the pinned.

    Parameters
    ----------
    pin
        The fingerprint that the site accepts.
    bundle
        The bundle that the server ships.

    Raises
    ------
    MessageError
        When its code has another fingerprint; the message goes to the coordinator.
    """
    if (found := bundle_fingerprint(bundle)) != pin:
        raise MessageError(
            f"this site runs only the code with fingerprint {pin[:12]} and was shipped code with fingerprint "
            f"{found[:12]}; nothing of it was run. Install the same version of fedpdiff on both sides"
        )


def installed_app() -> ClientApp:
    """Return the ClientApp that is installed beside this library.

    Raises
    ------
    ConfigError
        When Python finds another package of that name.
    """
    module = import_module("client_app.app")
    root = Path(fedpdiff.__file__).resolve().parents[1]
    if not Path(str(module.__file__)).resolve().is_relative_to(root):
        raise ConfigError(
            f"client_app of another package is installed here: {module.__file__}; use an environment of its "
            "own for fedpdiff"
        )
    app: ClientApp = module.app
    return app


def take_over(flower: ModuleType, pin: str) -> None:
    """Replace the steps of Flower's ClientApp process that unpack and load what was shipped.

    Parameters
    ----------
    flower
        ``flwr.supernode.runtime.run_clientapp``.
    pin
        The fingerprint that the site accepts.

    Raises
    ------
    ConfigError
        When this Flower has no such step.
    """

    def install(bundle: bytes, **_: Any) -> None:
        check_installed(pin)
        check_bundle(pin, bundle)

    def no_dependencies(*_: Any, **__: Any) -> None:
        raise ConfigError("this site pins its code and installs nothing that a bundle asks for")

    def load(**_: Any) -> Callable[..., ClientApp]:
        return lambda *_: installed_app()

    steps: dict[str, Callable[..., Any]] = {
        "install_from_fab": install,
        "install_app_dependencies": no_dependencies,
        "get_load_client_app_fn": load,
    }
    for name, step in steps.items():
        if not hasattr(flower, name):
            raise ConfigError(f"this flwr has no {name}: a code-fingerprint cannot be enforced with it")
        setattr(flower, name, step)


def main() -> None:
    """Run Flower's ClientApp process with those steps replaced."""
    pin, *options = sys.argv[1:]
    try:
        take_over(import_module("flwr.supernode.runtime.run_clientapp"), pin)
    except FedpdiffError as error:
        print(f"start-clientapp: {error}", file=sys.stderr)
        sys.exit(2)
    sys.argv = ["flwr-clientapp", *options]
    import_module("flwr.supernode.cli").flwr_clientapp()


if __name__ == "__main__":
    main()
