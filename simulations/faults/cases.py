"""The faults: what is injected into which phase, and what must come of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from simulations.faults.disks import small_disk
from simulations.faults.machines import nginx
from simulations.faults.world import COORDINATOR, World

COMPLETED, FAILED = "finished:completed", "finished:failed"
OFFLINE_SECONDS = 75.0  # Flower calls a node offline after 60
NOISING, UPLOAD, TRAINING, SAMPLING = "noise drawn", "shard", "checkpoint", "sampling"


class Skipped(Exception):
    """A case that this machine cannot run; says what to install or who to be."""


@dataclass(frozen=True)
class Case:
    """One case of the matrix.

    Attributes
    ----------
    name
        As on the command line.
    injected, required
        What is done, and what must come of it.
    run
        Does it; returns what is wrong, in words.
    """

    name: str
    injected: str
    required: str
    run: Callable[[World], list[str]]


def expect(problems: list[str], condition: bool, otherwise: str) -> None:
    """Note a problem unless a condition holds."""
    if not condition:
        problems.append(otherwise)


def _whole(world: World, problems: list[str]) -> list[str]:
    """Check that all three sites took part to the end, and all that must be true of their files."""
    results = world.results()
    expect(problems, len(results.participants) == 3, f"only {results.participants} took part to the end")
    expect(problems, results.refused == [], f"left out: {results.refused}")
    return problems + world.problems()


# -- sites ------------------------------------------------------------------------------------------------


def clientapp_killed(world: World) -> list[str]:
    """Kill ClientApps while noising (before and after the commit), uploading, training and sampling."""
    first, second, third = (site.name for site in world.sites)
    points = [
        (first, NOISING, 0),
        (second, "committed", 0),
        (third, UPLOAD, 1),
        (first, TRAINING, 5),
        (second, SAMPLING, 0),
    ]
    for who, point, after in points:
        world.arm(who, point, "kill", after)
    reactions = {(who, point): world.told(f"{who}: ClientApp killed ({point})") for who, point, _ in points}
    problems: list[str] = []
    expect(problems, world.run(reactions) == COMPLETED, "the run did not complete")
    expect(problems, world.struck == 5, "not every fault struck")
    return _whole(world, problems)


def supernode_killed(world: World) -> list[str]:
    """Kill SuperNodes while noising, uploading, training, downloading and sampling; ClientApps live on."""
    first, second, third = world.sites
    held = [(first, NOISING, 0), (second, UPLOAD, 1), (third, TRAINING, 5), (second, SAMPLING, 0)]
    for site, point, after in held:
        world.arm(site.name, point, "hold", after)
    world.arm(first.name, "download", "hold")
    reactions = {(site.name, point): world.restart_supernode(site, point) for site, point, _ in held}
    reactions[first.name, "download"] = world.restart_supernode(first, "download")
    problems: list[str] = []
    expect(problems, world.run(reactions) == COMPLETED, "the run did not complete")
    expect(problems, world.struck == 5, "not every fault struck")
    return _whole(world, problems)


def site_killed(world: World) -> list[str]:
    """Kill all processes of a site at once, in each phase, and start them again."""
    first, second, third = world.sites
    held = [
        (third, NOISING, 0),
        (first, UPLOAD, 1),
        (second, TRAINING, 5),
        (third, "download", 0),
        (first, SAMPLING, 0),
    ]
    for site, point, after in held:
        world.arm(site.name, point, "hold", after)
    reactions = {(site.name, point): world.power_cut(site, point) for site, point, _ in held}
    problems: list[str] = []
    expect(problems, world.run(reactions) == COMPLETED, "the run did not complete")
    expect(problems, world.struck == 5, "not every fault struck")
    return _whole(world, problems)


def connections_cut(world: World) -> list[str]:
    """End the proxy in each phase, longer than Flower waits for a node, and start it again."""
    first, second, third = (site.name for site in world.sites)
    held = [
        (first, NOISING, 0),
        (second, UPLOAD, 1),
        (third, TRAINING, 5),
        (first, "download", 0),
        (second, SAMPLING, 0),
    ]
    for who, point, after in held:
        world.arm(who, point, "hold", after)
    reactions = {(who, point): world.cut_connections((who, point), OFFLINE_SECONDS) for who, point, _ in held}
    problems: list[str] = []
    expect(problems, world.run(reactions) == COMPLETED, "the run did not complete")
    expect(problems, world.struck == 5, "not every fault struck")
    return _whole(world, problems)


def joins_late(world: World) -> list[str]:
    """One site connects while the others upload."""
    first, _, third = world.sites
    for script in (third.supernode, third.clientapp):
        world.machines.kill(script)
    world.begin(f"{world.machines.run.name}-1", **{"min-clients": 2, "wait-seconds": 100})
    world.arm(first.name, UPLOAD, "hold")

    def join() -> None:
        third.start()
        world.say(f"{third.name} connects while others upload")
        world.let_go(first.name, UPLOAD)

    problems: list[str] = []
    expect(problems, world.run({(first.name, UPLOAD): join}) == COMPLETED, "the run did not complete")
    return _whole(world, problems)


def joins_too_late(world: World) -> list[str]:
    """One site connects after the upload."""
    first, second, third = world.sites
    third.kill()
    time.sleep(OFFLINE_SECONDS)  # so that it is not counted as connected
    world.begin(f"{world.machines.run.name}-1", **{"min-clients": 2, "wait-seconds": 30})
    world.arm(first.name, SAMPLING, "hold")

    def join() -> None:
        third.start()
        world.say(f"{third.name} connects when the uploads have been collected")
        time.sleep(10)
        world.let_go(first.name, SAMPLING)

    problems: list[str] = []
    expect(problems, world.run({(first.name, SAMPLING): join}) == COMPLETED, "the run did not complete")
    refused = world.results().refused
    expect(problems, [r.site for r in refused] == [third.name], f"left out: {refused}")
    world.say(f"left out: {refused}")
    return problems + world.problems([first, second])


def never_answers(world: World) -> list[str]:
    """One site takes the instruction and never answers."""
    first, second, third = world.sites
    world.begin(f"{world.machines.run.name}-1", **{"min-clients": 2, "reply-seconds": 400})
    world.arm(third.name, NOISING, "hold")
    problems: list[str] = []
    expect(problems, world.run({}) == COMPLETED, "the run did not complete")
    refused = world.results().refused
    expect(problems, [r.site for r in refused] == [third.name], f"left out: {refused}")
    world.say(f"left out: {refused}")
    world.let_go(third.name, NOISING)
    return problems + world.problems([first, second])


def too_few_left(world: World) -> list[str]:
    """Two of three sites go away in personal training and come back for another attempt."""
    _, second, third = world.sites
    world.begin(f"{world.machines.run.name}-1", **{"reply-seconds": 400})
    for site in (second, third):
        world.arm(site.name, TRAINING, "hold", 5)

    def leave() -> None:
        for site in (second, third):
            site.kill()
        world.say(f"{second.name} and {third.name}: all processes killed, and not started again")

    problems: list[str] = []
    expect(problems, world.run({(second.name, TRAINING): leave}) == FAILED, "the run did not fail")
    error = (world.machines.run / "error.txt").read_text("utf-8")
    expect(problems, "min-clients = 3" in error, f"error.txt says {error}")
    for site in (second, third):
        site.start()
    expect(problems, world.run({}) == COMPLETED, "the second attempt did not complete")
    return _whole(world, problems)


def clock_off(world: World) -> list[str]:
    """One site's clock is an hour ahead."""
    if not shutil.which("faketime"):
        raise Skipped("faketime is not installed: apt-get install faketime")
    first, second, third = world.sites
    third.kill()
    time.sleep(OFFLINE_SECONDS)
    world.begin(f"{world.machines.run.name}-1", **{"min-clients": 2, "wait-seconds": 30})
    ahead = world.machines.start(third.supernode, "faketime", "-f", "+1h")
    world.machines.forget(third.supernode)
    world.say(f"{third.name} connects with a clock that is an hour ahead")
    problems: list[str] = []
    expect(problems, world.run({}) == COMPLETED, "the run did not complete")
    expect(problems, ahead.poll() is not None, "the site with the wrong clock was not turned away")
    expect(problems, len(world.results().participants) == 2, "not the two others took part")
    third.start()
    return problems + world.problems([first, second])


