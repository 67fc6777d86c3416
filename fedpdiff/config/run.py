"""The settings of a run: keys, defaults and types as in ``[tool.flwr.app.config]`` of pyproject.toml."""

from __future__ import annotations

import tomllib
import unicodedata
from typing import Any, Final, Literal, Self

from pydantic import field_validator, model_validator

from fedpdiff.config.checks import impossible_combinations
from fedpdiff.config.settings import Settings, Value, setting, show, unknown_key
from fedpdiff.errors import ConfigError

PFDM: Final = "pfdm"
"""The method that everything is compared with."""

_ABSOLUTE = r"^(/[^\x00-\x1f\x7f]*)?$"
_PARTITIONERS = "iid|dirichlet|pathological|shard|natural-id|majority-minority"
_COUNT = "a whole number of at least 1"
_SECONDS = "a whole number of seconds, at least 1"


class RunConfig(Settings):
    """Run config; pyproject.toml says what each setting means."""

    # The run
    method: str = setting(
        "pfdm", "pfdm or one of the methods in docs/methods.md", pattern=r"^[a-z0-9+-]{1,40}$"
    )
    seed: int = setting(1, "a whole number from 0 to 2^31 - 1", ge=0, lt=2**31)
    run_dir: str = setting(
        "", 'an absolute path, or "" for a folder under ~/fedpdiff-runs', pattern=_ABSOLUTE
    )
    coordinator: str = setting("", 'a name that sites know, or ""', max_length=200)
    clients: int = setting(2, _COUNT, ge=1)
    min_clients: int = setting(2, "a whole number from 1 to clients", ge=1)
    wait_seconds: int = setting(120, _SECONDS, ge=1)
    reply_seconds: int = setting(3600, _SECONDS, ge=1)
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = setting(1, "a whole number of at least 0 (0 = the libraries' own choice)", ge=0)
    gpu_clients: str = setting(
        "auto", "auto or a whole number of at least 1", pattern=r"^(auto|[1-9]\d{0,3})$"
    )

    # Data
    data: str = setting(
        "digits",
        '"digits", a local folder or file, or a Hugging Face hub name; give one with --set data=PATH',
        min_length=1,
    )
    data_transform: Literal["none", "colorize"] = setting("none", "none or colorize")
    image_column: str = setting("", 'a column name, or "" to find it')
    label_column: str = setting("", 'a column name, or "" to find it')
    classes: str = setting("", 'class names separated by commas, or "" for all classes')
    image_size: int = setting(8, "a whole number of pixels from 4 to 512", ge=4, le=512)
    channels: Literal[1, 3] = setting(1, "1 (grey) or 3 (RGB)")
    fit: Literal["resize", "pad"] = setting("resize", "resize or pad")
    public_fraction: float = setting(0.2, "a number from 0 to below 0.9", ge=0, lt=0.9)
    test_fraction: float = setting(0.3, "a number above 0 and below 0.9", gt=0, lt=0.9)
    max_images: int = setting(0, "a whole number of at least 0 (0 = all)", ge=0)

    # Division of the data among simulated clients
    partitioner: str = setting(
        "majority-minority",
        f"{_PARTITIONERS.replace('|', ', ')}, or your own as module:Class",
        pattern=rf"^({_PARTITIONERS}|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
    )
    partitioner_settings: str = setting("", "TOML key = value pairs separated by commas")
    partitioner_path: str = setting("", "an absolute path of a folder", pattern=_ABSOLUTE)

    # Privacy
    epsilon: float = setting(60.0, "a number of at least 0 (0 = follows from t0)", ge=0, allow_inf_nan=False)
    t0: int = setting(0, "a whole number of at least 0 (0 = follows from epsilon)", ge=0)
    delta: float = setting(1e-5, "a number above 0 and below 1", gt=0, lt=1)
    clip_rule: Literal["fixed", "public-median", "none"] = setting(
        "public-median", "fixed, public-median or none"
    )
    clip: float = setting(10.0, "a number above 0", gt=0, allow_inf_nan=False)
    centre: Literal["none", "public-scalar", "public-mean"] = setting(
        "public-mean", "none, public-scalar or public-mean"
    )
    release_noise: Literal["secure", "seeded"] = setting("secure", "secure, or seeded (simulation only)")
    wire_bits: Literal[8, 4, 2] = setting(8, "8, 4 or 2")

    # Diffusion
    schedule: Literal["linear", "cosine"] = setting("linear", "linear or cosine")
    diffusion_steps: int = setting(1000, "a whole number from 10 to 10000", ge=10, le=10000)
    network: str = setting(
        "tiny",
        "tiny, small, ddpm, or the path of a diffusers UNet2DModel config file (.json)",
        pattern=r"^(tiny|small|ddpm|.+\.json)$",
    )
    personal_levels: Literal["all", "below-t0"] = setting("all", "all or below-t0")
    personal_objective: Literal["velocity", "noise"] = setting("velocity", "velocity or noise")
    class_balance: float = setting(1.0, "a number from 0 (uniform) to 1 (balanced)", ge=0, le=1)
    label_dropout: float = setting(0.2, "a number from 0 to below 1", ge=0, lt=1)
    guidance_scale: float = setting(1.0, "a number from 1 (none) to 20", ge=1, le=20)
    clip_flag: bool = setting(False, "true or false")
    clip_flag_switch: float = setting(1.0, "a number from 0 to 1", ge=0, le=1)
    chain: Literal["continued", "nested"] = setting("continued", "continued or nested")
    objective: Literal["ambient", "noise"] = setting("ambient", "ambient or noise")
    global_base: Literal["gaussian", "none"] = setting("gaussian", "gaussian or none")
    personal_base: Literal["gaussian", "none"] = setting("gaussian", "gaussian or none")
    hand_off_signal: float = setting(0.5, "a number from 0 (at t0) to below 1", ge=0, lt=1)

    # Training and sampling
    personal_steps: int = setting(800, _COUNT, ge=1)
    global_steps: int = setting(500, _COUNT, ge=1)
    batch_size: int = setting(64, _COUNT, ge=1)
    learning_rate: float = setting(4e-3, "a number above 0, at most 1", gt=0, le=1)
    warmup_steps: int = setting(50, "a whole number of at least 0", ge=0)
    ema_decay: float = setting(0.995, "a number from 0 to below 1", ge=0, lt=1)
    gradient_clip: float = setting(1.0, "a number above 0", gt=0, allow_inf_nan=False)
    precision: Literal["auto", "float32", "bfloat16"] = setting("auto", "auto, float32 or bfloat16")
    compile: bool = setting(False, "true or false")
    global_workers: int = setting(1, "a whole number from 1 to 64", ge=1, le=64)
    checkpoint_every: int = setting(0, "a whole number of at least 0 (0 = none)", ge=0)
    sampler: Literal["dpm-solver++", "ddim", "ddpm"] = setting("dpm-solver++", "dpm-solver++, ddim or ddpm")
    global_sampling_steps: int = setting(10, _COUNT, ge=1)
    personal_sampling_steps: int = setting(10, _COUNT, ge=1)

    # Methods that send weights (not pfdm)
    rounds: int = setting(10, _COUNT, ge=1)
    proximal_mu: float = setting(1e-4, "a number of at least 0", ge=0, allow_inf_nan=False)
    pretraining_share: float = setting(0.5, "a number from 0 to below 1", ge=0, lt=1)
    auxiliary_images: int = setting(500, _COUNT, ge=1)
    server_steps: int = setting(20, "a whole number of at least 0", ge=0)
    slow_learning: float = setting(0.05, "a number from 0 to 1", ge=0, le=1)
    dp_clip: float = setting(1.0, "a number above 0", gt=0, allow_inf_nan=False)
    dp_copies: int = setting(4, _COUNT, ge=1)
    edge_servers: int = setting(2, _COUNT, ge=1)
    edge_rounds: int = setting(5, _COUNT, ge=1)
    homogeneity_weight: float = setting(1.0, "a number of at least 0", ge=0, allow_inf_nan=False)

    # Evaluation
    samples_per_class: int = setting(60, _COUNT, ge=1)
    features: Literal["classifier", "inception"] = setting("classifier", "classifier or inception")
    inception_weights: str = setting("", "an absolute path", pattern=_ABSOLUTE)
    oracle: bool = setting(True, "true or false")
    centralised: bool = setting(True, "true or false")

    @field_validator("gpu_clients", mode="before")
    @classmethod
    def _number_or_word(cls, value: object) -> object:
        return str(value) if type(value) is int else value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        problems = impossible_combinations(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in order; empty when the run takes the data's own."""
        if not self.classes.strip():
            return ()
        # Composed, as data's names are: an accent may be typed as one character or as two.
        return tuple(unicodedata.normalize("NFC", name.strip()) for name in self.classes.split(","))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.channels, self.image_size, self.image_size

    @property
    def num_pixels(self) -> int:
        """Number of values of one image, C * H * W."""
        return self.channels * self.image_size**2

    @property
    def partitioner_keywords(self) -> dict[str, Any]:
        """``partitioner-settings`` as the keywords it stands for.

        Raises
        ------
        ValueError
            Never on a checked configuration.
        """
        found = tomllib.loads(f"settings = {{{self.partitioner_settings}}}")
        if list(found) != ["settings"]:  # a brace closed early, and something else began
            raise ValueError("unbalanced braces")
        return found["settings"]


def parse_assignment(assignment: str) -> tuple[str, Value]:
    """Read ``key=value`` by the key's declared type, as in ``--set epsilon=5``.

    Returns
    -------
    tuple
        The key and its value; ranges are checked later, by :meth:`RunConfig.parse`.

    Raises
    ------
    ConfigError
        For an unknown key, a missing ``=``, or a value of the wrong type.
    """
    key, equals, text = (part.strip() for part in assignment.partition("="))
    if not equals:
        raise ConfigError(f"--set {assignment}: must have the form key=value")
    if key not in RunConfig.fields_by_key():
        raise ConfigError(unknown_key(key, RunConfig))
    field = RunConfig.model_fields[RunConfig.fields_by_key()[key]]
    kind = type(field.default)
    try:
        value = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{key} = {show(text)}: must be {field.description}") from None
    return key, value
