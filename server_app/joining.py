"""The first phase of a run without releases: every node says who it is and how many images it has."""

from __future__ import annotations

from fedpdiff.errors import MessageError
from fedpdiff.federation.protocol import JoinInstruction, JoinManifest
from fedpdiff.records import pack, unpack
from server_app.exchange import Exchange
from server_app.federation import Federation, messages
from server_app.participants import Site


def join(
    federation: Federation[Site], exchange: Exchange, nodes: list[int], column: str, seconds: float
) -> None:
    """Let nodes take part whose classes, code and counts fit; ``column``: what their scores are called.

    Raises
    ------
    RunError
        When fewer than ``min-clients`` are left.
    """
    participants, names = federation.participants, federation.tasks.class_names
    content = pack(JoinInstruction(fingerprint=federation.fingerprint, class_names=list(names)))
    requests = exchange.ask_all(messages(content, nodes, "query.join"), seconds)
    for node, reply in exchange.collect(requests):
        with participants.judging(node):
            manifest, _, _ = unpack(reply, JoinManifest)
            _check(manifest, len(names), federation.fingerprint)
            participants.join(node, Site(manifest, columns=(column, "own")))
    participants.require_enough()


def _check(manifest: JoinManifest, classes: int, fingerprint: str) -> None:
    if manifest.fingerprint != fingerprint:
        raise MessageError(
            f"{manifest.site} runs other code (fingerprint {manifest.fingerprint[:12]}, server "
            f"{fingerprint[:12]}); install the same version on both sides"
        )
    counts = manifest.class_counts
    if len(counts) != classes or min(counts) < 0 or not manifest.images:
        raise MessageError(
            f"{manifest.site} declares class_counts = {counts}: must be {classes} numbers of at least 0, not "
            "all 0"
        )
    if manifest.number is not None and manifest.site != f"client-{manifest.number}":
        raise MessageError(
            f"{manifest.site} declares number = {manifest.number}: only client-{manifest.number} may"
        )
