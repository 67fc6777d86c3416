"""Many small clients in one process: k networks at once with stacked weights, against one after another.

At once: ``torch.func.stack_module_state`` and ``vmap`` over the networks, AdamW on the stacked weights, each
network with its own images, levels, noise and gradient norm. One after another: ``train_denoiser``, as a
simulation does. Both take as many steps per network, on one thread; what is compared is the CPU time of the
process, so that other work on the machine does not count. Stretches of the two alternate. And many clients
one after another, as a simulation trains them, against one client with as many steps as all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from diffusers import UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedpdiff.diffusion.batches import CleanImages
from fedpdiff.diffusion.chain import Chain, personal_chain
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.training import TrainingSettings, adamw, train_denoiser
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages
from simulations.benchmarks.table import Figure

CLIENTS = (4, 8, 16)
MANY = 128
BATCHES = (8, 64)
SHAPE, CLASSES, IMAGES = (1, 8, 8), 10, 400
STEPS = 12  # per network and stretch
RATE, CLIP, DECAY = 1e-3, 1.0, 0.999


def stacked(networks: Sequence[UNet2DModel], data: Sequence[CleanImages], settings: TrainingSettings) -> None:
    """Train all networks at once, on their device; they are left as they were, which here does not matter."""
    chain = personal_chain(NoiseSchedule("linear", 1000))
    weights, buffers = torch.func.stack_module_state([network.train() for network in networks])
    parameters = list(weights.values())
    optimizer = adamw(parameters, settings.learning_rate)
    rate = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
    averages = [parameter.detach().clone() for parameter in parameters]
    generators = [torch.Generator().manual_seed(number) for number in range(len(networks))]

    def output(
        weights: dict[str, torch.Tensor], x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        state, condition = (weights, buffers), {"class_labels": labels}
        return torch.func.functional_call(networks[0], state, (x_t, t), condition).sample

    for _ in range(settings.steps):
        start, t, noise, x_t, labels = (
            drawn.to(networks[0].device) for drawn in _draw(data, chain, settings.batch_size, generators)
        )
        with sdpa_kernel(SDPBackend.MATH):  # the CPU's other kernels have no rule for vmap
            predicted = torch.vmap(output, randomness="different")(weights, x_t, t - 1, labels)
        # The mean over all images is that over each network's, divided by their number.
        flat = (tensor.flatten(0, 1) for tensor in (predicted, start, x_t, t, noise))
        loss = len(networks) * chain.losses(*flat).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _clip_each([parameter.grad for parameter in parameters], settings.gradient_clip)
        optimizer.step()
        rate.step()
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - settings.ema_decay)


def _draw(
    data: Sequence[CleanImages], chain: Chain, size: int, generators: Sequence[torch.Generator]
) -> tuple[torch.Tensor, ...]:
    """Return start, t, noise, x_t and labels of every network's batch, stacked."""
    parts = []
    for images, generator in zip(data, generators, strict=True):
        start, labels = images.draw(size, generator)
        t = torch.randint(chain.first, chain.last + 1, (size,), generator=generator)
        noise = torch.randn(start.shape, generator=generator)
        parts.append((start, t, noise, chain.diffuse(start, t, noise), labels))
    return tuple(torch.stack(same) for same in zip(*parts, strict=True))


def _clip_each(gradients: Sequence[torch.Tensor | None], largest: float) -> None:
    """Scale every network's gradient to a norm of at most ``largest``."""
    known = [gradient for gradient in gradients if gradient is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in known]).norm(dim=0)
    factors = (largest / (norms + 1e-6)).clamp(max=1.0)
    for gradient in known:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))


def one_after_another(
    networks: Sequence[UNet2DModel], data: Sequence[CleanImages], settings: TrainingSettings
) -> None:
    """Train one network after the other."""
    chain = personal_chain(NoiseSchedule("linear", 1000))
    for number, (network, images) in enumerate(zip(networks, data, strict=True)):
        train_denoiser(network, chain, images, settings, torch.Generator().manual_seed(number))


def measure(repetitions: int) -> Iterator[Figure]:
    """Yield the figures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for batch in BATCHES:
            for clients in CLIENTS:
                yield _compare(clients, batch, repetitions)
        yield _turns(repetitions)
    finally:
        torch.set_num_threads(threads)


def _clients(number: int) -> tuple[list[UNet2DModel], list[CleanImages]]:
    """Return so many clients' networks and images."""
    networks = [build_network("tiny", SHAPE, CLASSES, seed=client) for client in range(number)]
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(IMAGES) % CLASSES
    pixels = torch.randint(0, 256, (number, IMAGES, *SHAPE), generator=generator, dtype=torch.uint8)
    return networks, [CleanImages(LabelledImages(each, labels), 1.0) for each in pixels]


def _turns(repetitions: int) -> Figure:
    batch = BATCHES[-1]
    each = TrainingSettings(STEPS, batch, RATE, 0, DECAY, CLIP)
    all_of_them = TrainingSettings(MANY * STEPS, batch, RATE, 0, DECAY, CLIP)
    ratios = []
    for _ in range(repetitions):
        began = time.process_time()
        one_after_another(*_clients(MANY), each)
        middle = time.process_time()
        one_after_another(*_clients(1), all_of_them)
        ratios.append((middle - began) / (time.process_time() - middle))
    return Figure(
        f"CPU time of {MANY} clients of {IMAGES} images one after another, `tiny` at 1 x 8 x 8, "
        f"batch {batch}, {STEPS} steps each, against one client with as many steps",
        tuple(ratios),
        "x",
        1.15,
        "at most",
    )


def _compare(clients: int, batch: int, repetitions: int) -> Figure:
    networks, data = _clients(clients)
    settings = TrainingSettings(STEPS, batch, RATE, 0, DECAY, CLIP)
    stacked(networks, data, TrainingSettings(1, batch, RATE, 0, DECAY, CLIP))
    one_after_another(networks[:1], data[:1], settings)
    ratios = []
    for _ in range(repetitions):
        began = time.process_time()
        one_after_another(networks, data, settings)
        middle = time.process_time()
        stacked(networks, data, settings)
        ratios.append((middle - began) / (time.process_time() - middle))
    return Figure(
        f"gradient steps per CPU second, {clients} `tiny` networks at 1 x 8 x 8 at once, batch {batch} each, "
        "against one after another",
        tuple(ratios),
        "x",
        1.3,
    )
