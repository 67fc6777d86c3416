"""``fedpdiff audit``: attack the release code with the worst pair of images; needs no data and no run."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpdiff.errors import ConfigError

if TYPE_CHECKING:
    from fedpdiff.privacy.audit import AuditReport
    from fedpdiff.privacy.request import ReleaseRequest


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "audit",
        help="measure the epsilon of the release code itself, on the worst pair of images",
        description="Release many black and white images, the pair that is easiest to tell apart, through "
        "the code that makes every upload, attack the result, and compare the measured epsilon with the "
        "promised one. Exits with 1 when the promise lies outside the 99.9 %% interval, a retry makes new "
        "noise, or noise repeats.",
    )
    parser.add_argument("--t0", type=int, default=690, metavar="N", help="forward steps; default 690")
    parser.add_argument("--clip", type=float, default=10.0, help="radius C in pixel units; default 10")
    parser.add_argument("--shape", default="1x28x28", help="channels x side x side; default 1x28x28")
    parser.add_argument("--n", type=int, default=20_000, help="images a side; default 20000")
    parser.add_argument("--delta", type=float, default=1e-5, help="default 1e-5")
    parser.add_argument("--schedule", choices=("linear", "cosine"), default="linear", help="default linear")
    parser.add_argument("--steps", type=int, default=1000, help="T, steps of the whole chain; default 1000")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was measured beside what is promised.

    Returns
    -------
    int
        0 when they agree, else 1.

    Raises
    ------
    ConfigError, PrivacyError
        When a setting is out of range, or the release code refuses.
    """
    from fedpdiff.privacy.audit import audit

    request = _request(args)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedpdiff-audit-") as folder:
        report = audit(request, args.n, Path(folder))
    seconds = time.monotonic() - started
    if args.json:
        settings = {"shape": list(request.centre.shape), "n": args.n, "seconds": round(seconds, 1)}
        print(json.dumps(settings | report.to_dict(), indent=2))
    else:
        print(_text(report, args, seconds))
    return 1 if report.problems else 0


def _shape(text: str) -> tuple[int, int]:
    """Return channels and side."""
    sizes = text.lower().split("x")
    if len(sizes) != 3 or not all(size.isdecimal() for size in sizes) or sizes[1] != sizes[2]:
        raise ConfigError(f"--shape is {text!r}, but must be channels x side x side, such as 1x28x28")
    return int(sizes[0]), int(sizes[1])


def _request(args: argparse.Namespace) -> ReleaseRequest:
    """Return the request of a run with these settings, made as the server makes it."""
    import torch

    from fedpdiff.config import RunConfig
    from fedpdiff.federation.agreement import propose
    from fedpdiff.privacy.request import ReleaseRequest
    from fedpdiff.types import LabelledImages

    channels, side = _shape(args.shape)
    settings = {
        "t0": args.t0, "epsilon": 0.0, "delta": args.delta, "clip-rule": "fixed", "clip": args.clip,
        "centre": "none", "schedule": args.schedule, "diffusion-steps": args.steps, "image-size": side,
        "channels": channels, "network": "none.json", "chain": "nested", "hand-off-signal": 0.0,
        "personal-base": "none", "global-base": "none",
        "global-sampling-steps": 1, "personal-sampling-steps": 1,
    }  # fmt: skip
    config = RunConfig.parse(settings)
    no_images = torch.zeros(0, channels, side, side, dtype=torch.uint8)
    agreement = propose(config, LabelledImages(no_images, torch.zeros(0, dtype=torch.int64)))
    mechanism = agreement.mechanism
    return ReleaseRequest(
        t0=mechanism.t0,
        alpha_bar=mechanism.alpha_bar,
        clip=mechanism.clip,
        centre=agreement.centre,
        schedule=mechanism.schedule,
        diffusion_steps=mechanism.diffusion_steps,
        delta=mechanism.delta,
        noise=mechanism.noise,
    )


def _text(report: AuditReport, args: argparse.Namespace, seconds: float) -> str:
    promised, epsilon = report.promised, report.epsilon_interval
    rows = [
        ("", "measured", "promised"),
        ("mu (99.9 %)", _interval(report.mu_interval), f"{promised['mu']:.4f}"),
        (
            "epsilon, one image (99.9 %)",
            _interval(epsilon),
            f"{promised['epsilon']:.3f}, exact (Balle & Wang)",
        ),
        ("", "", f"{promised['epsilon_theorem_5_1']:.3f}, by Theorem 5.1 (looser)"),
        ("  assuming nothing (99.9 %)", f"at least {report.epsilon_at_least:.2f}", ""),
        ("  one-run guesses (95 %)", f"at least {report.one_run_epsilon:.2f}", ""),
    ]
    black, white = report.counts
    lines = [
        f"The release code, attacked with {black:,} black and {white:,} white images of {args.shape}",
        f"(t0 {promised['t0']} of {args.steps}, {promised['schedule']}, clip {promised['clip']:g}, delta "
        f"{promised['delta']:g}; {seconds:.1f} s).",
        "",
        *(f"  {name:<29}{measured:<17}{theory}".rstrip() for name, measured, theory in rows),
        "",
    ]
    if report.epsilon_interval[1] == math.inf:
        lines += ["So few mistakes at this noise cannot be counted: no upper end with so many images.", ""]
    if report.problems:
        return "\n".join(lines + [f"PROBLEM: {problem}." for problem in report.problems])
    verdict = "The promise lies inside the interval, a retry sent the same bytes, and no noise repeats."
    return "\n".join([*lines, verdict])


def _interval(ends: tuple[float, float]) -> str:
    """Print both ends, rounded outwards."""
    low = math.floor(100 * ends[0]) / 100
    high = "..." if ends[1] == math.inf else f"{math.ceil(100 * ends[1]) / 100:.2f}"
    return f"[{low:.2f}, {high}]"
