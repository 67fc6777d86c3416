"""What one client does: release once, upload, train its personal denoiser, sample and judge.

Nothing here knows Flower. What leaves the client is exactly what these methods return.
"""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path

import torch

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.data.client import ClientData, load_client
from fedpdiff.diffusion.denoiser import Denoiser, load_network_arrays, network_arrays
from fedpdiff.diffusion.training import Progress
from fedpdiff.errors import DataError, MessageError
from fedpdiff.evaluation import evaluate_groups
from fedpdiff.events import EventLog
from fedpdiff.federation.agreement import Agreement, check_request
from fedpdiff.federation.networks import Trainer, use_threads, with_checkpoints
from fedpdiff.federation.pooled import pooled_images
from fedpdiff.federation.protocol import (
    Mechanism,
    PhaseReport,
    ReleaseInstruction,
    ReleaseManifest,
    ShardManifest,
)
from fedpdiff.federation.sampled import ingredients_digest, read_scores, write_scores
from fedpdiff.federation.sampling import Sampler, save_samples
from fedpdiff.federation.scores import CLIENT_METHODS, Scores, to_metrics
from fedpdiff.federation.spool import Spool
from fedpdiff.federation.uploads import (
    Arrays,
    asked,
    cut_shard,
    describe_release,
    differences,
    with_prefix,
)
from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.metrics.inception import InceptionFeatures
from fedpdiff.privacy import steps
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.privacy.gaussian_noise import NoiseSource, SecureNoise, SeededNoise
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import Release, ReleaseStore
from fedpdiff.runfolder import ClientFolder, RunFolder
from fedpdiff.types import LabelledImages