# -- the coordinator --------------------------------------------------------------------------------------


def serverapp_killed(world: World) -> list[str]:
    """Kill the ServerApp while it collects shards, trains and collects samples; run again each time."""
    points = [("shard accepted", 1), (TRAINING, 5)]
    first = world.sites[0].name
    problems: list[str] = []
    for point, after in points:
        world.arm(COORDINATOR, point, "kill", after)
        reactions = {(COORDINATOR, point): world.told(f"ServerApp killed ({point})")}
        expect(problems, world.run(reactions) == FAILED, f"the ServerApp was not killed ({point})")
    world.arm(first, SAMPLING, "hold")

    def kill() -> None:
        for process in world.serverapps():
            process.kill()
        world.say("ServerApp killed (sampling)")
        world.let_go(first, SAMPLING)

    expect(problems, world.run({(first, SAMPLING): kill}) == FAILED, "the ServerApp was not killed")
    expect(problems, world.run({}) == COMPLETED, "the last attempt did not complete")
    return _whole(world, problems)


def superlink_restarted(world: World) -> list[str]:
    """Kill the SuperLink while sites upload, train and sample, and start it again at once."""
    first, second, third = (site.name for site in world.sites)
    held = [(first, UPLOAD, 1), (second, TRAINING, 5), (third, SAMPLING, 0)]
    for who, point, after in held:
        world.arm(who, point, "hold", after)
    reactions = {(who, point): world.restart_superlink((who, point), 5) for who, point, _ in held}
    problems: list[str] = []
    status = world.run(reactions)
    expect(problems, world.struck == 3, "not every fault struck")
    expect(problems, status == COMPLETED, "the run did not complete")
    return _whole(world, problems)


