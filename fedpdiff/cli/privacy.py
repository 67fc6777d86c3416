"""``fedpdiff privacy``: what a release guarantees, from a budget or from t0; needs no data and no run."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fedpdiff.cli import frontier
from fedpdiff.errors import ConfigError

_DEFAULTS: dict[str, Any] = {"delta": 1e-5, "clip": 10.0, "schedule": "linear", "steps": 1000}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "privacy",
        help="epsilon to t0, or t0 to epsilon, with what attacks can reach at most",
        description="What one noisy upload of each image guarantees, for a budget or for a noise level.",
    )
    level = parser.add_mutually_exclusive_group(required=True)
    level.add_argument(
        "--epsilon", type=float, metavar="E", help="budget; finds the smallest t0 that keeps it"
    )
    level.add_argument("--t0", type=int, metavar="N", help="number of forward steps")
    level.add_argument(
        "--frontier",
        action="store_true",
        help="compare budgets for a data set: signal left, what attacks can reach, measured quality",
    )
    parser.add_argument("--delta", type=float, help="default 1e-5")
    parser.add_argument(
        "--clip",
        type=float,
        help="radius C in pixel units ([-1, 1]); default 10 (--frontier: as clip-rule says)",
    )
    parser.add_argument("--schedule", choices=("linear", "cosine"), help="default linear")
    parser.add_argument("--steps", type=int, help="T, steps of the whole chain; default 1000")
    parser.add_argument(
        "--per-pixel", type=float, metavar="BOUND", help="add the figure for one pixel in [-BOUND, BOUND]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    frontier.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the statement.

    Raises
    ------
    ConfigError, PrivacyError
        When a number is out of range or the schedule cannot reach the budget.
    """
    _refuse_mixed(args)
    if args.frontier:
        return frontier.run(args)
    for name, value in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    statement = _statement(args)
    if args.json:
        print(json.dumps(statement, indent=2))
    else:
        print(_table(statement, args.steps))
    return 0


def _refuse_mixed(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    if args.frontier and args.per_pixel is not None:
        raise ConfigError(
            "--per-pixel does not go with --frontier, whose unit is one image; give --epsilon or --t0"
        )
    if not args.frontier:
        given = [option for option, name in frontier.OPTIONS.items() if getattr(args, name) is not None]
        if given:
            raise ConfigError(
                f"{', '.join(given)}: only with --frontier; add it and leave out --epsilon and --t0"
            )


def _statement(args: argparse.Namespace) -> dict[str, Any]:
    from fedpdiff.privacy.calibration import smallest_t0
    from fedpdiff.privacy.statement import per_pixel_statement, privacy_statement
    from fedpdiff.schedule import NoiseSchedule

    if args.steps < 1:
        raise ConfigError(f"--steps is {args.steps}, but must be at least 1; 1000 is usual")
    alpha_bar = NoiseSchedule(args.schedule, args.steps).alpha_bar
    t0 = args.t0 if args.t0 is not None else smallest_t0(alpha_bar, args.clip, args.epsilon, args.delta)
    if not 1 <= t0 <= args.steps:
        raise ConfigError(f"--t0 is {t0}, but must be between 1 and the {args.steps} steps of the chain")
    statement = privacy_statement(float(alpha_bar[t0]), args.clip, args.delta, t0, args.schedule)
    if args.per_pixel is not None:
        statement["per_pixel"] = per_pixel_statement(float(alpha_bar[t0]), args.per_pixel, args.delta)
    return statement


def _table(statement: dict[str, Any], steps: int) -> str:
    from fedpdiff.privacy.statement import NEIGHBOURS

    caps = statement["attack_ceilings"]
    rows = [
        ("epsilon", f"{statement['epsilon']:.3f}", "exact (Balle & Wang)"),
        (
            "epsilon, Theorem 5.1",
            f"{statement['epsilon_theorem_5_1']:.3f}",
            "the paper's bound: valid, looser",
        ),
        ("delta", f"{statement['delta']:g}", "added to the factor e^epsilon, per image"),
        ("mu", f"{statement['mu']:.4f}", "2 C sqrt(abar) / sqrt(1 - abar)"),
        ("t0", f"{statement['t0']}", f"of {steps} steps, {statement['schedule']} schedule"),
        ("alpha_bar", f"{statement['alpha_bar']:.6g}", "share of signal power left after t0 steps"),
        ("clip C", f"{statement['clip']:g}", "L2 norm of an image around the centre"),
    ]
    lines = ["One noisy upload of each image, made once.", f"Unit: {statement['unit']}, {NEIGHBOURS}.", ""]
    lines += [f"  {name:<22}{value:>10}   {meaning}" for name, value, meaning in rows]
    lines += [
        "",
        "No attack on the upload, or on anything computed from it, can do better than:",
        f"  {_percent(caps['auc'])}  AUC when telling one image from one other",
        f"  {_percent(caps['balanced_accuracy'])}  right guesses between two equally likely images",
        f"  {_percent(caps['tpr_at_1_percent_fpr'])}  true positives at 1 % false positives",
        f"  {_percent(caps['tpr_at_0.1_percent_fpr'])}  true positives at 0.1 % false positives",
        f"  {_percent(caps['reidentify_1_of_100'])}  picking the right image out of 100 (guessing: 1 %)",
        f"  {_percent(caps['reidentify_1_of_1000'])}  picking the right image out of 1000 (guessing: 0.1 %)",
        "",
        "Not hidden: labels, image counts, the client's identity. Not protected: its personal denoiser.",
    ]
    return "\n".join(lines + _per_pixel_lines(statement) + _warnings(statement))


def _percent(share: float) -> str:
    return f"{100 * share:6.1f} %"


def _per_pixel_lines(statement: dict[str, Any]) -> list[str]:
    if "per_pixel" not in statement:
        return []
    pixel = statement["per_pixel"]
    return [
        "",
        f"Per pixel, a WEAKER unit, not comparable with the above (one value in +-{pixel['bound']:g}):",
        f"  epsilon {pixel['epsilon']:.3f} exact, {pixel['epsilon_theorem_5_1']:.3f} by Theorem 5.1",
    ]


def _warnings(statement: dict[str, Any]) -> list[str]:
    from fedpdiff.privacy.cautions import budget_cautions

    cautions = budget_cautions(statement["epsilon"], statement["delta"])
    return [line for caution in cautions for line in ("", str(caution))]
