"""What one client does in a run that averages weights: join, train round after round, sample and judge.

Nothing here knows Flower. What leaves the client is exactly what these methods return: its number of images
per class, and after each round the weights that the method exchanges.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.diffusion.denoiser import Denoiser, load_arrays, to_arrays
from fedpdiff.diffusion.training import Progress
from fedpdiff.errors import DataError, MessageError, PrivacyError
from fedpdiff.federation.member import Member, Samples
from fedpdiff.federation.networks import Trainer, training_settings
from fedpdiff.federation.protocol import (
    JoinInstruction,
    JoinManifest,
    PhaseReport,
    RoundInstruction,
    RoundReport,
)
from fedpdiff.federation.round_state import RoundState
from fedpdiff.federation.sampled import deciding_settings, ingredients_digest
from fedpdiff.federation.sampling import Sampler
from fedpdiff.federation.uploads import Arrays, with_prefix
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.methods import round_method
from fedpdiff.methods.base import LocalRound, PrivateTraining
from fedpdiff.methods.parts import PARTS, Parts
from fedpdiff.methods.weights import RunningAverage, check_weights, chosen
from fedpdiff.privacy.gaussian_noise import NoiseSource, SecureNoise, SeededNoise
from fedpdiff.rng import torch_generator

FIRST_WEIGHTS = ("server", "rounds")
"""Purpose of the weights that everybody starts from."""


class RoundTasks(Member):
    """The tasks of one client in one run of a method that averages weights."""

    def __init__(self, config: RunConfig, node: NodeConfig, run_id: int) -> None:
        super().__init__(config, node, run_id)
        self.method = round_method(config)
        self._path = self.folder.root / "state" / "round.safetensors"

    def join(self, instruction: JoinInstruction) -> JoinManifest:
        """Say how many images of each class this client has.

        Raises
        ------
        DataError
            When classes do not fit or there is no image.
        """
        if list(self.data.class_names) != instruction.class_names:
            raise DataError(
                f"the run has the classes {', '.join(instruction.class_names)}, but this site's data have "
                f"{', '.join(self.data.class_names)}; set classes to the same ordered names for all sites"
            )
        return JoinManifest(
            site=self.site,
            number=self.number,
            fingerprint=code_fingerprint(),
            class_counts=self.data.train.counts(len(self.data.class_names)),
        )

    def train_round(self, instruction: RoundInstruction, arrays: Arrays) -> tuple[RoundReport, Arrays]:
        """Train one round from the received weights; asked for the same again, send the same weights again.

        Raises
        ------
        DataError, MessageError
            When the weights do not fit the network of the settings, or this round does not follow the last.
        """
        started, number = time.monotonic(), instruction.round
        self._check_round(number)
        reply = self.on_device(lambda: self._reply(instruction, arrays))
        report = RoundReport(
            site=self.site,
            seconds=time.monotonic() - started,
            gradient_steps=len(self._span(number)),
            round=number,
        )
        return report, reply

    def sample(self, arrays: Arrays) -> tuple[PhaseReport, dict[str, float]]:
        """Sample with the averaged weights, and this client's own where the method has some, and judge."""
        return self.on_device(lambda: self._sample(arrays))

    def _sample(self, arrays: Arrays) -> tuple[PhaseReport, dict[str, float]]:
        started = time.monotonic()
        denoiser, trainer = self._denoiser()
        weights = to_arrays(denoiser.network)
        received = self.method.decode(with_prefix(arrays, "weights/"))
        check_weights(received, chosen(weights, self.method.exchanged))
        own = RoundState.load(self._path).average.weights
        load_arrays(denoiser.network, weights | own | received)
        denoiser.network.eval()
        if not self.method.exchanged:  # as PFDM's baseline; others sample with what they made together
            denoiser = trainer.with_own_base(denoiser, self.data.train)

        def draw(progress: Progress) -> Samples:
            purpose = self.stream("samples")
            sampler = Sampler(self.config, len(self.data.class_names), purpose, progress)
            samples = {self.method.column: sampler.whole_chain(denoiser)}
            return samples | ({"real": self.real()} if self.node.simulated else {})

        tensors = self.judged_with(arrays) | {f"mine/{name}": array for name, array in own.items()}
        return self.finish(draw, ingredients_digest(self.config, None, tensors), arrays, started)

    # -- one round ----------------------------------------------------------------------------------------

    def _check_round(self, number: int) -> None:
        first = 0 if self.method.pretraining_steps else 1
        if not self.method.clients_train or not first <= number <= self.method.rounds:
            raise MessageError(
                f'round {number} was asked for, but method = "{self.method.name}" has the rounds {first} to '
                f"{self.method.rounds}"
            )

    def _reply(self, instruction: RoundInstruction, arrays: Arrays) -> Arrays:
        """Train a round that has not been trained yet, and return what is sent."""
        state, asked = RoundState.load(self._path), self._digest(instruction, arrays)
        if state.asked != asked:
            self._train(state, instruction, arrays)
            state.asked = asked
            state.save(self._path)
        return state.reply

    def _digest(self, instruction: RoundInstruction, arrays: Arrays) -> str:
        """Return a hash of all that decides this round's outcome."""
        asked = repr((deciding_settings(self.config), instruction.model_dump()))
        digest = hashlib.sha256(asked.encode())
        for image in self.data.digests:
            digest.update(image)
        for name in sorted(arrays):
            digest.update(name.encode() + arrays[name].tobytes())
        return digest.hexdigest()

    def _span(self, number: int) -> range:
        return self.method.span(number) if number else range(1, self.method.pretraining_steps + 1)

    def _denoiser(self) -> tuple[Denoiser, Trainer]:
        """Return a denoiser with the first weights: everybody's, or one's own where nothing is exchanged."""
        trainer = Trainer.of_whole_chain(self.config, self.data.class_names)
        if self.method.exchanged:
            return trainer.untrained(FIRST_WEIGHTS), trainer
        counts = self.data.train.counts(len(self.data.class_names))
        return trainer.untrained(self.stream("personal"), counts), trainer

    def _train(self, state: RoundState, instruction: RoundInstruction, arrays: Arrays) -> None:
        """Train and put the outcome into ``state``."""
        number, method = instruction.round, self.method
        denoiser, trainer = self._denoiser()
        weights = to_arrays(denoiser.network)
        received = method.decode(arrays)
        check_weights(received, chosen(weights, sent_to_clients(method.exchanged, number)))
        if number > 1 and method.exchanged != PARTS:
            if state.round != number - 1:
                raise MessageError(f"round {number} was asked for, but this client's last was {state.round}")
            weights |= state.own
        load_arrays(denoiser.network, weights | received)
        name = "rounds" if number else "own model"
        with self.events.phase(name, len(self._span(number))) as progress:
            method.fit(self._local_round(denoiser, trainer, instruction, progress))
        trained = to_arrays(denoiser.network)
        sent = method.exchanged & frozenset(instruction.parts) if number else PARTS
        state.reply = method.encode(chosen(trained, sent))
        state.own = chosen(trained, PARTS - method.exchanged)
        if number == 1:
            state.average = RunningAverage()
        if number:
            state.average.add(state.own, len(self._span(number)), self.config.ema_decay)
        state.round = number

    def _local_round(
        self, denoiser: Denoiser, trainer: Trainer, instruction: RoundInstruction, progress: Progress
    ) -> LocalRound:
        number = instruction.round
        settings = training_settings(
            self.config, self.method.steps if number else self.method.pretraining_steps, trainer.device
        )
        if number:  # a model of one's own has its moving average at once
            settings = dataclasses.replace(settings, ema_decay=0.0)
        alone = not self.method.exchanged
        purpose = self.stream("personal") if alone else (self.site, "round", number)
        return LocalRound(
            network=denoiser.network,
            chain=denoiser.chain,
            batches=trainer.clean_batches(self.data.train),
            settings=dataclasses.replace(settings, checkpoint_every=0),
            span=self._span(number),
            generator=torch_generator(self.config.seed, *purpose, "training"),
            parts=frozenset(instruction.parts),
            progress=progress,
            private=self._private(denoiser, number),
        )

    def _private(self, denoiser: Denoiser, number: int) -> PrivateTraining:
        """Return what training with differential privacy needs; a real site's own policy sets its limits."""
        config, policy = self.config, self._site_policy
        noise: NoiseSource = SecureNoise()
        if config.release_noise == "seeded":
            if policy is not None:
                raise PrivacyError(
                    "release-noise = 'seeded': a real site never draws seeded noise; set it to 'secure'"
                )
            noise = SeededNoise(config.seed, self.site, f"round {number}")
        limits = (config.epsilon, config.delta)
        if policy is not None:
            limits = (min(config.epsilon, policy.epsilon), min(config.delta, policy.delta))
        return PrivateTraining(
            images=self.data.train,
            label_dropout=config.label_dropout,
            hidden_label=denoiser.config.conditions - 1,
            noise=noise,
            ledger=self.folder.root / "state" / "dp-sgd",
            limits=limits,
        )


def sent_to_clients(exchanged: Parts, number: int) -> Parts:
    """Return the parts that come with a round: at first contact the whole network, of which all then know."""
    if number == 0:
        return frozenset()
    return PARTS if number == 1 and exchanged else exchanged
