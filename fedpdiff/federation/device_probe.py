"""How much of a GPU's memory one client's training takes, measured: some steps in a process of its own.

    python -m fedpdiff.federation.device_probe < settings.json

This process watches the GPU's free memory while another one trains, so that all is counted that a client's
process takes: CUDA itself, kernels, and what torch has reserved. What other programs take or free meanwhile
is counted too. Prints ``{"free": bytes, "peak": bytes}``, or ``{"error": ...}``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fedpdiff.config import PFDM, RunConfig
from fedpdiff.diffusion.cuda_graphs import WORTH_CAPTURING
from fedpdiff.errors import FedpdiffError, RunError
from fedpdiff.federation.device import is_out_of_memory, out_of_memory
from fedpdiff.federation.networks import Trainer, training_settings
from fedpdiff.methods import round_method
from fedpdiff.methods.base import LocalRound, PrivateTraining
from fedpdiff.privacy.gaussian_noise import SeededNoise
from fedpdiff.types import LabelledImages

STEPS = WORTH_CAPTURING
"""Gradient steps of the probe: so many that they are captured, as a client's are, which takes memory too."""
PRIVATE_STEPS = 3
"""Of methods that draw their own batches, whose steps are never captured: the second has the peak."""
_READY = "trained"

FreeMemory = Callable[[], list[int]]


def free_memory() -> list[int]:
    """Return the free bytes of every GPU that this process sees."""
    return [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]


def measure(config: RunConfig, read: FreeMemory = free_memory) -> dict[str, int]:
    """Return the least free memory of any GPU, and what one client's training takes of one, in bytes.

    Parameters
    ----------
    config
        The run's settings.
    read
        Reads the free memory of each GPU.

    Raises
    ------
    RunError
        When the training fails, does not fit, or took no memory that could be seen.
    """
    before = read()
    with _training(config):
        after = read()
    peak = max(then - now for then, now in zip(before, after, strict=True))
    if peak <= 0:
        raise RunError(
            "gpu-clients = \"auto\": what a client's training takes of the GPU's memory cannot be measured "
            "while other programs give memory back; set gpu-clients to a number, or try again"
        )
    return {"free": min(before), "peak": peak}


@contextmanager
def _training(config: RunConfig) -> Iterator[None]:
    """Have a process take some steps; it holds their memory until the block ends."""
    command = [sys.executable, "-m", __spec__.name, "--train"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            process.stdin.write(config.model_dump_json(by_alias=True) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
            if answer != _READY:
                raise RunError(answer or "a trial of one client's training on the GPU died without a word")
            yield
        finally:
            process.kill()


def take_steps(config: RunConfig) -> None:
    """Take some gradient steps as a client of this run does, on images of noise.

    Raises
    ------
    RunError
        When the GPU's memory does not suffice.
    """
    steps = PRIVATE_STEPS if config.method.startswith("dpdm") else STEPS
    config = config.model_copy(update={"personal_steps": steps, "rounds": 1, "checkpoint_every": 0})
    names = config.class_names or tuple(str(number) for number in range(10))
    pixels = torch.randint(
        0, 256, (max(config.batch_size, len(names)), *config.image_shape), dtype=torch.uint8
    )
    images = LabelledImages(pixels, torch.arange(len(pixels)) % len(names))
    trainer = Trainer.of_whole_chain(config, names)
    try:
        if config.method == PFDM:
            trainer.personal(images, ("probe",))
        else:
            _take_rounds_steps(config, trainer, images)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(config, " for a single client") from error


def _take_rounds_steps(config: RunConfig, trainer: Trainer, images: LabelledImages) -> None:
    """Take the steps as the method does: some of them keep gradients per image."""
    denoiser = trainer.untrained(("probe",))
    with tempfile.TemporaryDirectory() as folder:
        round_method(config).fit(
            LocalRound(
                network=denoiser.network,
                chain=denoiser.chain,
                batches=trainer.clean_batches(images),
                settings=training_settings(config, config.personal_steps, trainer.device),
                span=range(1, config.personal_steps + 1),
                generator=torch.Generator().manual_seed(0),
                private=PrivateTraining(
                    images=images,
                    label_dropout=config.label_dropout,
                    hidden_label=denoiser.config.conditions - 1,
                    noise=SeededNoise(0, "probe"),  # noise on noise: nothing private is here
                    ledger=Path(folder),
                    limits=(config.epsilon, config.delta),
                ),
            )
        )


def _answer(train: bool) -> str:
    try:
        config = RunConfig.parse(json.loads(sys.stdin.readline()))
        if not train:
            return json.dumps(measure(config))
        take_steps(config)
        return _READY
    except FedpdiffError as error:
        return str(error) if train else json.dumps({"error": str(error)})


def main() -> None:
    """Measure; or train, say so, and hold the memory until standard input ends."""
    train = "--train" in sys.argv
    print(_answer(train), flush=True)
    if train:
        sys.stdin.read()


if __name__ == "__main__":
    main()
