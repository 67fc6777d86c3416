"""One deployment in which case after case is tried: arms points, starts runs, notes what happened."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import psutil

from fedpdiff.results import Results
from simulations.faults.evidence import Shards, check_sites, check_uploads, shards_of
from simulations.faults.machines import PATIENCE, Machines, Site, wait_for

COORDINATOR = "coordinator"
LONGEST_RUN = 2400.0
Reaction = Callable[[], Any]


class World:
    """A coordinator and three sites, and the run that is going on.

    Parameters
    ----------
    machines
        The deployment; its coordinator runs.
    sites
        Set up, admitted and started.

    Attributes
    ----------
    events
        What happened in the case at hand, in words.
    before
        Shards that had been accepted when faults struck.
    """

    def __init__(self, machines: Machines, sites: list[Site]) -> None:
        self.machines = machines
        self.sites = sites
        self.events: list[str] = []
        self.before: Shards = {}
        self._cases = 0
        self._settings: dict[str, Any] = {}

    # -- cases --------------------------------------------------------------------------------------------

    def begin(self, name: str, **settings: Any) -> None:
        """Forget the case before: other run folder, other seed, empty state at every site, nothing armed."""
        for site in self.sites:
            for app in site.apps():
                with contextlib.suppress(psutil.Error):
                    app.kill()
            for folder in (site.state, site.root / "witness"):
                for left_over in list(folder.iterdir()) if folder.exists() else []:
                    shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        for who in (COORDINATOR, *(site.name for site in self.sites)):
            for left_over in self.machines.points(who).iterdir():
                left_over.unlink()
        self._cases += 1
        self.machines.run = self.machines.root / "runs" / name
        self.machines.run.mkdir(parents=True)
        self.events, self.before = [], {}
        self._settings = {"seed": self._cases} | settings

    def say(self, event: str) -> None:
        """Note what happened."""
        self.events.append(event)
        print(f"{time.strftime('%H:%M:%S')}   {event}", flush=True)

    @property
    def struck(self) -> int:
        """How many faults have struck in the case at hand."""
        return sum("killed" in event or "connections cut" in event for event in self.events)

    # -- points -------------------------------------------------------------------------------------------

    def arm(self, who: str, point: str, action: str = "kill", after: int = 0) -> None:
        """Let a machine's process end or wait at a point that it has passed so many times."""
        (self.machines.points(who) / point).write_text(f"{action} {after}")

    def reached(self, who: str, point: str) -> bool:
        """Return whether a process has come to a point that was armed."""
        return (self.machines.points(who) / f"{point}.reached").exists()

    def let_go(self, who: str, point: str) -> None:
        """Let a held process go on."""
        (self.machines.points(who) / f"{point}.go").touch()

    # -- runs ---------------------------------------------------------------------------------------------

    def run(self, reactions: dict[tuple[str, str], Reaction] | None = None) -> str:
        """Start a run, answer reached points, and return the run's status at its end.

        Parameters
        ----------
        reactions
            By machine and point: what is done once it is reached; what has been done is taken out.
        """
        run_id = self.machines.begin_run(**self._settings)
        wait_for(lambda: self._tend() or self.serverapps(), "the ServerApp starts", 2 * PATIENCE)
        waiting = {} if reactions is None else reactions
        self._react(waiting)  # a process may have come to its point after the end of the attempt before
        deadline = time.monotonic() + LONGEST_RUN
        while self.serverapps():
            self._react(waiting)
            self._tend()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the run does not end in {LONGEST_RUN:g} seconds")
            time.sleep(0.2)
        self._react(waiting)
        status = self.machines.wait_for_end(run_id)
        error = self.machines.run / "error.txt"
        told = f" ({error.read_text('utf-8').strip()[:300]})" if error.exists() else ""
        self.say(f"the run ended as {status}{told}")
        return status

    def _tend(self) -> None:
        for script in self.machines.tend():
            self.say(f"{script} had ended and was started again")

    def _react(self, waiting: dict[tuple[str, str], Reaction]) -> None:
        for who, point in list(waiting):
            if self.reached(who, point):
                self.before |= shards_of(self.machines)
                waiting.pop((who, point))()

    def serverapps(self) -> list[psutil.Process]:
        """Return the running ServerApps."""
        mark = str(self.machines.points(COORDINATOR))
        found = []
        for process in self.machines.processes():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FEDPDIFF_FAULTS") == mark and "flwr-serverapp" in str(
                    process.cmdline()
                ):
                    found.append(process)
        return found

    def results(self) -> Results:
        """Return the results of the run."""
        return Results.read(self.machines.run)

    # -- faults -------------------------------------------------------------------------------------------

    def restart_supernode(self, site: Site, point: str) -> Reaction:
        """Return: end a site's SuperNode, start it again, and let the held ClientApp go on."""

        def react() -> None:
            self.machines.kill(site.supernode)
            self.say(f"{site.name}: SuperNode killed ({point})")
            site.start_supernode()
            self.let_go(site.name, point)

        return react

    def power_cut(self, site: Site, point: str) -> Reaction:
        """Return: end everything of a site, and start it again."""

        def react() -> None:
            site.kill()
            self.say(f"{site.name}: all processes killed ({point})")
            site.start()

        return react

    def cut_connections(self, held: tuple[str, str], seconds: float) -> Reaction:
        """Return: end the proxy for so long while a machine is held at a point."""

        def react() -> None:
            script = self.machines.coordinator / "start-proxy"
            self.stop_proxy()
            self.say(f"all connections cut for {seconds:g} s ({held[1]})")
            time.sleep(seconds / 2)
            self.let_go(*held)
            time.sleep(seconds / 2)
            self.machines.start(script)

        return react

    def stop_proxy(self) -> None:
        """End nginx and its workers."""
        script = self.machines.coordinator / "start-proxy"
        self.machines.kill_all(script)

    def restart_superlink(self, held: tuple[str, str], seconds: float) -> Reaction:
        """Return: end the SuperLink, start it again after so long, and let a held process go on."""

        def react() -> None:
            script = self.machines.coordinator / "start-superlink"
            self.machines.kill(script)
            self.say(f"SuperLink killed ({held[1]}), down for {seconds:g} s")
            time.sleep(seconds)
            self.machines.start(script)
            self.machines.wait_for_superlink()
            self.let_go(*held)

        return react

    def told(self, event: str) -> Reaction:
        """Return: note that a process ended at a point by itself."""
        return lambda: self.say(event)

    # -- outcome ------------------------------------------------------------------------------------------

    def problems(self, pooled: list[Site] | None = None) -> list[str]:
        """Return what is not as it must be after a case, in words."""
        pooled = self.sites if pooled is None else pooled
        return check_sites(pooled) + check_uploads(self.machines, pooled, self.before)


def set_up(machines: Machines) -> World:
    """Add three sites to a running coordinator, start them, and wait until they are connected."""
    sites = [machines.add_site(number) for number in range(3)]
    for site in sites:
        site.start()
    return World(machines, sites)
