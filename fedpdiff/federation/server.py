"""What the server computes: the proposal, the global half, the metrics' features, a simulation's bounds."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedpdiff.config import PFDM, RunConfig
from fedpdiff.data.classes import absent_classes, class_groups, class_names
from fedpdiff.data.public import load_all_private, load_public, load_test
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.errors import FedpdiffError, MessageError, RunError
from fedpdiff.evaluation import difference_spread, evaluate_groups
from fedpdiff.events import EventLog
from fedpdiff.federation.agreement import Agreement, propose
from fedpdiff.federation.certificates import check_declared
from fedpdiff.federation.networks import Trainer, use_threads, with_checkpoints
from fedpdiff.federation.pooled import SpooledImages, pooled_images
from fedpdiff.federation.sampling import Sampler
from fedpdiff.federation.spool import Spool, check_manifest
from fedpdiff.metrics.feature_training import cached_feature_network
from fedpdiff.metrics.features import FeatureNetwork, FeatureSpace
from fedpdiff.metrics.inception import InceptionFeatures
from fedpdiff.metrics.utility import Downstream
from fedpdiff.privacy.cautions import Caution, run_cautions
from fedpdiff.privacy.statement import privacy_statement
from fedpdiff.results import GroupScores
from fedpdiff.rng import numpy_generator
from fedpdiff.runfolder import RunFolder, write_json
from fedpdiff.sample_file import save_samples
from fedpdiff.types import LabelledImages, concatenate

log = logging.getLogger("flwr")

FEATURE_CACHE = Path.home() / ".cache" / "fedpdiff" / "features"


class ServerTasks:
    """The server's computations in one run.

    Parameters
    ----------
    config
        Checked settings.
    folder
        The run folder.
    """

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self.config = config
        self.folder = folder
        self.events = EventLog(folder.events, "server")
        # By the identity of the samples, which are kept with it so that it stays theirs.
        self._downstream: dict[int, tuple[LabelledImages, Downstream]] = {}
        self._judged: dict[tuple[int, str], dict[str, GroupScores]] = {}
        self._stopped = False
        use_threads(config.threads)

    def stop(self) -> None:
        """End a global training that goes on in another thread, at its next progress report."""
        self._stopped = True

    @cached_property
    def public(self) -> LabelledImages:
        """Public images: for centre and clip norm, and in deployment for the feature network."""
        return load_public(self.config)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The run's classes in order."""
        return class_names(self.config)

    @cached_property
    def agreement(self) -> Agreement:
        """The mechanism that this run asks its clients for."""
        return propose(self.config, self.public)

    @cached_property
    def trainer(self) -> Trainer:
        """Trains the server's networks."""
        if self.config.method != PFDM:
            return Trainer.of_whole_chain(self.config, self.class_names)
        agreement = self.agreement
        return Trainer(self.config, agreement.mechanism, agreement.centre, self.class_names)

    def state_privacy(self, images: int | None = None) -> list[Caution]:
        """Write what this run gives each image, and what speaks against it, to ``privacy.json``.

        Parameters
        ----------
        images
            Images of the client that has most, once they are known.

        Returns
        -------
        list of Caution
            What speaks against it.
        """
        mechanism = self.agreement.mechanism
        statement = privacy_statement(
            mechanism.alpha_bar, mechanism.clip, mechanism.delta, mechanism.t0, mechanism.schedule
        )
        cautions = run_cautions(self.config, statement["epsilon"], images)
        lines = [str(caution) for caution in cautions]
        write_json(self.folder.privacy, {"statement": statement, "images": images, "cautions": lines})
        return cautions

    def check(self) -> None:
        """Build what settings can still get wrong, before any client is asked for its one release.

        Raises
        ------
        ConfigError
            When the network or the Inception weights cannot be had.
        """
        if self.config.method == PFDM:
            self.trainer.empty_global_half()
        if self.config.features == "inception":
            InceptionFeatures(self.config.inception_weights)

    def pool(self, spools: list[Spool], declined: Collection[str] = ()) -> list[Spool]:
        """Return all uploads that the global half learns from, by site; other uploads are deleted.

        Parameters
        ----------
        spools
            Accepted in this attempt. To them come those that an earlier attempt accepted as a whole, of sites
            that are not here now.
        declined
            Sites whose earlier upload is not used: they were asked now, and declined or sent something else.
        """
        pooled = {spool.manifest.site: spool for spool in spools}
        for folder in self.folder.spools():
            if folder.name not in pooled:
                try:
                    if folder.name in declined:
                        raise MessageError("it declined this time")
                    spool = Spool.open(folder)
                    self._check_earlier(spool)
                except (FedpdiffError, OSError, ValueError) as error:
                    log.warning("the upload of %s is deleted: %s", folder.name, error)
                    shutil.rmtree(folder)
                    continue
                log.info("%s is not here now; its upload of an earlier attempt is used", folder.name)
                pooled[spool.manifest.site] = spool
        return [pooled[site] for site in sorted(pooled)]

    def _check_earlier(self, spool: Spool) -> None:
        """Check an earlier attempt's upload as it was checked when it came."""
        manifest = spool.manifest
        check_manifest(manifest, self.agreement.mechanism, self.class_names, manifest.fingerprint)
        check_declared(manifest, self.agreement.request(self.config).settings())
        if missing := spool.missing():
            raise MessageError(f"{len(missing)} of {manifest.shards} shards are missing")
        spool.finish()

    def train_global(self, spools: list[Spool]) -> Denoiser:
        """Train the global half on validated uploads, in the order given, and write it to the run folder.

        A training that was cut off goes on from its checkpoint if it had the same uploads.
        """
        pool = {spool.manifest.site: spool.sha256 for spool in spools}
        if _read_json(self.folder.pool) != pool:
            self.folder.global_checkpoint.unlink(missing_ok=True)
            write_json(self.folder.pool, pool)
        trainer = self.trainer
        if any(spool.manifest.number is None for spool in spools):
            trainer.config = with_checkpoints(self.config, self.config.global_steps)
        uploads, labels = pooled_images(spools)
        if self.config.global_workers > 1:  # none of them has a copy: they share what the system has read
            uploads = SpooledImages(spools)
        with self.events.phase("global training", self.config.global_steps) as progress:

            def report(done: int, total: int, loss: float | None = None) -> None:
                progress(done, total, loss)
                if self._stopped:
                    raise RunError(f"global training was stopped after step {done} of {total}")

            half = trainer.global_half(uploads, labels, report, self.folder.global_checkpoint)
        half.save_pretrained(self.folder.global_half)
        return half

    def feature_network(self, simulated: bool) -> FeatureNetwork | None:
        """Train, or read from the cache, the classifier that metrics rest on.

        A simulation uses all real training images, so that the features are good; a deployment has only the
        public ones, and without those there are no metrics.
        """
        images = concatenate([self.public, self.private]) if simulated else self.public
        if len(images) == 0:
            return None
        with self.events.phase("feature network"):
            # What was learnt from private images stays in the run folder; the embedded digits are public.
            cache = FEATURE_CACHE if self.config.data == "digits" else self.folder.features
            return cached_feature_network(cache, images, len(self.class_names), self.config.seed)

    @cached_property
    def private(self) -> LabelledImages:
        """All clients' images: simulation only, for the bounds and the features."""
        return load_all_private(self.config)

    @cached_property
    def test(self) -> LabelledImages:
        """The held-out test images of a simulation."""
        return load_test(self.config)

    def centralised(self) -> LabelledImages:
        """Train on all clean images, as no federation can, and sample: the upper bound."""
        with self.events.phase("centralised training", self.config.personal_steps) as progress:
            bound = self.trainer.personal(
                self.private, ("centralised",), None, progress, self.folder.centralised_checkpoint
            )
        with self.events.phase("centralised sampling") as progress:
            samples = Sampler(
                self.config, len(self.class_names), ("centralised", "samples"), progress
            ).whole_chain(bound)
        for number in range(self.config.clients):
            save_samples(self.folder.client(number) / "samples", "centralised", samples)
        return samples

    def real_floor(self) -> LabelledImages:
        """Return real training images, up to ``samples-per-class`` of each class: what no model can beat."""
        rows = [
            torch.nonzero(self.private.labels == label).flatten()[: self.config.samples_per_class]
            for label in range(len(self.class_names))
        ]
        return self.private.select(torch.cat(rows))

    def judge(
        self, samples: LabelledImages, class_counts: list[int], network: FeatureNetwork
    ) -> dict[str, GroupScores]:
        """Score samples for the class groups of a client with these counts."""
        majority, minority = class_groups(class_counts)
        groups = {"majority": majority, "minority": minority, "absent": absent_classes(class_counts)}
        if id(samples) not in self._downstream:  # the same samples are judged for every client
            classes, seed = len(self.class_names), self.config.seed
            self._downstream[id(samples)] = samples, Downstream(samples, None, classes, seed)
        _, downstream = self._downstream[id(samples)]
        alike = id(samples), repr(groups)  # many clients have the same groups
        if alike not in self._judged:
            self._judged[alike] = evaluate_groups(
                samples, self.test, groups, network, self.space(network), downstream
            )
        return self._judged[alike]

    def gap_spread(
        self, local: LabelledImages, bound: LabelledImages, class_counts: list[int], network: FeatureNetwork
    ) -> float | None:
        """Return the spread of (local - centralised) over resampled images, for the minority classes."""
        minority = class_groups(class_counts)[1]
        if not minority:
            return None
        generator = numpy_generator(self.config.seed, "gap-spread")
        return difference_spread(local, bound, self.test, minority, self.space(network), generator)

    def space(self, network: FeatureNetwork) -> FeatureSpace:
        """Return the feature space of Frechet distance, precision and recall."""
        if self.config.features == "inception":
            return InceptionFeatures(self.config.inception_weights)
        return network


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def load_samples(folder: Path, name: str) -> LabelledImages | None:
    """Read samples that a simulated client wrote to the run folder; None when it wrote none."""
    if not (folder / "samples" / f"{name}.npz").is_file():
        return None
    with np.load(folder / "samples" / f"{name}.npz", allow_pickle=False) as file:
        return LabelledImages(torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]))
