"""A person's images add up; the policy limits how many are ever released."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from dp_accounting import get_epsilon_gaussian

from fedpdiff.errors import PrivacyError

Make = Callable[..., Any]
LIMITED: dict[str, Any] = {"images-per-person": 3, "person-column": "patient"}


def test_a_person_with_too_many_images_is_refused(site: Make, private: Make) -> None:
    here = site(**LIMITED)
    with pytest.raises(PrivacyError, match="images-per-person = 3") as error:
        here.release(private(range(6), persons=["ann", "bob", "ann", "ann", "bob", "ann"]))
    assert "4" not in str(error.value) and "ann" not in str(error.value)  # what is sent to the server
    assert here.counts()["noisings"] == 0
    assert len(here.release(private(range(5), persons=["ann", "bob", "ann", "ann", "bob"])).labels) == 5


def test_duplicates_count_once(site: Make, private: Make) -> None:
    here = site(**LIMITED)
    release = here.release(private([1, 1, 2, 3, 3], persons=["ann"] * 5))
    assert len(release.labels) == 3


def test_images_that_were_taken_out_still_count(site: Make, private: Make, no_noise: Any) -> None:
    here = site(**LIMITED)
    here.release(private(range(3), persons=["ann"] * 3))
    here.release(private([0], persons=["ann"]), no_noise)
    with pytest.raises(PrivacyError, match="images-per-person = 3"):
        here.release(private([0, 7], persons=["ann", "ann"]), no_noise)
    assert len(here.release(private([0, 7], persons=["ann", "bob"])).labels) == 2


def test_an_image_may_not_change_hands_to_get_round_the_limit(
    site: Make, private: Make, no_noise: Any
) -> None:
    """Whoever an image was ever said to show keeps it on the account."""
    here = site(**LIMITED)
    here.release(private(range(3), persons=["ann"] * 3))
    here.release(private(range(3), persons=["bob"] * 3), no_noise)
    for person in ("ann", "bob"):
        with pytest.raises(PrivacyError, match="images-per-person = 3"):
            here.release(private([3], persons=[person]), no_noise)


def test_the_limit_needs_to_know_everybody(site: Make, private: Make, no_noise: Any) -> None:
    """Images released before the column was named count as soon as the data say who is shown."""
    site().release(private(range(4)))
    here = site(**LIMITED)
    with pytest.raises(PrivacyError, match=r"images-per-person = 3 .* cannot be checked"):
        here.release(private(range(4)), no_noise)
    with pytest.raises(PrivacyError, match=r"images-per-person = 3 .* cannot be checked"):
        here.release(private(range(1, 4), persons=["ann"] * 3), no_noise)
    with pytest.raises(PrivacyError, match="a person has more images"):
        here.release(private(range(4), persons=["ann"] * 4), no_noise)
    assert len(here.release(private(range(4), persons=["ann", "ann", "ann", "bob"]), no_noise).labels) == 4
    with pytest.raises(PrivacyError, match="a person has more images"):
        here.release(private([0, 9], persons=["ann", "ann"]), no_noise)


@pytest.mark.parametrize("releases", [1, 2])
def test_a_persons_epsilon_composes_over_images_and_noisings(
    releases: int, site: Make, private: Make, level: Make
) -> None:
    here = site(**{"person-column": "patient"})
    persons = ["ann", "ann", "bob", "ann", "cat", "bob"]
    for t0 in (690, 800)[:releases]:
        certificate = here.release(private(range(6), persons=persons), **level(t0)).certificate
    mus = {row[2] for row in here.rows()["batches"]}
    mu = math.sqrt(3 * sum(mu * mu for mu in mus))
    assert certificate["persons"]["most_images"] == 3
    assert certificate["persons"]["mu"] == pytest.approx(mu, rel=1e-12)
    assert certificate["persons"]["epsilon"] == pytest.approx(get_epsilon_gaussian(1 / mu, 1e-5), abs=1e-3)


def test_without_a_column_nothing_is_said_of_persons(site: Make, private: Make) -> None:
    here = site()
    assert here.release(private(range(3))).certificate["persons"] is None
    assert here.counts()["shown"] == 0
