"""``fedpdiff privacy --frontier``: a budget chosen with open eyes, for one data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fedpdiff.errors import ConfigError

EPSILONS = "1,3,10,30,100"
# The options below, and the names they have among the parsed arguments.
OPTIONS = {
    "--epsilons": "epsilons",
    "--data": "data",
    "--set": "assignments",
    "--images": "images",
    "--site": "site",
    "--runs": "runs",
    "--out": "out",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the frontier."""
    group = parser.add_argument_group(
        "with --frontier", "The settings are those of a run: pyproject.toml's defaults, changed by --set."
    )
    group.add_argument(
        "--epsilons", metavar="E,E,...", help=f"candidates, epsilon of one image; default {EPSILONS}"
    )
    group.add_argument("--data", metavar="PATH", help="short for --set data=PATH")
    group.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        dest="assignments",
        help="change a setting, such as image-size=16; may be repeated",
    )
    group.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="images of the largest client; default: as the settings divide",
    )
    group.add_argument(
        "--site",
        metavar="DIR",
        help="a client's private images: counted, and looked for among the public ones",
    )
    group.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="finished runs, for their minority Frechet distance",
    )
    group.add_argument("--out", type=Path, metavar="FILE.png", help="also draw a figure")


def run(args: argparse.Namespace) -> int:
    """Print the table, or JSON, and draw the figure.

    Raises
    ------
    ConfigError, DataError, PrivacyError, RunError
        When a setting, the data or a run folder does not fit.
    """
    from fedpdiff.federation.frontier import choose
    from fedpdiff.report.frontier_table import frontier_table

    if args.out and args.out.suffix.lower() != ".png":
        raise ConfigError(f"--out {args.out}: must end in .png")
    if args.images is not None and args.images < 1:
        raise ConfigError(f"--images {args.images}: must be at least 1")
    found = choose(_config(args), _epsilons(args), args.images, args.site, args.runs or ())
    print(json.dumps(found, indent=2) if args.json else frontier_table(found))
    if args.out:
        print(f"Figure: {_draw(found, args.out)}", file=sys.stderr if args.json else sys.stdout)
    return 0


def _config(args: argparse.Namespace) -> Any:
    from fedpdiff.config.run import RunConfig, parse_assignment

    # The short options of the command, where they were given, are settings too.
    short = {"data": args.data, "delta": args.delta, "schedule": args.schedule, "diffusion-steps": args.steps}
    settings = {key: value for key, value in short.items() if value is not None}
    if args.clip is not None:
        settings |= {"clip": args.clip, "clip-rule": "fixed"}
    settings |= dict(parse_assignment(text) for text in args.assignments or [])
    path = Path(str(settings.get("data", ""))).expanduser()
    if settings.get("data") not in (None, "digits") and path.exists():
        settings["data"] = str(path.absolute())
    return RunConfig.parse(settings)


def _epsilons(args: argparse.Namespace) -> list[float]:
    text = EPSILONS if args.epsilons is None else args.epsilons
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--epsilons {text}: must be numbers with commas between them, such as 1,5,20"
        ) from None


def _draw(found: dict[str, Any], path: Path) -> Path:
    from fedpdiff.report.frontier_figure import draw_frontier

    if not found["curve"]:
        raise ConfigError(f"--out {path}: none of these budgets can be reached, so there is nothing to draw")
    return draw_frontier(found, path)
