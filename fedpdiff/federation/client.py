"""What one client does: release once, upload, train its personal denoiser, sample and judge.

Nothing here knows Flower. What leaves the client is exactly what these methods return.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from fedpdiff.diffusion.denoiser import Denoiser, load_arrays, to_arrays
from fedpdiff.diffusion.training import Progress
from fedpdiff.errors import DataError, MessageError
from fedpdiff.federation.agreement import Agreement, check_request
from fedpdiff.federation.member import Member, Samples
from fedpdiff.federation.networks import Trainer
from fedpdiff.federation.pooled import pooled_images
from fedpdiff.federation.protocol import (
    Mechanism,
    PhaseReport,
    ReleaseInstruction,
    ReleaseManifest,
    ShardManifest,
)
from fedpdiff.federation.sampled import ingredients_digest
from fedpdiff.federation.sampling import Sampler
from fedpdiff.federation.spool import Spool
from fedpdiff.federation.uploads import (
    Arrays,
    asked,
    cut_shard,
    describe_release,
    differences,
    with_prefix,
)
from fedpdiff.privacy import steps
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.gaussian_noise import NoiseSource, SecureNoise, SeededNoise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import Release, ReleaseStore
from fedpdiff.runfolder import RunFolder
from fedpdiff.types import LabelledImages


class ClientTasks(Member):
    """The tasks of one client in one run of PFDM."""

    # -- release ------------------------------------------------------------------------------------------

    def release(self, instruction: ReleaseInstruction, arrays: Arrays) -> ReleaseManifest:
        """Make the one release, or read it again, and describe it.

        Raises
        ------
        PrivacyError
            When the request is not the agreed one or the images were already released otherwise.
        DataError
            When classes do not fit or there is no image.
        MessageError
            When the centre does not come with the request.
        """
        agreement = asked(instruction, arrays)
        mechanism = agreement.mechanism
        check_request(mechanism, agreement.centre, self.config, self.node.simulated)
        if list(self.data.class_names) != instruction.class_names:
            raise DataError(
                f"the run has the classes {', '.join(instruction.class_names)}, but this site's data have "
                f"{', '.join(self.data.class_names)}; set classes to the same ordered names for all sites"
            )
        with self.events.phase("release", len(self.data.train)):
            release = self._release(agreement)
            agreement.save(self.folder.agreement)
        classes = len(self.data.class_names)
        manifest = describe_release(release, mechanism, self.site, self.number, classes)
        steps.reached("reply ready")
        return manifest

    def shard(self, number: int) -> tuple[ShardManifest, Arrays]:
        """Return one shard of the release, coded for the wire.

        Raises
        ------
        MessageError
            When there is no such shard.
        PrivacyError
            When there is no release, the policy no longer allows it, or the ledger is damaged.
        """
        agreement = Agreement.load(self.folder.agreement)
        release = self._store(agreement.mechanism).read()  # never made here: one release, however often sent
        if differences(release, agreement, self.config):
            raise MessageError("the release on disk is not the one last agreed on; ask for the release again")
        return cut_shard(release, agreement.mechanism, self.site, number)

    def _release(self, agreement: Agreement) -> Release:
        noise: NoiseSource = SecureNoise()
        if agreement.mechanism.noise == "seeded":  # agreed to by a simulated client only, see check_request
            noise = SeededNoise(self.config.seed, self.site, "release")
        private = PrivateImages(self.data.train, self.data.digests, self.data.persons)
        request = agreement.request(self.config)
        return self._store(agreement.mechanism).get_or_make(request, private, noise)

    def _store(self, mechanism: Mechanism) -> ReleaseStore:
        if self._site_policy is None:
            return ReleaseStore(self.folder.release, self._simulated_policy(mechanism))
        witness = Path(self.node.witness) if self.node.witness else self.folder.witness
        return ReleaseStore(self.folder.release, self._site_policy, witness)

    def _simulated_policy(self, mechanism: Mechanism) -> Policy:
        """Return the limits of a simulated client: what its run asks for, once."""
        epsilon = epsilon_from_mu(mu_of(mechanism.alpha_bar, mechanism.clip), mechanism.delta)
        return Policy.simulation(epsilon, mechanism.delta)

    # -- personal training --------------------------------------------------------------------------------

    def personalize(self) -> PhaseReport:
        """Train the personal denoiser; with ``personal-levels = below-t0`` also a separate local-only one.

        A training that was cut off goes on from its checkpoint, a finished one is not done again.
        """
        return self.on_device(self._personalize)

    def _personalize(self) -> PhaseReport:
        started = time.monotonic()
        trainer = self._trainer()
        config = self.config
        steps = config.personal_steps
        only_below = config.personal_levels == "below-t0"
        last = trainer.hand_off if only_below else None
        with self.events.phase("personal training", config.personal_steps) as progress:
            personal = trainer.personal(
                self.data.train, self.stream("personal"), last, progress, self.folder.checkpoint("personal")
            )
            personal.save_pretrained(self.folder.personal)
        if only_below:
            steps += config.personal_steps
            with self.events.phase("local-only training", config.personal_steps) as progress:
                local = trainer.personal(
                    self.data.train, self.stream("local"), None, progress, self.folder.checkpoint("local")
                )
                local.save_pretrained(self.folder.local)
        return PhaseReport(site=self.site, seconds=time.monotonic() - started, gradient_steps=steps)

    # -- sampling -----------------------------------------------------------------------------------------

    def sample(self, arrays: Arrays) -> tuple[PhaseReport, dict[str, float]]:
        """Sample with the received global half and judge the samples; see :meth:`Member.finish`."""
        return self.on_device(lambda: self._sample(arrays))

    def _sample(self, arrays: Arrays) -> tuple[PhaseReport, dict[str, float]]:
        started = time.monotonic()
        global_half = self._trainer().empty_global_half()
        load_arrays(global_half, with_prefix(arrays, "global/"))
        personal = Denoiser.from_pretrained(self.folder.personal, global_half.device)

        def draw(progress: Progress) -> Samples:
            return self._draw(global_half, personal, progress)

        return self.finish(draw, self._ingredients(arrays), arrays, started)

    def _ingredients(self, arrays: Arrays) -> str:
        """Return a hash of all that decides the samples and their scores."""
        tensors = self.judged_with(arrays)
        for folder in (self.folder.personal, self.folder.local):
            if folder.exists():
                half = to_arrays(Denoiser.from_pretrained(folder).network)
                tensors |= {f"{folder.name}/{name}": array for name, array in half.items()}
        return ingredients_digest(self.config, self.folder.agreement, tensors)

    def _draw(self, global_half: Denoiser, personal: Denoiser, progress: Progress) -> Samples:
        device = global_half.device
        separate = self.config.personal_levels == "below-t0"
        local = Denoiser.from_pretrained(self.folder.local, device) if separate else personal
        sampler = Sampler(self.config, len(self.data.class_names), self.stream("samples"), progress)
        pfdm, view = sampler.two_stage(global_half, personal)
        samples = {"local": sampler.whole_chain(local), "pfdm": pfdm, "global": view}
        if self.node.simulated and self.config.oracle:
            samples["oracle"] = self._oracle(sampler, personal)
        if self.node.simulated:
            samples["real"] = self.real()
        return samples

    def _oracle(self, sampler: Sampler, personal: Denoiser) -> LabelledImages:
        """Refine all sites' real uploads, which a simulated client finds in the server's spool."""
        agreement = Agreement.load(self.folder.agreement)
        spools = RunFolder.of(self.config, self._run_id).spools()
        uploads, labels = pooled_images([Spool.open(folder) for folder in spools])
        offset = agreement.mechanism.alpha_bar**0.5 * torch.from_numpy(agreement.centre)
        return sampler.oracle(personal, uploads, offset, labels, agreement.mechanism.t0)

    def _trainer(self) -> Trainer:
        agreement = Agreement.load(self.folder.agreement)
        return Trainer(self.config, agreement.mechanism, agreement.centre, self.data.class_names)
