"""``fedpdiff verify``: are the certificates in a folder right, and the bytes those that they are about?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpdiff.plain import plain_line

if TYPE_CHECKING:
    from fedpdiff.federation.verification import Verdict


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "verify",
        help="recompute certificates from their settings and compare the bytes",
        description="Verify every privacy certificate in a release folder, a client's folder or a run "
        "folder: all numbers are computed again from the settings, and the hashes compared with the bytes. "
        "Exit status: 0 all is right, 1 something is wrong, 2 there is nothing to verify.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a release, client or run folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks and return the exit status.

    Raises
    ------
    RunError
        When there is nothing to verify.
    """
    from fedpdiff.errors import RunError
    from fedpdiff.federation.verification import verify_below

    verdicts = verify_below(arguments.folder)
    for verdict in verdicts:
        for line in _lines(verdict, arguments.folder):
            print(
                line[: len(line) - len(line.lstrip())] + plain_line(line)
            )  # certificates are strangers' text
    wrong = [verdict for verdict in verdicts if verdict.problems]
    deleted = [verdict for verdict in verdicts if verdict.deleted and not verdict.problems]
    right = [v for v in verdicts if not (v.problems or v.simulated or v.deleted)]
    if wrong:
        print(f"{len(wrong)} of {len(verdicts)} are wrong.", file=sys.stderr)
        return 1
    if not right and not deleted:
        raise RunError(f"{arguments.folder} holds seeded noise only, which has no certificate: NOT PRIVATE")
    if right:
        print(f"{len(right)} verified: every number follows from the settings, every hash fits the bytes.")
    if deleted:
        print(f"{len(deleted)} uploads were deleted; their certificates follow from their settings.")
    return 0


def _lines(verdict: Verdict, root: Path) -> list[str]:
    name = verdict.folder.relative_to(root).as_posix()
    name = root.resolve().name if name == "." else name
    if verdict.simulated:
        return [f"{name}: simulated noise, NOT PRIVATE; there is no certificate"]
    if verdict.problems:
        return [f"{name}: WRONG", *(f"  {problem}" for problem in verdict.problems)]
    stated, together = verdict.certificate, verdict.certificate["composition"]
    head = f"{name}: verified"
    if verdict.deleted:
        known = "its bytes fitted it then" if verdict.deleted.verified else "its bytes were not verified then"
        head = f"{name}: certificate verified; {verdict.deleted.words}; {known}"
    lines = [
        head,
        f"  {stated['n_images']} images, epsilon {stated['epsilon']:.3f} at delta {stated['delta']!r} for "
        "one noisy copy of an image",
    ]
    if together["noisings_per_image"] > 1:
        lines.append(
            f"  all noisy copies of an image together, at most {together['noisings_per_image']}: epsilon "
            f"{together['epsilon_total']:.3f}"
        )
    return [*lines, f"  made {stated['created']} by {stated['software']}, sha256 {stated['sha256'][:16]}..."]
