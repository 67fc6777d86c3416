"""The Flower app that ``flwr run`` starts: the checkout, or the installed packages put together again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedpdiff.errors import ConfigError

_LIBRARY = Path(__file__).resolve().parents[1]
_INSTALLED = Path(__file__).resolve().with_name("app")  # what a wheel carries beside the packages
_PACKAGES = ("fedpdiff", "client_app", "server_app")


def settings_folder() -> Path:
    """Return the folder that holds ``pyproject.toml`` and ``simulations/``: the checkout, or a wheel's copy.

    Raises
    ------
    ConfigError
        When the installation has neither.
    """
    for folder in (_INSTALLED, _LIBRARY.parent):
        if (folder / "pyproject.toml").is_file() and (folder / "simulations").is_dir():
            return folder
    raise ConfigError(
        f"fedpdiff in {_LIBRARY} is incomplete: neither a checkout nor installed from a wheel; install it "
        "again, as the README says"
    )


def write_app(folder: Path) -> Path:
    """Put the app together in a new or empty folder: the installed code and its ``pyproject.toml``.

    What is written is the code that runs here, so that its fingerprint is the same on both sides.

    Raises
    ------
    ConfigError
        When the folder cannot be written, or already holds something.
    """
    source = settings_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty; give a new folder for the app")
        for name in ("pyproject.toml", "LICENSE"):
            shutil.copyfile(source / name, folder / name)
        for package in _PACKAGES:
            for path in (_LIBRARY.parent / package).rglob("*.py"):
                target = folder / path.relative_to(_LIBRARY.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    except OSError as error:
        raise ConfigError(f"the app cannot be written to {folder}: {error.strerror}") from None
    return folder


@contextmanager
def flower_app() -> Iterator[Path]:
    """Give the app's folder for ``flwr run``: the checkout itself, or a copy that is there for a while.

    Raises
    ------
    ConfigError
        When the installation is incomplete.
    """
    if (folder := settings_folder()) != _INSTALLED:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="fedpdiff-app-", ignore_cleanup_errors=True) as temporary:
        yield write_app(Path(temporary) / "fedpdiff")
