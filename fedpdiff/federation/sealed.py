"""The network side of a sealed site: it serves what lies in the outbox and takes in the global half.

It has no data, no ledger, no policy and no personal model, and need not be trusted with any: run it as
another user, who may read the outbox and write the inbox, and nothing else of the site.
"""

from __future__ import annotations

import time
from pathlib import Path

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.errors import PrivacyError
from fedpdiff.federation.agreement import Agreement, check_request
from fedpdiff.federation.certificates import check_declared
from fedpdiff.federation.exchange_folders import fill_inbox, read_outbox
from fedpdiff.federation.protocol import PhaseReport, ReleaseInstruction, ReleaseManifest, ShardManifest
from fedpdiff.federation.uploads import Arrays, asked, cut_shard, describe_release, differences, with_prefix
from fedpdiff.privacy.outbox import Release


class SealedTasks:
    """The tasks of a sealed site's network side in one run; the same messages as an open client.

    Parameters
    ----------
    config, node
        Checked run and node settings; the node has an outbox.
    """

    def __init__(self, config: RunConfig, node: NodeConfig) -> None:
        self.config = config
        self.site = node.site_name
        self.outbox = Path(node.outbox)
        self.inbox = Path(node.inbox)

    def release(self, instruction: ReleaseInstruction, arrays: Arrays) -> ReleaseManifest:
        """Describe the release in the outbox, if it is the one that is asked for.

        Raises
        ------
        PrivacyError
            When the outbox is empty, damaged, or holds another release.
        MessageError
            When the centre does not come with the request, or the certificate does not fit it.
        """
        agreement = asked(instruction, arrays)
        check_request(agreement.mechanism, agreement.centre, self.config, simulated=False)
        release = self._read(agreement, tuple(instruction.class_names), verify=True)
        classes = len(instruction.class_names)
        manifest = describe_release(release, agreement.mechanism, self.site, None, classes)
        check_declared(manifest, agreement.request(self.config).settings())
        agreement.save(self.inbox / "agreement")
        return manifest

    def shard(self, number: int) -> tuple[ShardManifest, Arrays]:
        """Return one shard of the release in the outbox, coded for the wire.

        Raises
        ------
        MessageError
            When nothing was agreed on or there is no such shard.
        PrivacyError
            When the outbox no longer holds the release that was agreed on.
        """
        agreement = Agreement.load(self.inbox / "agreement")
        release = self._read(agreement, None, verify=False)
        return cut_shard(release, agreement.mechanism, self.site, number)

    def personalize(self) -> PhaseReport:
        """Do nothing: the private side trains the personal denoiser, whenever it likes."""
        return PhaseReport(site=self.site, seconds=0.0, gradient_steps=0)

    def sample(self, arrays: Arrays) -> tuple[PhaseReport, dict[str, float]]:
        """Put the received global half into the inbox; the private side samples with it.

        Raises
        ------
        DataError, MessageError
            When weights do not fit the settings, or nothing was agreed on.
        """
        # Imported here alone: every message starts a new process, and a shard needs no networks.
        from fedpdiff.diffusion.denoiser import load_arrays
        from fedpdiff.federation.networks import Trainer

        started = time.monotonic()
        agreement = Agreement.load(self.inbox / "agreement")
        _, request = read_outbox(self.outbox, self.inbox, verify=False)
        trainer = Trainer(self.config, agreement.mechanism, agreement.centre, request.class_names)
        half = trainer.empty_global_half()
        load_arrays(half, with_prefix(arrays, "global/"))
        fill_inbox(self.inbox, half, with_prefix(arrays, "features/"))
        return PhaseReport(site=self.site, seconds=time.monotonic() - started, gradient_steps=0), {}

    def _read(self, agreement: Agreement, classes: tuple[str, ...] | None, verify: bool) -> Release:
        release, request = read_outbox(self.outbox, self.inbox, verify)
        wrong = differences(release, agreement, self.config)
        if request.config.coordinator != self.config.coordinator:
            wrong.append(f'it was made for the coordinator "{request.config.coordinator}"')
        if classes is not None and classes != request.class_names:
            wrong.append(f"its classes are {', '.join(request.class_names)}, not {', '.join(classes)}")
        if wrong:
            raise PrivacyError(
                f"this site's outbox holds another release than asked for ({'; '.join(wrong[:3])}); nothing "
                "was sent. If the site agrees, its private side runs fedpdiff release with the coordinator's "
                "new request"
            )
        return release
