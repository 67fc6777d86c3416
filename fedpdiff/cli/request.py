"""``fedpdiff request``: a run's request as a file, for sites that release offline."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "request",
        help="coordinator: write a run's request, for sealed sites",
        description="Write what a run with these settings asks of its sites: settings, release, public "
        "centre and class names. Hand the file to sites that release offline, then start the run with the "
        "same settings.",
    )
    parser.add_argument("--preset", metavar="PRESET", help="a preset's name, see fedpdiff simulate --list")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="change a setting, such as epsilon=5; may be repeated (pyproject.toml lists the settings)",
    )
    parser.add_argument(
        "--run-config",
        type=Path,
        metavar="FILE",
        help="the run's settings: the TOML file that flwr run is given",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the request, a JSON file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file and say what it asks for.

    Raises
    ------
    ConfigError, DataError, PrivacyError
        When a setting is wrong, the settings or the public images cannot be read, or no release reaches the
        budget.
    """
    from fedpdiff.config.run import parse_assignment
    from fedpdiff.errors import ConfigError
    from fedpdiff.federation.run_request import RunRequest
    from fedpdiff.privacy.cautions import run_cautions
    from fedpdiff.privacy.statement import privacy_statement
    from fedpdiff.report.table import statement_line
    from fedpdiff.simulation.presets import Preset, configure, read_presets

    preset = Preset("(none)", "", {})
    if args.preset:
        presets = read_presets()
        if args.preset not in presets:
            raise ConfigError(f"no preset {args.preset!r}: must be one of {', '.join(presets)}")
        preset = presets[args.preset]
    overrides = _read(args.run_config) | dict(parse_assignment(text) for text in args.assignments)
    request = RunRequest.make(configure(preset, overrides, args.out.parent))
    request.save(args.out)
    mechanism = request.agreement.mechanism
    statement = privacy_statement(
        mechanism.alpha_bar, mechanism.clip, mechanism.delta, mechanism.t0, mechanism.schedule
    )
    print(statement_line(statement))
    for caution in run_cautions(request.config, statement["epsilon"]):
        print(caution)
    print(f"Classes: {', '.join(request.class_names)}\nRequest: {args.out.resolve()}")
    return 0


def _read(path: Path | None) -> dict[str, Any]:
    from fedpdiff.errors import ConfigError

    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"--run-config {path} cannot be read: {error}") from None
