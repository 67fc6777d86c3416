"""The private side of a sealed site: local, offline commands on the site's own images.

Every step is :class:`~fedpdiff.federation.client.ClientTasks`, the same that an open client runs; only that
the request comes from a file, the release goes to an outbox, and the global half comes from an inbox.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedpdiff.config import NodeConfig
from fedpdiff.errors import ConfigError
from fedpdiff.federation.client import ClientTasks
from fedpdiff.federation.exchange_folders import check_outside, fill_outbox, read_inbox
from fedpdiff.federation.protocol import PhaseReport, ReleaseInstruction, ReleaseManifest
from fedpdiff.federation.run_request import RunRequest
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.runfolder import write_json

_OPTIONS = {"data-path": "--data", "policy": "--policy", "site-name": "--site"}
_KNOWN = {*_OPTIONS, "witness"}

Listener = Callable[[dict[str, Any]], None]


class PrivateSide:
    """One site's private side.

    Parameters
    ----------
    node
        Where the site's images, its policy and its state lie, and its name.
    request
        What the coordinator asks for.
    listener
        Called with every progress event.
    """

    def __init__(self, node: NodeConfig, request: RunRequest, listener: Listener | None = None) -> None:
        self.request = request
        self.tasks = ClientTasks(request.config, node, 0)
        self.tasks.events.listener = listener
        self._state = Path(node.state_dir)
        self._data = Path(node.data_path)

    @classmethod
    def open(
        cls,
        state: Path,
        data: Path | None = None,
        policy: Path | None = None,
        site: str | None = None,
        request: Path | None = None,
        listener: Listener | None = None,
        witness: Path | None = None,
    ) -> PrivateSide:
        """Return the private side whose state lies in a folder; what is not given is as it was last time.

        Raises
        ------
        ConfigError
            When something is neither given nor known from an earlier call.
        MessageError, PrivacyError
            When the request cannot be read, or policy or settings do not allow it.
        """
        state = state.absolute()
        given = {
            "data-path": str(data.absolute()) if data else None,
            "policy": str(policy.absolute()) if policy else None,
            "site-name": site,
            "witness": str(witness.absolute()) if witness else None,
        }
        known = _read_known(state / "site.json") | {key: value for key, value in given.items() if value}
        missing = [option for key, option in _OPTIONS.items() if not known.get(key)]
        kept = state / "request.json"
        if request is None and not kept.exists():
            missing.append("--request")
        if missing:
            raise ConfigError(f"{state} does not know this site yet: give {', '.join(missing)} as well")
        node = NodeConfig.parse({**known, "state-dir": str(state)})
        side = cls(node, RunRequest.load(request or kept), listener)
        write_json(state / "site.json", known)
        if request is not None:
            side.request.save(kept)
        return side

    def release(self, outbox: Path) -> ReleaseManifest:
        """Make the release in the site's ledger, or find it there, and put it into the outbox.

        Raises
        ------
        ConfigError
            When the outbox is inside a private folder, or the other way round.
        PrivacyError
            When the policy does not allow it, or ledger or noise are not in order.
        DataError
            When the images cannot be read or their classes do not fit.
        """
        for private in (self._state, self._data):
            check_outside(outbox, private)
        agreement = self.request.agreement
        instruction = ReleaseInstruction(
            **agreement.mechanism.model_dump(),
            fingerprint=code_fingerprint(),
            class_names=list(self.request.class_names),
        )
        manifest = self.tasks.release(instruction, {"centre": agreement.centre})
        fill_outbox(outbox, self.tasks.folder.release / "outbox", self.request)
        return manifest

    def personalize(self) -> PhaseReport:
        """Train the personal denoiser; goes on from where an earlier call was cut off.

        Raises
        ------
        MessageError
            When there is no release yet: its level decides what is trained.
        """
        return self.tasks.personalize()

    def evaluate(self, inbox: Path) -> dict[str, Any]:
        """Sample with the global half in the inbox, judge the samples on the site's own test images.

        Returns
        -------
        dict
            Scores by name; empty where the server sent no feature network. They are kept with the samples in
            the state folder, and go nowhere else.
        """
        self.tasks.sample(read_inbox(inbox))
        scores: dict[str, Any] = json.loads(self.tasks.folder.scores.read_text("utf-8"))
        return scores


def _read_known(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}); delete it and give all options"
        ) from None
    if not isinstance(known, dict) or set(known) - _KNOWN:
        raise ConfigError(f"{path} is damaged; delete it and give all options again")
    return known
