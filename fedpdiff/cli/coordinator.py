"""``fedpdiff coordinator``: set up the server's side, and say which sites may join."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the commands."""
    parser = subparsers.add_parser(
        "coordinator", help="set up the server's side; admit and revoke sites", description=__doc__
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    init = commands.add_parser(
        "init",
        help="make certificates, settings, proxy configuration and start scripts",
        description="Make what is missing in DIR. What is there stays, so it can be repeated.",
    )
    init.add_argument("dir", type=Path, metavar="DIR", help="the coordinator's folder")
    init.add_argument("--host", required=True, metavar="NAME", help="name by which sites reach this machine")
    init.add_argument("--port", type=int, default=8443, help="where sites connect (default: %(default)s)")
    init.add_argument(
        "--superlink-port",
        type=int,
        default=8000,
        metavar="PORT",
        help="port for this machine only (default: %(default)s)",
    )
    init.set_defaults(run=run_init)
    admit = commands.add_parser("admit", help="let a site join; the SuperLink must be running")
    admit.add_argument("key", type=Path, metavar="KEY", help="the site's site.key.pub")
    admit.add_argument("--name", required=True, metavar="SITE", help="the site's name")
    admit.set_defaults(run=run_admit)
    revoke = commands.add_parser("revoke", help="let a site join no longer; the SuperLink must be running")
    revoke.add_argument("site", metavar="SITE", help="the name it was admitted under")
    revoke.set_defaults(run=run_revoke)
    for command in (admit, revoke):
        command.add_argument(
            "--dir", type=Path, default=Path("."), help="the coordinator's folder (default: this one)"
        )


def run_init(args: argparse.Namespace) -> int:
    """Set up the folder and say what comes next."""
    from fedpdiff.cli.setup_words import say_what_was_made
    from fedpdiff.deployment.coordinator import Coordinator

    setup = Coordinator(args.host, args.port, args.superlink_port).init(args.dir)
    say_what_was_made(setup)
    print(
        f"""
Next, each in a terminal (or service) of its own:
  {setup.root}/start-superlink
  {setup.root}/start-serverapp
  {setup.root}/start-proxy
then: fedpdiff doctor {setup.root}
Send to every site: {setup.root}/ca.crt, and the address {args.host}:{args.port}
Keep here, and secret: ca.key, server.key, superexec.secret"""
    )
    return 0


def run_admit(args: argparse.Namespace) -> int:
    """Register a site's key."""
    from fedpdiff.deployment.admission import admit

    print(admit(args.dir, args.key, args.name))
    return 0


def run_revoke(args: argparse.Namespace) -> int:
    """Take a site's right to join back."""
    from fedpdiff.deployment.admission import revoke

    print(revoke(args.dir, args.site))
    return 0
