"""Run config: the same settings as pyproject.toml, strict, and with messages that name every mistake."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.config import RunConfig
from fedpdiff.config.run import parse_assignment
from fedpdiff.errors import ConfigError

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def problems(**settings: object) -> list[str]:
    with pytest.raises(ConfigError) as error:
        RunConfig.parse({key.replace("_", "-"): value for key, value in settings.items()})
    return str(error.value).splitlines()


def test_pyproject_declares_exactly_the_model() -> None:
    declared = PYPROJECT["tool"]["flwr"]["app"]["config"]
    flat = RunConfig().flat()
    assert list(declared) == list(flat)
    assert declared == flat
    assert {key: type(value) for key, value in declared.items()} == {
        key: type(value) for key, value in flat.items()
    }


def test_every_key_in_pyproject_has_a_comment() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[tool.flwr.app.config]")[1].split("\n[")[0]
    settings = [line for line in section.splitlines() if line and not line.startswith("#")]
    assert len(settings) == len(RunConfig().flat())
    assert all(" # " in line for line in settings)


@given(
    clients=st.integers(1, 200),
    epsilon=st.floats(1e-3, 1e4),
    delta=st.floats(1e-12, 0.5),
    schedule=st.sampled_from(["linear", "cosine"]),
    wire_bits=st.sampled_from([8, 4, 2]),
    centralised=st.booleans(),
    run_dir=st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=8).map("/{}".format),
)
def test_parse_inverts_flat(**settings: object) -> None:
    config = RunConfig(min_clients=1, **settings)
    assert RunConfig.parse(config.flat()) == config


def test_whole_numbers_are_allowed_for_floats() -> None:
    config = RunConfig.parse({"epsilon": 10, "learning-rate": 1})
    assert isinstance(config.epsilon, float)
    assert isinstance(config.flat()["learning-rate"], float)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon", -1), ("epsilon", "10"), ("epsilon", True), ("epsilon", float("inf")), ("clients", 2.0),
        ("clients", 0), ("clients", True), ("run-dir", "runs"), ("device", "gpu"), ("data", ""),
        ("data-transform", "color"), ("image-size", 3), ("image-size", 513), ("channels", 2),
        ("public-fraction", 0.9), ("test-fraction", 0.0), ("partitioner", "random"), ("partitioner", "a b:C"),
        ("delta", 0.0), ("delta", 1.0), ("clip", 0.0), ("wire-bits", 3), ("network", "large"),
        ("clip-flag", 1), ("ema-decay", 1.0), ("diffusion-steps", 9), ("t0", -1), ("batch-size", 0),
        ("global-workers", 0), ("gpu-clients", "some"), ("guidance-scale", 0.5), ("guidance-scale", 21.0),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    (line,) = problems(**{key: value})
    assert line.startswith(f"{key} = ")
    assert ": must be " in line


@pytest.mark.parametrize("field", list(RunConfig.model_fields))
def test_a_wrong_type_is_named(field: str) -> None:
    key = field.replace("_", "-")
    lines = problems(**{key: ["list"]})
    assert lines == [f'{key} = ["list"]: must be {RunConfig.model_fields[field].description}']


def test_all_problems_are_listed_at_once() -> None:
    lines = problems(epsilon=-1, clients="two", epsilom=3)
    assert lines == [
        "epsilom: unknown setting, did you mean epsilon?",
        'clients = "two": must be a whole number of at least 1',
        "epsilon = -1: must be a number of at least 0 (0 = follows from t0)",
    ]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"t0": 690}, ["epsilon", "t0"]),
        ({"epsilon": 0}, ["epsilon", "t0"]),
        ({"epsilon": 0, "t0": 1000}, ["t0", "diffusion-steps"]),
        ({"chain": "nested"}, ["hand-off-signal", "nested"]),
        ({"hand_off_signal": 0}, ["hand-off-signal", "personal-base"]),
        ({"guidance_scale": 1.5, "label_dropout": 0}, ["guidance-scale", "label-dropout"]),
        ({"guidance_scale": 1.5, "clip_flag": True}, ["guidance-scale", "clip-flag"]),
        ({"personal_levels": "below-t0"}, ["personal-base", "personal-levels"]),
        ({"objective": "noise"}, ["global-base", "ambient"]),
        ({"min_clients": 3}, ["min-clients", "clients"]),
        ({"clients": 1}, ["min-clients", "clients"]),
        ({"public_fraction": 0, "centre": "none"}, ["clip-rule", "public-fraction"]),
        ({"public_fraction": 0, "clip_rule": "none"}, ["centre", "public-fraction"]),
        ({"public_fraction": 0.5, "test_fraction": 0.5}, ["public-fraction", "test-fraction"]),
        ({"data_transform": "colorize"}, ["data-transform", "channels"]),
        ({"image_size": 9}, ["image-size", "network", "2"]),
        ({"image_size": 30, "network": "small"}, ["image-size", "network", "4"]),
        ({"image_size": 28, "network": "ddpm"}, ["image-size", "network", "8"]),
        ({"features": "inception"}, ["features", "inception-weights"]),
        ({"clip_flag": True, "clip_rule": "none"}, ["clip-flag", "clip-rule"]),
        ({"max_images": 1}, ["max-images", "clients"]),
        ({"classes": "cat,dog,cat"}, ["classes", "cat"]),
        ({"classes": "cat,,dog"}, ["classes", "(empty)"]),
        ({"partitioner_settings": "alpha"}, ["partitioner-settings", "alpha"]),
        ({"partitioner_path": "/code"}, ["partitioner-path", "partitioner"]),
        ({"epsilon": 0, "t0": 990, "hand_off_signal": 0, "personal_base": "none",
          "global_sampling_steps": 11}, ["global-sampling-steps", "10"]),
        ({"personal_sampling_steps": 1001}, ["personal-sampling-steps", "1000"]),
        ({"global_workers": 3}, ["global-workers", "batch-size = 64"]),
        ({"global_workers": 2, "device": "cuda:1"}, ["global-workers", "device"]),
        ({"compile": True, "device": "cpu"}, ["compile", "device"]),
        ({"global_workers": 2, "method": "fedavg"}, ["global-workers", "method"]),
    ],
)  # fmt: skip
def test_an_impossible_combination_is_named(settings: dict[str, object], named: list[str]) -> None:
    (line,) = problems(**settings)
    assert all(name in line for name in named)


def test_derived_values() -> None:
    config = RunConfig(
        classes="cat, dog", channels=3, image_size=16, partitioner_settings="a = [1, 2], b = 'x'"
    )
    assert config.class_names == ("cat", "dog")
    assert config.image_shape == (3, 16, 16)
    assert config.num_pixels == 768
    assert config.partitioner_keywords == {"a": [1, 2], "b": "x"}
    assert RunConfig().class_names == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epsilon=5", ("epsilon", 5.0)),
        ("clients = 10", ("clients", 10)),
        ("oracle=False", ("oracle", False)),
        ("data=/a=b", ("data", "/a=b")),
        ("partitioner-settings=alpha = 0.5", ("partitioner-settings", "alpha = 0.5")),
        ("wire-bits=4", ("wire-bits", 4)),
    ],
)
def test_assignments_take_the_declared_type(text: str, expected: tuple[str, object]) -> None:
    key, value = parse_assignment(text)
    assert (key, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epsilon", "must have the form key=value"),
        ("eps=5", "eps: unknown setting"),
        ("client=5", "did you mean clients"),
        ("clients=two", 'clients = "two": must be a whole number'),
        ("oracle=yes", "must be true or false"),
    ],
)
def test_bad_assignments_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_assignment(text)