class ClientTasks:
    """The tasks of one client in one run.

    Parameters
    ----------
    config, node
        Checked run and node settings.
    run_id
        Flower's number of the run; names the run folder where ``run-dir`` does not.

    Raises
    ------
    ConfigError
        When a real site's policy file cannot be read.
    PrivacyError
        When that policy does not name the run's coordinator: then nothing at all is done for it.
    """

    def __init__(self, config: RunConfig, node: NodeConfig, run_id: int) -> None:
        self.config = config if node.simulated else with_checkpoints(config, config.personal_steps)
        self.node = node
        self._run_id = run_id
        self.number = node.partition_id if node.simulated else None
        self.site = f"client-{self.number}" if node.simulated else node.site_name
        self.folder = ClientFolder.of(config, node, run_id)
        self.folder.prepare()
        self.events = EventLog(self.folder.events, self.site)
        use_threads(config.threads)
        self._site_policy = None if node.simulated else Policy.load(node.policy)
        if self._site_policy:
            self._site_policy.check_coordinator(config.coordinator)
            self._site_policy.check_columns(config.image_column, config.label_column)

    @cached_property
    def data(self) -> ClientData:
        """The client's own images."""
        column = self._site_policy.person_column if self._site_policy else ""
        return load_client(self.config, self.node, column)

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
        with self.folder.alone():
            return self._personalize()

    def _personalize(self) -> PhaseReport:
        started = time.monotonic()
        trainer = self._trainer()
        config = self.config
        steps = config.personal_steps
        only_below = config.personal_levels == "below-t0"
        last = trainer.hand_off if only_below else None
        with self.events.phase("personal training", config.personal_steps) as progress:
            personal = trainer.personal(
                self.data.train, self._stream("personal"), last, progress, self.folder.checkpoint("personal")
            )
            personal.save_pretrained(self.folder.personal)
        if only_below:
            steps += config.personal_steps
            with self.events.phase("local-only training", config.personal_steps) as progress:
                local = trainer.personal(
                    self.data.train, self._stream("local"), None, progress, self.folder.checkpoint("local")
                )
                local.save_pretrained(self.folder.local)
        return PhaseReport(site=self.site, seconds=time.monotonic() - started, gradient_steps=steps)

    # -- sampling -----------------------------------------------------------------------------------------

    def sample(self, arrays: Arrays) -> tuple[PhaseReport, dict[str, float]]:
        """Sample with the received global half and judge the samples.

        Samples and scores come from private images, outside the guarantee: they are written to the client's
        own folder, and a real site returns its scores only if its policy says so. Asked again with the same
        two halves, it returns what it found.
        """
        with self.folder.alone():
            return self._sample(arrays)

    def _sample(self, arrays: Arrays) -> tuple[PhaseReport, dict[str, float]]:
        started = time.monotonic()
        trainer = self._trainer()
        global_half = trainer.empty_global_half()
        load_network_arrays(global_half.network, with_prefix(arrays, "global/"))
        ingredients = self._ingredients(arrays)
        metrics = read_scores(self.folder, ingredients)
        if metrics is None:
            with self.events.phase("sampling", 0) as progress:
                samples = self._draw(global_half, progress)
                for name, images in samples.items():
                    save_samples(self.folder.samples, name, images)
                metrics = self._judge(samples, with_prefix(arrays, "features/"))
            write_scores(self.folder, ingredients, metrics)
        report = PhaseReport(site=self.site, seconds=time.monotonic() - started, gradient_steps=0)
        may_leave = self._site_policy is None or self._site_policy.metrics_may_leave
        return report, metrics if may_leave else {}

    def _ingredients(self, arrays: Arrays) -> str:
        """Return a hash of all that decides the samples and their scores."""
        tensors = {f"received/{name}": array for name, array in arrays.items()}
        tensors |= {"test": self.data.test.images.numpy(), "labels": self.data.test.labels.numpy()}
        for folder in (self.folder.personal, self.folder.local):
            if folder.exists():
                half = network_arrays(Denoiser.from_pretrained(folder).network)
                tensors |= {f"{folder.name}/{name}": array for name, array in half.items()}
        return ingredients_digest(self.config, self.folder.agreement, tensors)

    def _draw(self, global_half: Denoiser, progress: Progress) -> dict[str, LabelledImages]:
        device = global_half.device
        personal = Denoiser.from_pretrained(self.folder.personal, device)
        separate = self.config.personal_levels == "below-t0"
        local = Denoiser.from_pretrained(self.folder.local, device) if separate else personal
        sampler = Sampler(self.config, len(self.data.class_names), self._stream("samples"), progress)
        pfdm, view = sampler.two_stage(global_half, personal)
        samples = {"local": sampler.whole_chain(local), "pfdm": pfdm, "global": view}
        if self.node.simulated and self.config.oracle:
            samples["oracle"] = self._oracle(sampler, personal)
        if self.node.simulated:
            samples["real"] = self._real()
        return samples

    def _oracle(self, sampler: Sampler, personal: Denoiser) -> LabelledImages:
        """Refine all sites' real uploads, which a simulated client finds in the server's spool."""
        agreement = Agreement.load(self.folder.agreement)
        spools = RunFolder.of(self.config, self._run_id).spools()
        uploads, labels = pooled_images([Spool.open(folder) for folder in spools])
        offset = agreement.mechanism.alpha_bar**0.5 * torch.from_numpy(agreement.centre)
        return sampler.oracle(personal, uploads, offset, labels, agreement.mechanism.t0)

    def _real(self) -> LabelledImages:
        """Return up to ``samples-per-class`` test images of each class, to show beside the samples."""
        test = self.data.test
        rows = [
            torch.nonzero(test.labels == label).flatten()[: self.config.samples_per_class]
            for label in range(len(self.data.class_names))
        ]
        return test.select(torch.cat(rows))

    def _judge(self, samples: dict[str, LabelledImages], features: Arrays) -> dict[str, float]:
        if not features:
            return {}
        network = FeatureNetwork.from_arrays(features)
        space = (
            InceptionFeatures(self.config.inception_weights) if self.config.features == "inception" else None
        )
        groups = {"majority": self.data.majority, "minority": self.data.minority}
        scores: Scores = {}
        for method in CLIENT_METHODS:
            if method in samples:
                judged = evaluate_groups(samples[method], self.data.test, groups, network, space)
                for group, numbers in judged.items():
                    scores.setdefault(group, {})[method] = numbers
        return to_metrics(scores)

    def _trainer(self) -> Trainer:
        agreement = Agreement.load(self.folder.agreement)
        return Trainer(self.config, agreement.mechanism, agreement.centre, self.data.class_names)

    def _stream(self, purpose: str) -> tuple[str | int, ...]:
        return (self.site, purpose)
