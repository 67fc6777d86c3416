"""``fedpdiff advise``: whether collaborating will pay, before anyone shares anything; needs no data."""

from __future__ import annotations

import argparse
import json
import re

from fedpdiff.errors import ConfigError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "advise",
        help="say before anything is shared whether collaborating will pay",
        description="Say whether collaborating will pay for a client's rare classes, roughly how much, what "
        "limits it and what would change the answer: from theory, before anyone shares anything.",
    )
    parser.add_argument(
        "--epsilon", type=float, required=True, metavar="E", help="privacy budget of one image"
    )
    parser.add_argument(
        "--images", type=int, required=True, metavar="N", help="images of all clients together"
    )
    parser.add_argument(
        "--minority",
        type=int,
        required=True,
        metavar="N",
        help="images of a rare class at one client; 0: none",
    )
    parser.add_argument(
        "--shape", required=True, metavar="HxWxC", help="of an image: height, width, channels; 28x28x1"
    )
    parser.add_argument("--delta", type=float, default=1e-5, help="default 1e-5")
    parser.add_argument(
        "--classes", type=int, default=10, metavar="K", help="classes of all together; default 10"
    )
    parser.add_argument("--clients", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the advice.

    Raises
    ------
    ConfigError, PrivacyError
        When a number is out of range.
    """
    from fedpdiff.advice.answer import answer
    from fedpdiff.advice.question import Question
    from fedpdiff.advice.words import advice_text

    question = Question(
        epsilon=args.epsilon,
        images=args.images,
        minority=args.minority,
        shape=_shape(args.shape),
        delta=args.delta,
        classes=args.classes,
        clients=args.clients,
    )
    found = answer(question)
    print(json.dumps(found, indent=2) if args.json else advice_text(found))
    return 0


def _shape(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})(?:[xX](\d{1,3}))?", text)
    if not match:
        raise ConfigError(f"--shape {text}: must be height x width x channels, such as 28x28x1 or 32x32x3")
    return int(match[1]), int(match[2]), int(match[3] or 1)