def superlink_away(world: World) -> list[str]:
    """Kill the SuperLink while sites train and start it again after 100 seconds; then run again."""
    second = world.sites[1].name
    world.arm(second, TRAINING, "hold", 5)
    reactions = {(second, TRAINING): world.restart_superlink((second, TRAINING), 100)}
    problems: list[str] = []
    if world.run(reactions) != COMPLETED:
        expect(problems, world.run({}) == COMPLETED, "the second attempt did not complete")
    return _whole(world, problems)


def coordinator_disk_full(world: World) -> list[str]:
    """The disk with the run folder is full while shards are accepted; then there is room."""
    problems: list[str] = []
    with small_disk(world.machines.run) as fill:
        world.arm(world.sites[0].name, UPLOAD, "hold", 1)

        def fill_up() -> None:
            fill(True)
            world.say("the coordinator's disk is full (upload)")
            world.let_go(world.sites[0].name, UPLOAD)

        status = world.run({(world.sites[0].name, UPLOAD): fill_up})
        expect(problems, status == FAILED, "the run did not fail")
        fill(False)
        world.say("there is room again")
        expect(problems, world.run({}) == COMPLETED, "the second attempt did not complete")
        return _whole(world, problems)


def site_disk_full(world: World) -> list[str]:
    """A site's disk is full while it trains; then there is room."""
    third = world.sites[2]
    problems: list[str] = []
    with small_disk(third.state) as fill:
        world.arm(third.name, TRAINING, "hold", 5)

        def fill_up() -> None:
            fill(True)
            world.say(f"{third.name}: disk full (personal training)")
            world.let_go(third.name, TRAINING)

        status = world.run({(third.name, TRAINING): fill_up})
        expect(problems, status == FAILED, "the run did not fail")
        error = (world.machines.run / "error.txt").read_text("utf-8")
        expect(problems, third.name in error, f"error.txt does not name the site: {error}")
        fill(False)
        world.say("there is room again")
        expect(problems, world.run({}) == COMPLETED, "the second attempt did not complete")
        return _whole(world, problems)


# -- one fault in every phase -----------------------------------------------------------------------------


