"""``fedpdiff simulate``: a preset as a Flower simulation, with progress and the result table."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpdiff.simulation.presets import Preset


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "simulate",
        help="run a preset as a Flower simulation",
        description="Run a preset as a Flower simulation on this machine; the results go to a folder.",
    )
    parser.add_argument("preset", nargs="?", metavar="PRESET", help="a preset's name, see --list")
    parser.add_argument("--list", action="store_true", help="explain the presets and exit")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="change a setting, such as epsilon=5; may be repeated (pyproject.toml lists the settings)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="short for --set seed=N")
    parser.add_argument("--out", metavar="DIR", help="folder for the results (default: runs/PRESET-TIME)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks and return the exit status."""
    from fedpdiff.errors import ConfigError
    from fedpdiff.simulation.presets import read_presets

    presets = read_presets()
    if arguments.list:
        print("\n".join(_explain(preset) for preset in presets.values()))
        return 0
    if arguments.preset not in presets:
        given = f"no preset {arguments.preset!r}" if arguments.preset else "no preset given"
        raise ConfigError(f"{given}: must be one of {', '.join(presets)}; --list explains them")

    from fedpdiff.simulation.app import flower_app
    from fedpdiff.simulation.simulate import simulate

    with flower_app() as app:
        return simulate(app, presets[arguments.preset], _overrides(arguments), arguments.out)


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    from fedpdiff.config.run import parse_assignment

    overrides = dict(parse_assignment(text) for text in arguments.assignments)
    if arguments.seed is not None:
        overrides["seed"] = arguments.seed
    return overrides


def _explain(preset: Preset) -> str:
    budget = (
        f"epsilon {preset.shown('epsilon'):g} per image"
        if preset.shown("epsilon")
        else f"t0 {preset.shown('t0')}"
    )
    data = preset.shown("data") or "given with --set data=PATH"
    figures = f"{preset.shown('clients')} clients, {budget}, data: {data}"
    return f"{preset.name}\n    {preset.description}\n    {figures}"
