"""Every change of a certificate is found; what can be computed again is found even when its checksum fits."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.certificate import make_certificate
from fedpdiff.privacy.certificate_check import check_certificate, parse_certificate
from fedpdiff.privacy.certificate_facts import LedgerFacts, PersonFacts, ReleaseFacts

Seal = Callable[[dict[str, Any]], dict[str, Any]]
Path = tuple[str | int, ...]
SETTINGS = hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ANOTHER_TYPE = {"another": "type"}
# What a certificate states and nothing in it contradicts: the ledger, the bytes, or the site know.
STATED = {
    ("centre_sha256",), ("preprocessing",), ("policy",), ("policy", "epsilon"), ("policy", "delta"),
    ("duplicates_dropped",), ("sha256",), ("labels_sha256",), ("created",), ("software",),
    ("wire", "8"), ("wire", "4"), ("wire", "2"),
    ("image_shape",), ("image_shape", 0), ("image_shape", 1), ("image_shape", 2),
    ("self_test", "tests"), ("self_test", "tests", 0), ("persons", "most_images"),
    ("composition", "noisings_per_image"), ("checksum",), ("persons",),
}  # fmt: skip
# Sums that only the ledger knows: here they are seen through an epsilon of three decimals.
ROUNDED = {("composition", "mu_total"), ("persons", "mu")}


def paths(value: Any, here: Path = ()) -> Iterator[Path]:
    """Yield the way to every value of a certificate, groups included."""
    if here:
        yield here
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from paths(part, (*here, key))


def put(certificate: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(certificate)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def at(certificate: Any, path: Path) -> Any:
    for key in path:
        certificate = certificate[key]
    return certificate


def others(value: Any) -> st.SearchStrategy[Any]:
    """Return values that a liar might put in the place of ``value``: the same type, and any."""
    near: st.SearchStrategy[Any] = st.nothing()
    if isinstance(value, bool):
        near = st.just(not value)
    elif isinstance(value, int):
        near = st.sampled_from([value + 1, value - 1, float(value), bool(value), 0, -value])
    elif isinstance(value, float):
        near = st.sampled_from(
            [value * 0.999, value * (1 + 1e-12), value - 0.001, value + 1, int(value), 0.0]
        )
    elif isinstance(value, str) and value:
        near = st.integers(0, len(value) - 1).map(
            lambda i: value[:i] + ("0" if value[i] != "0" else "1") + value[i + 1 :]
        )
    elif isinstance(value, list):
        near = st.sampled_from([value[1:], value[::-1], [*value, value[0]]])
    elif isinstance(value, dict):
        near = st.sampled_from([{}, value | {"more": 1}, dict(list(value.items())[1:])])
    anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
    return st.one_of(near, near, anything | st.lists(anything, max_size=3))


def same(a: Any, b: Any) -> bool:
    return json.dumps(a) == json.dumps(b)


def as_good_as(a: Any, b: Any, path: Path) -> bool:
    """Return whether no printed number could tell the two apart."""
    return path in ROUNDED and isinstance(a, float) and math.isclose(a, b, rel_tol=9e-5)


@pytest.fixture
def rich(facts: Callable[..., ReleaseFacts]) -> dict[str, Any]:
    """Return a certificate with everything in it: several noisings, and persons."""
    ledger, persons = LedgerFacts(3, 3.5, 2), PersonFacts(4, 5.5)
    return json.loads(json.dumps(make_certificate(facts(ledger=ledger, persons=persons))))


def test_honest_ones_pass(certificate: dict[str, Any], rich: dict[str, Any], resealed: Seal) -> None:
    assert check_certificate(certificate) == check_certificate(rich) == []
    assert check_certificate(resealed(certificate)) == []


@SETTINGS
@given(data=st.data())
def test_any_change_is_found(data: st.DataObject, rich: dict[str, Any]) -> None:
    path = data.draw(st.sampled_from(sorted(paths(rich), key=repr)))
    value = data.draw(others(at(rich, path)))
    if same(value, at(rich, path)):
        return
    assert check_certificate(put(rich, path, value)), (path, value)


@SETTINGS
@given(data=st.data())
def test_a_forged_checksum_hides_nothing_that_can_be_computed(
    data: st.DataObject, rich: dict[str, Any], resealed: Seal
) -> None:
    candidates = [path for path in paths(rich) if path not in STATED]
    path = data.draw(st.sampled_from(sorted(candidates, key=repr)))
    value = data.draw(others(at(rich, path)))
    if same(value, at(rich, path)) or as_good_as(value, at(rich, path), path):
        return
    assert check_certificate(resealed(put(rich, path, value))), (path, value)


def test_every_value_is_looked_at(rich: dict[str, Any], resealed: Seal) -> None:
    """No value is left to the luck of the draw: each replaced, by another type and by a neighbour."""
    assert len(list(paths(rich))) > 80
    for path in paths(rich):
        value = at(rich, path)
        near = value + 1 if isinstance(value, int) else value * 0.9999 if isinstance(value, float) else None
        for other in (near, ANOTHER_TYPE):
            assert check_certificate(put(rich, path, other)), path
            if path not in STATED or (other is ANOTHER_TYPE and path != ("checksum",)):
                assert check_certificate(resealed(put(rich, path, other))), path


def test_every_key_is_needed_and_no_other_allowed(rich: dict[str, Any], resealed: Seal) -> None:
    for path in [path for path in paths(rich) if isinstance(path[-1], str)]:
        changed = copy.deepcopy(rich)
        del at(changed, path[:-1])[path[-1]]
        assert check_certificate(resealed(changed)) or path == ("checksum",), path
        assert check_certificate(changed), path
    groups: list[Path] = [(), *(path for path in paths(rich) if isinstance(at(rich, path), dict))]
    for path in groups:
        changed = put(rich, (*path, "certified by"), "us")
        problems = check_certificate(resealed(changed))
        assert any("certified by" in problem for problem in problems), path


@pytest.mark.parametrize("key", ["epsilon", "epsilon_theorem_5_1"])
def test_an_epsilon_too_small_by_a_thousandth(certificate: dict[str, Any], resealed: Seal, key: str) -> None:
    """The sentence is made to agree with the lie, so that only the calculation can find it."""
    lie = round(certificate[key] - 0.001, 3)
    sentence = certificate["statement"].replace(f"e^{certificate['epsilon']:.3f}", f"e^{lie:.3f}")
    changed = certificate | {key: lie} | ({"statement": sentence} if key == "epsilon" else {})
    problems = check_certificate(resealed(changed))
    assert any(f"{key} is {lie}, but {certificate[key]} follows" in problem for problem in problems)


def test_numbers_that_agree_with_each_other_but_not_with_the_noise(
    certificate: dict[str, Any], facts: Callable[..., ReleaseFacts], resealed: Seal
) -> None:
    """Half the C, with all that follows from it: right in itself. Parts of both are not."""
    half = make_certificate(facts(clip=5.0, ledger=LedgerFacts(1, certificate["mu"] / 2, 0)))
    assert check_certificate(half) == []
    mixed = certificate | {key: half[key] for key in half if key not in ("clip", "sensitivity")}
    assert check_certificate(resealed(mixed))
    shorter = resealed(certificate | {"diffusion_steps": 900})
    assert any("alpha_bar" in problem for problem in check_certificate(shorter))


def test_a_ceiling_below_what_was_spent(certificate: dict[str, Any], resealed: Seal) -> None:
    exact = epsilon_from_mu(certificate["mu"], 1e-5)
    for policy in ({"epsilon": exact * 0.9999, "delta": 1e-5}, {"epsilon": 10.0, "delta": 9.9e-6}):
        problems = check_certificate(resealed(certificate | {"policy": policy}))
        assert any("above the policy's ceiling" in problem for problem in problems)


def test_simulated_noise_is_named(certificate: dict[str, Any], resealed: Seal) -> None:
    changed = put(certificate, ("noise", "simulation"), True)
    assert "NOT PRIVATE" in check_certificate(resealed(changed))[0]


def test_fewer_noisings_than_were_composed(rich: dict[str, Any], resealed: Seal) -> None:
    problems = check_certificate(resealed(put(rich, ("composition", "noisings_per_image"), 1)))
    assert any("after one noising" in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON, or damaged"),
        ("{", "no JSON, or damaged"),
        ('{"epsilon": 1', "no JSON, or damaged"),
        ("[1, 2]", "no JSON object"),
        ("null", "no JSON object"),
        ('{"epsilon": NaN}', "NaN is not a finite number"),
        ('{"epsilon": -Infinity}', "not a finite number"),
        ('{"epsilon": 9, "epsilon": 1}', "a key comes twice"),
        ('{"noise": {"a": 1, "a": 2}}', "a key comes twice"),
        ("[" * 100_000, "no JSON, or damaged"),
        ('{"mu": ' + "9" * 10_000 + "}", "no JSON, or damaged"),
        (b"\xff\xfe{}", "no JSON, or damaged"),
    ],
)
def test_damaged_files_give_a_plain_error(text: str | bytes, message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        parse_certificate(text)


@pytest.mark.parametrize(
    "strange",
    [
        {},
        {"epsilon": 1.0},
        {"t0": 10**400},
        {"clip": 1e308},
        {"image_shape": [10**30, 1, 1]},
        {"class_counts": {"-1": 5}},
        {"class_counts": {}},
        {"delta": 5e-324},
        {"composition": []},
        {"persons": {}},
        {"alpha_bar": 1e-320},
        {"mu": float("inf")},
    ],
)
def test_strange_values_are_problems_not_crashes(
    certificate: dict[str, Any], strange: dict[str, Any]
) -> None:
    assert check_certificate(certificate | strange if strange else strange)


def test_messages_are_short_whatever_a_stranger_wrote(certificate: dict[str, Any]) -> None:
    long = certificate | {"software": "x" * 5000, "y" * 5000: 1, "wire": {"z" * 5000: "0"}}
    problems = check_certificate(long)
    assert problems and all(len(problem) < 400 for problem in problems)
