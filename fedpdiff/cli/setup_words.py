"""What an ``init`` command says about the files that it made: their names, never what is in them."""

from __future__ import annotations

from fedpdiff.deployment.files import Setup


def say_what_was_made(setup: Setup) -> None:
    """Print which files were made and which were there already."""
    if setup.made:
        print(f"Made in {setup.root}: {', '.join(setup.made)}")
    if setup.kept:
        print(f"There already, not changed: {', '.join(dict.fromkeys(setup.kept))}")