def one_in_every_phase(world: World) -> list[str]:
    """Noising, upload, personal and global training, download, sampling: one fault each, in two attempts."""
    first, second, third = world.sites
    world.arm(first.name, NOISING, "kill")
    world.arm(second.name, UPLOAD, "kill", 1)
    world.arm(third.name, TRAINING, "kill", 5)
    world.arm(COORDINATOR, TRAINING, "kill", 5)
    reactions = {
        (first.name, NOISING): world.told(f"{first.name}: ClientApp killed (noising)"),
        (second.name, UPLOAD): world.told(f"{second.name}: ClientApp killed (between shards)"),
        (third.name, TRAINING): world.told(f"{third.name}: ClientApp killed (personal training)"),
        (COORDINATOR, TRAINING): world.told("ServerApp killed (global training)"),
    }
    problems: list[str] = []
    expect(problems, world.run(reactions) == FAILED, "the ServerApp was not killed")
    world.arm(second.name, "download", "hold")
    world.arm(first.name, SAMPLING, "kill")
    reactions[first.name, SAMPLING] = world.told(f"{first.name}: ClientApp killed (sampling)")
    reactions[second.name, "download"] = world.restart_supernode(second, "download")
    expect(problems, world.run(reactions) == COMPLETED, "the second attempt did not complete")
    expect(problems, world.struck == 6, "not every fault struck")
    return _whole(world, problems)


RESUMES = "the run completes with all three sites"
CASES = [
    Case(
        "one-in-every-phase",
        "SIGKILL: ClientApp while noising, between shards, training, sampling; ServerApp in global training; "
        "SuperNode in download",
        "the second attempt completes with all three sites",
        one_in_every_phase,
    ),
    Case(
        "clientapp-killed",
        "SIGKILL of ClientApps: noising (before and after the commit), between shards, training, sampling",
        RESUMES,
        clientapp_killed,
    ),
    Case(
        "supernode-killed",
        "SIGKILL of SuperNodes, ClientApps living on: noising, between shards, training, download, sampling",
        RESUMES,
        supernode_killed,
    ),
    Case(
        "serverapp-killed",
        "SIGKILL of the ServerApp: between shards, in global training, in sampling",
        "each time a new flwr run goes on; the last completes",
        serverapp_killed,
    ),
    Case(
        "superlink-restarted",
        "SIGKILL of the SuperLink, restarted after 5 s: upload, training, sampling",
        RESUMES,
        superlink_restarted,
    ),
    Case(
        "connections-cut",
        "proxy killed for 75 s: noising, between shards, training, download, sampling",
        RESUMES,
        connections_cut,
    ),
    Case(
        "site-killed",
        "SIGKILL of all of a site's processes, then restarted: noising, between shards, training, download, "
        "sampling",
        RESUMES,
        site_killed,
    ),
    Case(
        "superlink-away",
        "SIGKILL of the SuperLink in training, restarted after 100 s",
        "the run completes, or one clear error and a new flwr run completes",
        superlink_away,
    ),
    Case(
        "coordinator-disk-full",
        "the coordinator's disk full between shards",
        "one clear error; with room, a new flwr run completes",
        coordinator_disk_full,
    ),
    Case(
        "site-disk-full",
        "a site's disk full in personal training",
        "the site is named; with room, a new flwr run completes",
        site_disk_full,
    ),
    Case("joins-late", "a site connects while others upload", RESUMES, joins_late),
    Case(
        "joins-too-late",
        "a site connects after the upload",
        "the run completes with the two others and names it",
        joins_too_late,
    ),
    Case(
        "never-answers",
        "a site takes the first instruction and never answers",
        "left out after reply-seconds; the run completes with the two others",
        never_answers,
    ),
    Case(
        "clock-off",
        "a site's clock is an hour ahead",
        "it is turned away; the run completes with the two others",
        clock_off,
    ),
    Case(
        "too-few-left",
        "SIGKILL of two sites in training, restarted only for another attempt",
        "one clear error; a new flwr run completes",
        too_few_left,
    ),
]


def needed() -> str:
    """Return what no case can do without and is not here, in words."""
    return "" if nginx() else "sites come through nginx: apt-get install nginx-light"
