"""Who takes part in a run: the sites, who was left out and why, and whether enough are left."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from fedpdiff.errors import FedpdiffError, MessageError, RunError
from fedpdiff.federation.protocol import JoinManifest, PhaseReport, ReleaseManifest
from fedpdiff.federation.scores import PFDM_COLUMNS, Scores, from_metrics
from fedpdiff.federation.spool import Spool
from fedpdiff.plain import plain_line
from fedpdiff.results import Method, ParticipantList, Refusal

log = logging.getLogger("flwr")


@dataclass
class Site:
    """A client that takes part: its manifest, traffic, steps and, where it lets them leave, scores.

    ``columns``: the methods whose scores it may send.
    """

    manifest: ReleaseManifest | JoinManifest
    columns: tuple[Method, ...]
    bytes_up: int = 0
    bytes_down: int = 0
    gradient_steps: int = 0
    scores: Scores = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name it goes by in every message."""
        return self.manifest.site

    @property
    def uploaded(self) -> int:
        """Bytes that the server has of it."""
        return self.bytes_up

    def report(self, report: PhaseReport, metrics: dict[str, float]) -> None:
        """Take note of a phase that this site has done.

        Raises
        ------
        MessageError
            When the report is another site's, or a score is impossible.
        """
        if report.site != self.name:
            raise MessageError(f"{self.name} reports as {report.site!r}")
        self.gradient_steps += report.gradient_steps
        if metrics:
            self.scores = from_metrics(metrics, self.columns)


@dataclass
class UploadingSite(Site):
    """A client of PFDM, with its upload."""

    manifest: ReleaseManifest
    columns: tuple[Method, ...] = PFDM_COLUMNS
    spool: Spool = field(kw_only=True)

    @property
    def uploaded(self) -> int:
        """Bytes of its upload, in whichever attempt they came."""
        return self.spool.bytes


SiteKind = TypeVar("SiteKind", bound=Site)


class Participants(Generic[SiteKind]):
    """The sites of one run; who they are is kept in a file, however the run ends.

    Parameters
    ----------
    least
        How many sites a run needs.
    file
        Where the list of participants is kept.

    Attributes
    ----------
    sites
        Sites that still take part, by node id.
    refused
        Who was left out, in which phase and why.
    names
        What the coordinator calls the nodes, where it named them; each may take part under that name only.
    declined
        Names of those that were left out for what they sent, or because they declined.
    phase
        The phase that the run is in.
    """

    def __init__(self, least: int, file: Path) -> None:
        self.sites: dict[int, SiteKind] = {}
        self.names: dict[int, str] = {}
        self.refused: list[Refusal] = []
        self.declined: set[str] = set()
        self.phase = ""
        self._least = least
        self._file = file
        self._keep()

    def _keep(self) -> None:
        names = sorted(site.name for site in self.sites.values())
        ParticipantList(participants=names, refused=self.refused).write(self._file)

    @property
    def simulated(self) -> bool:
        """Whether all sites are simulated; only then may the server look at raw data."""
        return all(site.manifest.number is not None for site in list(self.sites.values()))

    def join(self, node: int, site: SiteKind) -> None:
        """Let a site take part.

        Raises
        ------
        MessageError
            When the name is taken, or the coordinator admitted this node under another: in another's name a
            node could have that one's upload replaced.
        """
        admitted = self.names.get(node, site.name)
        if site.name != admitted:
            raise MessageError(
                f"it calls itself {site.name!r}, but was admitted as {admitted!r}: its site-name must be the "
                "name it was admitted under (fedpdiff coordinator admit --name)"
            )
        if any(other.name == site.name for other in self.sites.values()):
            raise MessageError(f"another client already takes part as {site.name!r}")
        self.sites[node] = site
        self._keep()

    def leave_out(self, node: int, reason: str) -> None:
        """Go on without a node; what it has uploaded stays, and another attempt asks for the rest only."""
        # A reason may hold what a stranger sent.
        name, reason = self._name(node), plain_line(reason) or "no reason given"
        self.sites.pop(node, None)
        log.warning("%s is left out of %s: %s", name, self.phase, reason)
        self.refused.append(Refusal(site=name, phase=self.phase, reason=reason))
        self._keep()

    def _name(self, node: int) -> str:
        site = self.sites.get(node)
        return site.name if site else self.names.get(node, f"node {node}")

    @contextmanager
    def judging(self, node: int) -> Iterator[None]:
        """Leave a node out when what it sent is not acceptable."""
        try:
            yield
        except FedpdiffError as error:  # not OSError: a full disk here is not the client's fault
            self.declined.add(self._name(node))
            self.leave_out(node, str(error))
        except OSError:
            raise
        except Exception as error:  # what one node sends never ends the run of the others
            # The traceback, but not the text, which may repeat what a stranger chose.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("what node %s sent could not be judged: %s\n%s", node, type(error).__name__, where)
            self.leave_out(
                node, f"what it sent could not be judged ({type(error).__name__}); the log says more"
            )

    def require_enough(self) -> None:
        """Check that the run can go on.

        Raises
        ------
        RunError
            When fewer sites are left than the run needs; names those left out.
        """
        if len(self.sites) < self._least:
            reasons = "; ".join(f"{r.site} ({r.phase}): {r.reason}" for r in self.refused)
            raise RunError(
                f"{len(self.sites)} clients are left, but min-clients = {self._least}. Left out: {reasons}"
            )
