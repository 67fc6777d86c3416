"""``fedpdiff coordinator``: set up the server's side, say which sites may join, delete uploads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedpdiff.deployment.message_store import Emptied


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the commands."""
    parser = subparsers.add_parser(
        "coordinator",
        help="set up the server's side; admit and revoke sites; delete uploads",
        description=__doc__,
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
    forget = commands.add_parser(
        "forget",
        help="delete a site's uploads from run folders, and from the stopped SuperLink's database",
        description="Delete a site's uploads, as when it withdraws. Certificates and models stay.",
    )
    forget.add_argument("site", metavar="SITE", help="the name it took part under")
    forget.set_defaults(run=run_forget)
    expire = commands.add_parser(
        "expire",
        help="delete uploads that were kept for long enough; for a timer",
        description="Delete uploads older than keep-uploads-days of coordinator.toml. Certificates and "
        "models stay. The SuperLink's database is emptied where the SuperLink is stopped.",
    )
    expire.add_argument("--days", type=float, metavar="N", help="instead of keep-uploads-days")
    expire.set_defaults(run=run_expire)
    for command in (forget, expire):
        command.add_argument(
            "--runs",
            type=Path,
            nargs="+",
            required=True,
            metavar="DIR",
            help="run folders, or folders of such",
        )
    for command in (admit, revoke, forget, expire):
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


def run_forget(args: argparse.Namespace) -> int:
    """Delete a site's uploads everywhere, and say what that does not undo."""
    from fedpdiff.deployment.message_store import empty_message_store
    from fedpdiff.federation.retention import forget

    emptied = empty_message_store(args.dir)  # first: it may refuse, and then nothing is half done
    for folder, deletion in forget(args.runs, args.site):
        print(f"{folder}: {deletion.words}; its certificate stays")
    print(_emptied(emptied))
    print(
        "Models that were trained on these uploads keep their influence: what anyone can learn from them "
        f"about an image of {args.site} is bounded by its certificate in server/spool/{args.site}. A model "
        "without it is a new run without it."
    )
    return 0


def run_expire(args: argparse.Namespace) -> int:
    """Delete what was kept for long enough."""
    from fedpdiff.deployment.coordinator import Coordinator
    from fedpdiff.deployment.message_store import empty_message_store
    from fedpdiff.errors import ConfigError, RunError
    from fedpdiff.federation.retention import expire

    kept = Coordinator.load(args.dir).keep_uploads_days
    days = kept if args.days is None else args.days
    if not days >= 0:
        raise ConfigError(f"--days {days:g}: must be a number of at least 0")
    deleted = expire(args.runs, days)
    for folder, deletion in deleted:
        print(f"{folder}: {deletion.words}; its certificate stays")
    print(f"{len(deleted)} uploads deleted that were older than {days:g} days")
    try:
        print(_emptied(empty_message_store(args.dir)))
    except RunError as error:
        print(f"The SuperLink's database was not emptied: {error}")
    return 0


def _emptied(emptied: Emptied) -> str:
    return (
        f"The SuperLink's database: {emptied.before / 1e6:.1f} MB before, {emptied.after / 1e6:.1f} MB after"
    )
