"""Settings that are each allowed but impossible together."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fedpdiff.config.settings import show

if TYPE_CHECKING:
    from fedpdiff.config.run import RunConfig

_SIZE_MULTIPLE = {
    "tiny": 2,
    "small": 4,
    "ddpm": 8,
}  # the network halves the image once per level but the last


def impossible_combinations(config: RunConfig) -> list[str]:
    """Return one line per problem; each names the settings, their values, and what to do."""
    groups = (_clients, _method, _device, _data, _partition, _privacy, _guidance, _levels, _evaluation)
    return [problem for group in groups for problem in group(config)]


def _clients(config: RunConfig) -> list[str]:
    if config.min_clients > config.clients:
        return [f"min-clients = {config.min_clients}: must be at most clients = {config.clients}"]
    return []


def _method(config: RunConfig) -> list[str]:
    if config.method == "pfdm":
        return []
    problems = []
    if config.method.startswith("dpdm") and not config.epsilon:
        problems.append(
            f'epsilon = 0 with method = "{config.method}": its noise follows from epsilon; give one'
        )
    if config.clip_flag:
        problems.append(
            f'clip-flag = true with method = "{config.method}": only pfdm clips images; set it to false'
        )
    if config.personal_levels == "below-t0":
        problems.append(
            f'personal-levels = "below-t0" with method = "{config.method}": there is no t0; set it to all'
        )
    if config.method == "centralised" and not config.centralised:
        problems.append(
            'method = "centralised" with centralised = false: it trains on all clients\' clean images, which '
            "only a simulation can; set centralised to true if that is meant"
        )
    return problems


def _device(config: RunConfig) -> list[str]:
    problems = []
    if config.compile and config.device == "cpu":
        problems.append('compile = true with device = "cpu": only GPUs compile networks; set it to false')
    if config.global_workers == 1:
        return problems
    given = f"global-workers = {config.global_workers}"
    if config.method != "pfdm":
        problems.append(
            f'{given} with method = "{config.method}": only pfdm has a global training; set it to 1'
        )
    if config.batch_size % config.global_workers:
        problems.append(
            f"{given} with batch-size = {config.batch_size}: must divide it, so that all take as many images"
        )
    if config.device.startswith("cuda:"):
        problems.append(
            f'{given} with device = "{config.device}": each worker takes a GPU of its own; set device to auto'
        )
    return problems


def _data(config: RunConfig) -> list[str]:
    problems = []
    if config.data_transform == "colorize" and config.channels != 3:
        problems.append(f'data-transform = "colorize" with channels = {config.channels}: set channels to 3')
    if config.public_fraction + config.test_fraction >= 1:
        problems.append(
            f"public-fraction = {config.public_fraction} and test-fraction = {config.test_fraction}: "
            "together they must be below 1, to leave images for the clients"
        )
    if 0 < config.max_images < config.clients:
        problems.append(
            f"max-images = {config.max_images}: must be 0 (all) or at least clients = {config.clients}"
        )
    multiple = _SIZE_MULTIPLE.get(config.network, 1)
    if config.image_size % multiple:
        problems.append(
            f"image-size = {config.image_size}: must be a multiple of {multiple} for network = "
            f'"{config.network}"'
        )
    repeated = [
        name or "(empty)" for name, times in Counter(config.class_names).items() if times > 1 or not name
    ]
    if repeated:
        problems.append(
            f"classes = {show(config.classes)}: empty or repeated names: {', '.join(repeated)[:200]}"
        )
    return problems


def _partition(config: RunConfig) -> list[str]:
    problems = []
    if config.partitioner_path and ":" not in config.partitioner:
        problems.append(
            f'partitioner-path = "{config.partitioner_path}" with partitioner = "{config.partitioner}": '
            "the path is for your own partitioner; set partitioner to module:Class"
        )
    try:
        config.partitioner_keywords  # noqa: B018
    except (ValueError, RecursionError) as error:
        problems.append(
            f"partitioner-settings = {show(config.partitioner_settings)}: must be TOML key = value pairs "
            f"separated by commas, such as 'alpha = 0.5, self_balancing = true' ({error})"
        )
    return problems


def _privacy(config: RunConfig) -> list[str]:
    problems = []
    if config.epsilon and config.t0:
        problems.append(
            f"epsilon = {config.epsilon:g} and t0 = {config.t0} exclude each other: set one of them to 0, it "
            "follows from the other"
        )
    if not config.epsilon and not config.t0:
        problems.append("epsilon = 0 and t0 = 0: give one of them, the other follows from it")
    if config.t0 >= config.diffusion_steps:
        problems.append(f"t0 = {config.t0}: must be below diffusion-steps = {config.diffusion_steps}")
    if not config.public_fraction:
        problems += [
            f'{key} = "{value}" needs public images: set public-fraction above 0, or {key} to {other}'
            for key, value, other in (
                ("clip-rule", config.clip_rule, "fixed or none"),
                ("centre", config.centre, "none"),
            )
            if value.startswith("public-")
        ]
    if config.clip_flag and config.clip_rule == "none":
        problems.append(
            'clip-flag = true with clip-rule = "none": nothing is clipped; set clip-flag to false'
        )
    return problems


def _guidance(config: RunConfig) -> list[str]:
    if config.guidance_scale == 1:
        return []
    given, problems = f"guidance-scale = {config.guidance_scale:g}", []
    if not config.label_dropout:
        problems.append(
            f"{given} with label-dropout = 0: guidance asks the network without the label as well; set "
            "label-dropout above 0, or guidance-scale to 1"
        )
    if config.clip_flag:
        problems.append(
            f"{given} with clip-flag = true: hiding the label hides the flag as well; set guidance-scale to "
            "1, or clip-flag to false"
        )
    return problems


def _levels(config: RunConfig) -> list[str]:
    top = config.diffusion_steps
    if config.global_base == "gaussian" and config.objective != "ambient":
        return [
            f'global-base = "gaussian": needs objective = "ambient", not "{config.objective}"; set '
            'global-base = "none"'
        ]
    if config.chain == "nested" and config.hand_off_signal:
        return [
            f'hand-off-signal = {config.hand_off_signal:g} with chain = "nested": that chain ends at t0; set '
            "it to 0"
        ]
    if config.personal_base == "gaussian" and not config.hand_off_signal:
        return [
            'personal-base = "gaussian" with hand-off-signal = 0: it stands for the network above the '
            "hand-off, which must not depend on t0; set hand-off-signal above 0, or personal-base to "
            '"none"'
        ]
    if config.personal_base == "gaussian" and config.personal_levels == "below-t0":
        return [
            'personal-levels = "below-t0" with personal-base = "gaussian": local-only needs no second '
            'network there; set personal-levels to "all" or personal-base to "none"'
        ]
    if config.chain == "continued" and config.t0 < config.diffusion_steps and not config.hand_off_signal:
        top -= config.t0
    if config.global_sampling_steps > top:
        return [
            f"global-sampling-steps = {config.global_sampling_steps}: must be at most {top}, the number of "
            "levels of the global chain"
        ]
    if config.personal_sampling_steps > config.diffusion_steps:
        return [
            f"personal-sampling-steps = {config.personal_sampling_steps}: must be at most diffusion-steps = "
            f"{config.diffusion_steps}"
        ]
    return []


def _evaluation(config: RunConfig) -> list[str]:
    if config.features == "inception" and not config.inception_weights:
        return [
            'features = "inception" needs inception-weights, the path of pytorch-fid\'s weights file '
            "pt_inception-2015-12-05-6726825d.pth"
        ]
    return []
