"""The upload phase: every node is asked for its release, then for shard after shard, at its own pace."""

from __future__ import annotations

import logging

from flwr.app import RecordDict

from fedpdiff.errors import DataError, MessageError, PrivacyError
from fedpdiff.events import Progress
from fedpdiff.federation.certificates import check_declared
from fedpdiff.federation.disk_share import check_disk_share
from fedpdiff.federation.protocol import (
    ReleaseInstruction,
    ReleaseManifest,
    ShardInstruction,
    ShardManifest,
)
from fedpdiff.federation.server import ServerTasks
from fedpdiff.federation.spool import Spool, check_manifest
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.records import pack, unpack
from server_app.exchange import Exchange
from server_app.participants import Participants, UploadingSite
from server_app.requests import Requests

log = logging.getLogger("flwr")


class Collection:
    """Collects the uploads; only shards that no earlier attempt has are asked for.

    Parameters
    ----------
    exchange
        The messages to and from the nodes.
    participants
        Sites join here once their release is the agreed one.
    tasks
        The server's computations and the run folder.
    seconds
        Time that a node has to answer one instruction.
    """

    def __init__(
        self,
        exchange: Exchange,
        participants: Participants[UploadingSite],
        tasks: ServerTasks,
        seconds: float,
    ) -> None:
        self._exchange = exchange
        self._participants = participants
        self._tasks = tasks
        self._seconds = seconds
        self._fingerprint = code_fingerprint()
        self._requests: Requests = {}
        self._asked: dict[int, int] = {}  # by node: the shard that it was asked for last

    def run(self, nodes: list[int]) -> None:
        """Collect from these nodes, and from those that connect meanwhile."""
        with self._tasks.events.phase("upload") as progress:
            self._ask_for_release(nodes)
            replies = self._exchange.collect(self._requests, lambda node: self._ask_for_release([node]))
            for node, reply in replies:
                with self._participants.judging(node):
                    if node in self._participants.sites:
                        self._accept(node, reply)
                    else:
                        self._join(node, reply)
                    self._report(progress)
                    self._go_on(node)

    def _ask_for_release(self, nodes: list[int]) -> None:
        agreement = self._tasks.agreement
        instruction = ReleaseInstruction(
            **agreement.mechanism.model_dump(),
            fingerprint=self._fingerprint,
            class_names=list(self._tasks.class_names),
        )
        content = pack(instruction, {"centre": agreement.centre})
        self._exchange.ask(self._requests, nodes, content, "train.release", self._seconds)

    def _join(self, node: int, reply: RecordDict) -> None:
        """Let a site take part if its release is the agreed one."""
        agreement = self._tasks.agreement
        manifest, _, _ = unpack(reply, ReleaseManifest)
        check_manifest(manifest, agreement.mechanism, self._tasks.class_names, self._fingerprint)
        spool = Spool(self._tasks.folder.spool(manifest.site), manifest)
        sites = max(self._tasks.config.clients, len(self._participants.sites) + 1)
        check_disk_share(manifest, spool.folder, sites)
        check_declared(manifest, agreement.request(self._tasks.config).settings())
        self._participants.join(
            node, UploadingSite(manifest, spool=spool, bytes_down=agreement.centre.nbytes)
        )
        spool.resume()
        if spool.kept:
            log.info("%s: %s of %s shards are here already", manifest.site, spool.kept, manifest.shards)

    def _accept(self, node: int, reply: RecordDict) -> None:
        """Take in the shard that was asked for."""
        spool = self._participants.sites[node].spool
        manifest, arrays, _ = unpack(reply, ShardManifest, arrays=True)
        if manifest.shard != self._asked[node]:
            raise MessageError(f"shard {self._asked[node]} was asked for, not {manifest.shard}")
        try:
            spool.accept(manifest, arrays)
        except (MessageError, PrivacyError):
            spool.discard()
            raise

    def _go_on(self, node: int) -> None:
        """Ask for the next shard; once all are there, accept the upload as a whole."""
        spool = self._participants.sites[node].spool
        missing = spool.missing()
        if not missing:
            try:
                spool.finish()
                return
            except (DataError, MessageError, PrivacyError) as error:
                if not spool.kept:
                    spool.discard()
                    raise
                # What lay on the disk may have been damaged since; the site still has its release.
                log.warning("%s; all shards are asked for again", error)
                spool.create()
                missing = spool.missing()
        self._asked[node] = missing[0]
        content = pack(ShardInstruction(fingerprint=self._fingerprint, shard=missing[0]))
        self._exchange.ask(self._requests, [node], content, "train.upload", self._seconds)

    def _report(self, progress: Progress) -> None:
        spools = [site.spool for site in self._participants.sites.values()]
        progress(sum(spool.arrived for spool in spools), sum(spool.manifest.shards for spool in spools))
