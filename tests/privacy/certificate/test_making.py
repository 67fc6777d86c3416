"""The certificate of a release: what it says, and when there is none."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fedpdiff.errors import PrivacyError
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.certificate import make_certificate
from fedpdiff.privacy.certificate_digests import upload_digest, wire_digests
from fedpdiff.privacy.certificate_facts import (
    LedgerFacts,
    PersonFacts,
    PolicyCeilings,
    ReleaseFacts,
    SelfTest,
)
from fedpdiff.privacy.noise_health import HealthReport
from fedpdiff.privacy.request import ReleaseRequest
from fedpdiff.privacy.statement import privacy_statement
from fedpdiff.privacy.wire import encode, unpack

Facts = Callable[..., ReleaseFacts]
MU = 1.7978094898


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for key, inner in value.items() for text in (key, *_texts(inner))]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) else []


def test_the_papers_setting(certificate: dict[str, Any]) -> None:
    """The figures of an independent calculation, rounded up."""
    assert (certificate["epsilon"], certificate["epsilon_theorem_5_1"]) == (8.774, 10.243)
    assert certificate["mu"] == pytest.approx(MU, rel=1e-9)
    assert certificate["sensitivity"] == 20.0
    assert certificate["noise_to_signal"] == pytest.approx(11.125, abs=5e-4)
    assert certificate["attack_ceilings"]["auc"] == 0.899
    assert certificate["attack_ceilings"]["reidentify_1_of_1000"] == 0.015
    table = {"1": 8.774, "2": 13.492, "5": 24.547, "10": 39.664, "50": 134.159}
    assert certificate["per_person"] == table
    assert certificate["composition"]["epsilon_total"] == 8.774


def test_it_begins_with_the_sentence(certificate: dict[str, Any]) -> None:
    assert next(iter(certificate)) == "statement"
    sentence = certificate["statement"]
    assert "12 images" in sentence and "e^8.774 plus 1e-05 (plus 1e-12 for the self-test" in sentence
    assert (
        "Replacing an image's pixels by any others, its label and the number of images unchanged" in sentence
    )
    assert sentence.endswith("Nothing else is promised.")


def test_it_holds_all_that_the_privacy_command_prints(
    certificate: dict[str, Any], request_690: ReleaseRequest
) -> None:
    statement = privacy_statement(request_690.alpha_bar, 10.0, 1e-5, 690, "linear")
    assert {key: certificate[key] for key in statement} == statement


def test_every_key_is_documented(certificate: dict[str, Any], pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "docs" / "results.md").read_text(encoding="utf-8")
    assert [key for key in certificate if f"`{key}`" not in text] == []


def test_no_praise_and_no_legal_claim(certificate: dict[str, Any]) -> None:
    words = set(re.findall(r"[a-z]+", " ".join(_texts(certificate)).lower()))
    claims = "strong secure safe guarantee guaranteed anonymous anonymised compliant gdpr hipaa fully perfect"
    assert not words & set(claims.split())


def test_several_noisings_are_stated_together(facts: Facts) -> None:
    """Twice the same mechanism is sqrt(2) mu, in the sentence, in composition and in the table of persons."""
    made = make_certificate(facts(ledger=LedgerFacts(2, MU * math.sqrt(2), 3)))
    assert made["epsilon"] == 8.774
    assert made["composition"]["epsilon_total"] == made["per_person"]["1"] == 13.492
    assert made["composition"]["attack_ceilings"]["auc"] > made["attack_ceilings"]["auc"]
    assert "at most 2, the factor is e^13.492" in made["statement"]
    assert made["duplicates_dropped"] == 3


def test_persons_where_they_are_counted(facts: Facts) -> None:
    made = make_certificate(facts(persons=PersonFacts(4, 2 * MU)))
    assert made["persons"]["most_images"] == 4
    assert 0 <= made["persons"]["epsilon"] - epsilon_from_mu(2 * MU, 1e-5) < 1e-3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"noise": "seeded"}, "the noise is seeded.*NOT PRIVATE"),
        ({"ledger": None}, "no ledger"),
        ({"self_test": None}, "not tested"),
        ({"self_test": SelfTest(False, ("a",), 1e-12)}, "failed its test"),
        ({"policy": PolicyCeilings(8.773, 1e-5)}, r"epsilon 8\.77393, .*above the policy's ceiling 8\.773"),
        ({"policy": PolicyCeilings(10.0, 9e-6)}, "delta 1e-05 is above the policy's ceiling 9e-06"),
        (
            {"ledger": LedgerFacts(2, 2 * MU, 0), "policy": PolicyCeilings(10.0, 1e-5)},
            "of all noisings of an image, is above",
        ),
        ({"ledger": LedgerFacts(1, 0.9 * MU, 0)}, "this release alone has mu"),
        ({"ledger": LedgerFacts(1, 1.1 * MU, 0)}, "after one noising"),
        ({"persons": PersonFacts(2, 0.9 * MU)}, "the mu of one person"),
        ({"alpha_bar": 0.008}, "after t0 = 690 of 1000 steps of the linear schedule it is 0.0080155"),
        ({"schedule": "cosine"}, "of the cosine schedule it is 0.21"),
        ({"t0": 691}, "after t0 = 691"),
        ({"t0": 1001}, "t0 = 1001 is above the 1000 steps"),
        ({"diffusion_steps": 900}, "of 900 steps"),
    ],
)
def test_what_has_no_certificate(facts: Facts, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PrivacyError, match=f"no certificate is made: .*{reason}"):
        make_certificate(facts(**changes))


def test_a_ceiling_at_the_exact_epsilon_is_kept(facts: Facts, request_690: ReleaseRequest) -> None:
    """A policy may name the unrounded epsilon; squaring and rooting mu in the ledger must not exceed it."""
    exact = epsilon_from_mu(request_690.mu, 1e-5)
    ledger = LedgerFacts(1, math.nextafter(request_690.mu, 2), 0)
    make_certificate(facts(policy=PolicyCeilings(exact, 1e-5), ledger=ledger))


def test_reports_of_several_checks_are_summed_up() -> None:
    good = HealthReport({"a": 0.5, "b": 0.4}).to_dict()
    bad = HealthReport({"a": 0.5, "b": 0.0}).to_dict()
    assert SelfTest.of([]) is None
    assert SelfTest.of([good, good]) == SelfTest(True, ("a", "b"), good["false_alarm"])
    assert SelfTest.of([good, bad]).ok is False
    assert SelfTest.of([good, good | {"false_alarm": 1e-9}]).false_alarm == 1e-9


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_wire_hash_does_not_depend_on_shards(bits: int) -> None:
    """Five rows of 25 values: at 4 and 2 bits a shard ends within a byte."""
    integers = np.random.default_rng(2).normal(0, 4080, (5, 1, 5, 5)).astype(np.int16)
    labels = np.arange(5)
    stated = wire_digests(integers, labels)
    for cuts in ([5], [2, 5], [1, 2, 4, 5]):
        shards = np.split(integers, cuts[:-1])
        arrived = [unpack(encode(shard, bits), bits, shard.size) for shard in shards]
        assert upload_digest(arrived, labels) == stated[str(bits)]
    assert wire_digests(iter(integers), labels) == stated
    assert upload_digest(arrived, labels[::-1]) != stated[str(bits)]
    assert len(set(stated.values())) == 3


def test_it_is_json_and_the_same_each_time(facts: Facts) -> None:
    made = make_certificate(facts())
    assert json.loads(json.dumps(made)) == made == make_certificate(facts())
    other = make_certificate(dataclasses.replace(facts(), created="2026-01-02T03:04:06+00:00"))
    assert {key for key in made if made[key] != other[key]} == {"created", "checksum"}
