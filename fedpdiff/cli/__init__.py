"""The ``fedpdiff`` command."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module

from fedpdiff.errors import FedpdiffError, is_full
from fedpdiff.plain import plain_line

COMMANDS = (
    "simulate",
    "sweep",
    "advise",
    "privacy",
    "policy",
    "request",
    "release",
    "personalize",
    "sample",
    "evaluate",
    "ledger",
    "verify",
    "audit",
    "attack",
    "report",
    "publish",
    "coordinator",
    "site",
    "app",
    "doctor",
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every command; each command's module imports its work only when it runs."""
    parser = argparse.ArgumentParser(
        prog="fedpdiff",
        description="Federated personalised diffusion models from one noisy upload per client.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        import_module(f"fedpdiff.cli.{command}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; each command sets ``run``, a function of the parsed arguments.

    Returns
    -------
    int
        0 on success, 1 when a run failed, 2 for a mistake in the request, 130 after Ctrl-C, 141 when nobody
        reads the output any more.
    """
    try:
        parsed = build_parser().parse_args(arguments)
        status = int(parsed.run(parsed) or 0)
        print(end="", flush=True)
        return status
    except (BrokenPipeError, SystemExit):  # the latter after --help
        if not _nobody_reads():
            raise
        return 141  # as a shell says of a program that SIGPIPE ended
    except FedpdiffError as error:
        # It may quote a file that somebody else wrote.
        lines = (plain_line(line, 4000) for line in str(error).splitlines())
        print("fedpdiff: error: " + "\n".join(lines), file=sys.stderr)
        return 2
    except Exception as error:
        if not (cause := _of_the_disk(error)):
            raise
        print(f"fedpdiff: error: {plain_line(cause)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fedpdiff: interrupted", file=sys.stderr)
        return 130


def _nobody_reads() -> bool:
    """Return whether the reader of the output is gone, as in ``fedpdiff advise ... | head -1``."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # none, or no file: a notebook, a test that captures it
        return False
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # or Python's own last flush complains
    return True


def _of_the_disk(error: Exception) -> str:
    """Return what a file or its disk refused, in words; "" for every other error."""
    name = getattr(error, "filename", None)
    if is_full(error):
        return f"the disk is full{f' at {name}' if name else ''}; make room and repeat the command"
    if isinstance(error, OSError) and name:
        return f"{name}: {error.strerror or type(error).__name__}; is it there, and this user's to use?"
    return ""
