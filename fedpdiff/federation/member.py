"""What every task of a client starts from: settings, its folder and images, and judging what it made."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.diffusion.training import Progress
from fedpdiff.evaluation import GroupScores, evaluate_groups, reference_images
from fedpdiff.events import OUT_OF_MEMORY, EventLog
from fedpdiff.federation.device import DeviceShare
from fedpdiff.federation.networks import choose_device, use_threads, with_checkpoints
from fedpdiff.federation.protocol import PhaseReport
from fedpdiff.federation.sampled import read_scores, write_scores
from fedpdiff.federation.scores import Scores, to_metrics
from fedpdiff.federation.uploads import Arrays, with_prefix
from fedpdiff.metrics.features import FeatureNetwork
from fedpdiff.metrics.inception import InceptionFeatures
from fedpdiff.metrics.utility import Downstream
from fedpdiff.privacy.policy import Policy
from fedpdiff.runfolder import ClientFolder
from fedpdiff.sample_file import save_samples
from fedpdiff.types import LabelledImages

if TYPE_CHECKING:
    from fedpdiff.data.client import ClientData

Samples = dict[str, LabelledImages]
Outcome = TypeVar("Outcome")


class Member:
    """One client in one run.

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
        When that policy does not allow the run's coordinator, columns or method: then nothing at all is done
        for it.
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
            self._site_policy.check_method(config.method)

    @cached_property
    def data(self) -> ClientData:
        """The client's own images."""
        from fedpdiff.data.client import load_client  # heavy; the server imports this module too

        column = self._site_policy.person_column if self._site_policy else ""
        return load_client(self.config, self.node, column)

    def on_device(self, work: Callable[[], Outcome]) -> Outcome:
        """Do work that trains or samples, which no other process does for this client meanwhile.

        When the device's memory runs out it is done again, with no other client of the run on the device.

        Raises
        ------
        RunError
            When the memory does not suffice even so.
        """

        def one_at_a_time() -> Outcome:
            with self.folder.alone():
                return work()

        share = DeviceShare(self.folder.locks, choose_device(self.config.device))
        return share.run(one_at_a_time, self.config, lambda: self.events.phase(OUT_OF_MEMORY))

    def finish(
        self, draw: Callable[[Progress], Samples], ingredients: str, arrays: Arrays, started: float
    ) -> tuple[PhaseReport, dict[str, float]]:
        """Draw samples, keep them, judge them with the feature network that came in ``arrays``, and report.

        Samples and scores come from private images, outside the guarantee: they are written to the client's
        own folder, and a real site returns its scores only if its policy says so. Asked again with the same
        ``ingredients``, it returns what it found.
        """
        metrics = read_scores(self.folder, ingredients)
        if metrics is None:
            with self.events.phase("sampling", 0) as progress:
                samples = draw(progress)
                for name, images in samples.items():
                    save_samples(self.folder.samples, name, images)
                metrics = self.judge(samples, with_prefix(arrays, "features/"))
            write_scores(self.folder, ingredients, metrics)
        report = PhaseReport(site=self.site, seconds=time.monotonic() - started, gradient_steps=0)
        may_leave = self._site_policy is None or self._site_policy.metrics_may_leave
        return report, metrics if may_leave else {}

    def judged_with(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Return what decides samples and scores besides the settings and the client's own networks."""
        test, own = self.data.test, self.data.train
        tensors = {f"received/{name}": array for name, array in arrays.items()}
        tensors |= {"test": test.images.numpy(), "labels": test.labels.numpy()}
        return tensors | {"own": own.images.numpy(), "own labels": own.labels.numpy()}

    def real(self) -> LabelledImages:
        """Return up to ``samples-per-class`` test images of each class, to show beside the samples."""
        test = self.data.test
        rows = [
            torch.nonzero(test.labels == label).flatten()[: self.config.samples_per_class]
            for label in range(len(self.data.class_names))
        ]
        return test.select(torch.cat(rows))

    def judge(self, samples: Samples, features: Arrays) -> dict[str, float]:
        """Return the scores of samples, none where no feature network came."""
        if not features:
            return {}
        network = FeatureNetwork.from_arrays(features)
        space = (
            InceptionFeatures(self.config.inception_weights) if self.config.features == "inception" else None
        )
        data = self.data
        groups = {"majority": data.majority, "minority": data.minority, "absent": data.absent}
        scores: Scores = {}
        classes = len(self.data.class_names)
        for method, images in samples.items():
            if method in ("real", "global"):  # shown, not judged here
                continue
            # The oracle hand-off is a diagnostic, whose images nobody would use.
            useful = method != "oracle"
            downstream = Downstream(images, self.data.train, classes, self.config.seed) if useful else None
            judged = evaluate_groups(images, self.data.test, groups, network, space, downstream)
            for group, numbers in judged.items():
                scores.setdefault(group, {})[method] = numbers
        own = Downstream(self.data.train, None, classes, self.config.seed)
        for group, labels in groups.items():
            if group in scores and group != "absent":
                there = reference_images(self.data.test, labels)
                scores[group]["own"] = GroupScores(utility=own.alone(there))
        return to_metrics(scores)

    def stream(self, purpose: str) -> tuple[str | int, ...]:
        """Return the name of this client's random stream for a purpose."""
        return (self.site, purpose)
