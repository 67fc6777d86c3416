"""Accounting of DP-SGD (Abadi et al. 2016): noise for a budget, and a ledger of the steps that were taken.

Unit and adjacency are not those of a release: here one image is *added or removed*, each step sees each image
with probability q (Poisson sampling), and what is protected is what the training gives out, its weights after
every round. Accounted with Renyi differential privacy by Opacus. Gradients are floating-point numbers, as
everywhere in DP-SGD: unlike a release, the sum of a gradient and its noise has not been shown exact.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.disk import locked
from fedpdiff.privacy.ledger_entries import now

UNIT = "one image of a client, added or removed; Poisson sampling; Renyi accounting (Opacus)"


@dataclass(frozen=True)
class Steps:
    """Gradient steps of one kind.

    Attributes
    ----------
    noise_multiplier
        Standard deviation of the noise on the sum of clipped gradients, in units of the clip norm.
    sample_rate
        q, the probability with which a step sees an image.
    steps
        How many.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return the least noise multiplier (to about 1e-3) that keeps ``steps`` within (epsilon, delta).

    Raises
    ------
    PrivacyError
        When no reasonable noise reaches so small a budget.
    """
    from opacus.accountants.utils import get_noise_multiplier  # takes seconds to import

    try:
        return float(
            get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant="rdp",
                epsilon_tolerance=0.001 * epsilon,
            )
        )
    except ValueError as error:
        raise PrivacyError(
            f"epsilon = {epsilon:g} is too small for {steps} steps at a sampling rate of {sample_rate:.3g} "
            f"({error}); take a larger epsilon, or fewer personal-steps"
        ) from None


def spent(history: list[Steps], delta: float) -> float:
    """Return epsilon of all these steps together at ``delta``."""
    from opacus.accountants import RDPAccountant

    if not history:
        return 0.0
    accountant = RDPAccountant()
    accountant.history = [(entry.noise_multiplier, entry.sample_rate, entry.steps) for entry in history]
    return float(accountant.get_epsilon(delta=delta))


class StepLedger:
    """The DP-SGD steps that a client ever took on its images: append-only lines, on the disk before a step.

    A round is charged before it begins. After a crash within a round it is charged again when it is trained
    again: that its weights never left does not matter then, and nothing is ever charged too little.

    Parameters
    ----------
    folder
        The client's own; it must outlive runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "dp-sgd.jsonl"

    def charge(self, entry: Steps, epsilon: float, delta: float) -> float:
        """Note steps that are about to be taken, if all steps ever stay within the budget.

        Returns
        -------
        float
            epsilon of all steps, these included, at ``delta``.

        Raises
        ------
        PrivacyError
            When they do not (nothing is noted then), or the ledger is damaged.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder):
            reached = spent([*self.history(), entry], delta)
            if not reached <= epsilon * (1 + 1e-9):
                raise PrivacyError(
                    f"with {entry.steps} more DP-SGD steps this client's images would reach epsilon = "
                    f"{reached:.4g} at delta = {delta:g}, above epsilon = {epsilon:g}; nothing was trained"
                )
            line = json.dumps(asdict(entry) | {"time": now()}) + "\n"
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return reached

    def history(self) -> list[Steps]:
        """Return all steps noted so far.

        Raises
        ------
        PrivacyError
            When the ledger cannot be read: steps that are not counted would be spent again.
        """
        if not self._path.exists():
            return []
        try:
            lines = [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]
            return [
                Steps(float(line["noise_multiplier"]), float(line["sample_rate"]), int(line["steps"]))
                for line in lines
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PrivacyError(
                f"the ledger of DP-SGD steps is damaged ({type(error).__name__}); restore it from a backup, "
                "and never delete it: what was spent would count as unspent"
            ) from None
