"""``fedpdiff site``: set up the machine of an owner of images."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the commands."""
    parser = subparsers.add_parser(
        "site", help="set up the machine of an owner of images", description=__doc__
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    init = commands.add_parser(
        "init",
        help="make a key pair, site.toml, policy.toml and start scripts",
        description="Make what is missing in DIR. What is there stays, so it can be repeated.",
    )
    init.add_argument("dir", type=Path, metavar="DIR", help="the site's folder")
    init.add_argument("--coordinator", required=True, metavar="HOST:PORT", help="the coordinator's address")
    init.add_argument("--ca", required=True, type=Path, metavar="FILE", help="the coordinator's ca.crt")
    init.add_argument("--name", default="", metavar="SITE", help="this site's name (default: the folder's)")
    init.add_argument("--data", default="", metavar="PATH", help="absolute path of the images")
    init.add_argument(
        "--sealed",
        type=Path,
        metavar="DIR",
        help="make the network side of a sealed site, which has no data: only DIR/outbox and DIR/inbox",
    )
    init.add_argument(
        "--images",
        type=int,
        default=10_000,
        metavar="N",
        help="about how many images; proposes delta in policy.toml (default: %(default)s)",
    )
    init.add_argument(
        "--runtime-port",
        type=int,
        default=9094,
        metavar="PORT",
        help="port for this machine only (default: %(default)s)",
    )
    init.set_defaults(run=run_init)
    settings = commands.add_parser("settings", help="print site.toml as the start scripts read it")
    settings.add_argument("dir", type=Path, metavar="DIR", help="the site's folder")
    settings.set_defaults(run=run_settings)


def run_init(args: argparse.Namespace) -> int:
    """Set up the folder and say what comes next."""
    from fedpdiff.cli.setup_words import say_what_was_made
    from fedpdiff.deployment.site import Site
    from fedpdiff.deployment.site_setup import SiteSetup

    setup = SiteSetup(
        args.coordinator, args.ca, args.name, args.data, args.sealed, args.images, args.runtime_port
    ).init(args.dir)
    say_what_was_made(setup)
    files = "site.toml" if args.sealed else "site.toml (data-path) and policy.toml"
    print(
        f"""
Next: read and edit {files} in {setup.root},
send {setup.root}/site.key.pub to the coordinator, and run: fedpdiff doctor {setup.root}
When admitted, each in a terminal (or service) of its own:
  {setup.root}/start-supernode
  {setup.root}/start-clientapp
Keep here, and secret: site.key, runtime.key, superexec.secret"""
    )
    if args.sealed or args.data:
        print(Site.load(setup.root).trusts())
    return 0


def run_settings(args: argparse.Namespace) -> int:
    """Print the settings as shell variables."""
    from fedpdiff.deployment.site import Site

    print(Site.load(args.dir).shell_settings(), end="")
    return 0
