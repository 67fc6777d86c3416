"""The policy file: every mistake in it named, and a template that can be used as it is."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedpdiff.errors import ConfigError, PrivacyError
from fedpdiff.privacy.policy import Policy, policy_template

WHOLE: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-6, "schedules": ["linear"]}


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def test_a_policy_of_limits_alone() -> None:
    policy = Policy.parse(WHOLE)
    assert (policy.epsilon, policy.delta, policy.schedules) == (8.0, 1e-6, ["linear"])
    assert (policy.coordinators, policy.images_per_person, policy.person_column) == ([], 0, "")
    assert policy.metrics_may_leave is False
    policy.check_coordinator("anyone")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": None}, "epsilon: is missing; must be a number above 0"),
        ({"delta": None}, "delta: is missing; must be a number above 0 and below 1"),
        ({"schedules": None}, "schedules: is missing; must be a list"),
        ({"epsilon": 0}, "epsilon = 0: must be a number above 0"),
        ({"epsilon": float("inf")}, "epsilon = Infinity: must be a number above 0"),
        ({"epsilon": float("nan")}, "epsilon = NaN: must be a number above 0"),
        ({"epsilon": "10"}, 'epsilon = "10": must be a number above 0'),
        ({"delta": 1.0}, "delta = 1.0: must be a number above 0 and below 1"),
        ({"schedules": ["quadratic"]}, 'schedules = "quadratic": must be a list with "linear", "cosine"'),
        ({"schedules": "linear"}, 'schedules = "linear": must be a list'),
        ({"coordinators": "north"}, 'coordinators = "north": must be a list of names'),
        ({"images-per-person": 1.5}, "images-per-person = 1.5: must be a whole number of at least 0"),
        ({"images-per-person": -1}, "images-per-person = -1: must be a whole number of at least 0"),
        ({"images-per-person": 5}, 'images-per-person = 5 with person-column = ""'),
        ({"metrics-may-leave": "no"}, 'metrics-may-leave = "no": must be true or false'),
        ({"metric-may-leave": True}, "metric-may-leave: unknown setting, did you mean metrics-may-leave?"),
    ],
)
def test_mistakes_are_named_by_their_key(changes: dict[str, Any], message: str) -> None:
    settings = {key: value for key, value in (WHOLE | changes).items() if value is not None}
    with pytest.raises(ConfigError) as error:
        Policy.parse(settings)
    assert message in str(error.value)


@pytest.mark.parametrize("key", ["image-column", "label-column"])
@pytest.mark.parametrize(("asked", "allowed"), [("patient", ""), ("", "diagnosis"), ("patient", "diagnosis")])
def test_a_run_may_only_name_the_columns_that_the_site_names(key: str, asked: str, allowed: str) -> None:
    policy = Policy.parse(WHOLE | {key: allowed})
    columns = {"image-column": "", "label-column": ""} | {key: asked}
    with pytest.raises(PrivacyError, match=f'{key} = "{asked}" is not the {key} = "{allowed}"'):
        policy.check_columns(columns["image-column"], columns["label-column"])
    right = columns | {key: allowed}
    policy.check_columns(right["image-column"], right["label-column"])


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = _file(tmp_path, 'epsilon = -1\ndelta = 2.0\nschedules = ["linear"]\ncolour = 1\n')
    with pytest.raises(ConfigError) as error:
        Policy.load(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and all(line.startswith("policy.toml: ") for line in lines)
    assert {line.split()[1].strip(":") for line in lines} == {"epsilon", "delta", "colour"}


@pytest.mark.parametrize(("text", "message"), [("epsilon =", "is not TOML"), ("\udcff", "is not TOML")])
def test_a_file_that_is_no_toml(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=message):
        Policy.load(path)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fedpdiff policy --images N"):
        Policy.load(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    ("images", "delta"),
    [(1, 1e-5), (10_000, 1e-5), (10_001, 9.99e-6), (60_000, 1.66e-6), (12_345_678, 8.1e-9)],
)
def test_the_template_proposes_delta_for_so_many_images(images: int, delta: float, tmp_path: Path) -> None:
    text = policy_template(images)
    policy = Policy.load(_file(tmp_path, text))
    assert policy.delta == delta <= min(1e-5, 1 / (10 * images))
    assert set(tomllib.loads(text)) == set(Policy.fields_by_key())
    lines = text.splitlines()
    for key in Policy.fields_by_key():  # every one explained
        number = next(i for i, line in enumerate(lines) if line.startswith(f"{key} ="))
        assert lines[number - 1].startswith(("#", "images-per-person", "image-column"))


def test_a_template_needs_images() -> None:
    with pytest.raises(ConfigError, match="--images is 0"):
        policy_template(0)


def test_only_named_coordinators_may_ask() -> None:
    policy = Policy.parse(WHOLE | {"coordinators": ["north"]})
    policy.check_coordinator("north")
    for name in ("", "North", "south"):
        with pytest.raises(PrivacyError, match=f'coordinator = "{name}" is not among the coordinators'):
            policy.check_coordinator(name)
