"""``fedpdiff publish``: a run's global model, with a card and certificates, for anyone."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "publish",
        help="export a run's global model with model card, certificates, classes and licence",
        description="Export the global model of a finished run, made to be given to anyone. Every upload "
        "that it was trained on is verified again first: without valid certificates nothing is written.",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to make (default: RUN/published)")
    parser.add_argument(
        "--licence",
        default="",
        metavar="LICENCE",
        help="an identifier such as apache-2.0, or a file with the text (default: none is stated)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder and say what is in it.

    Raises
    ------
    ConfigError, RunError, PrivacyError
        When the run must not be published, or the folder cannot be written.
    """
    from fedpdiff.publishing.export import publish

    out = args.out or args.run_folder / "published"
    public = publish(args.run_folder, out, args.licence)
    print(f"{len(public.uploads)} uploads verified.")
    for upload in public.uploads:
        print(upload.certificate["statement"])
    print(f"Model, card, certificates, classes: {out.absolute()}. Read its README.md before you pass it on.")
    return 0
