"""The agreed mechanism: derived from the settings by the server, and checked against them by every client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.config import RunConfig
from fedpdiff.errors import MessageError, PrivacyError
from fedpdiff.federation.agreement import Agreement, check_request, propose
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.calibration import mu_of
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages

LINEAR = NoiseSchedule("linear", 1000).alpha_bar
Make = Callable[..., RunConfig]


def epsilon_of(agreement: Agreement) -> float:
    mechanism = agreement.mechanism
    return epsilon_from_mu(mu_of(mechanism.alpha_bar, mechanism.clip), mechanism.delta)


def test_epsilon_gives_the_smallest_t0(run_config: Make, no_images: LabelledImages) -> None:
    agreement = propose(run_config(), no_images)
    assert agreement.mechanism.t0 == 675
    assert agreement.mechanism.alpha_bar == LINEAR[675]
    assert epsilon_of(agreement) <= 10 < epsilon_from_mu(mu_of(float(LINEAR[674]), 10.0), 1e-5)
    assert agreement.centre.shape == (1, 8, 8) and not agreement.centre.any()


def test_t0_gives_epsilon(run_config: Make, no_images: LabelledImages) -> None:
    agreement = propose(run_config(epsilon=0.0, t0=690), no_images)
    assert agreement.mechanism.t0 == 690
    assert epsilon_of(agreement) == pytest.approx(8.774, abs=5e-4)


def test_public_images_give_centre_and_clip(run_config: Make, images: LabelledImages) -> None:
    agreement = propose(run_config(clip_rule="public-median", centre="public-mean"), images)
    pixels = images.pixels().numpy()
    np.testing.assert_allclose(agreement.centre, pixels.mean(axis=0), atol=1e-6)
    norms = np.linalg.norm((pixels - agreement.centre).reshape(len(pixels), -1), axis=1)
    assert agreement.mechanism.clip == pytest.approx(np.median(norms), rel=1e-6)


def test_public_rules_need_public_images(run_config: Make, no_images: LabelledImages) -> None:
    with pytest.raises(PrivacyError, match="public-fraction"):
        propose(run_config(clip_rule="public-median"), no_images)


def test_agreements_are_kept_on_disk(agreement: Agreement, tmp_path: Path) -> None:
    with pytest.raises(MessageError, match="no release was agreed"):
        Agreement.load(tmp_path / "agreement")
    agreement.save(tmp_path / "agreement")
    again = Agreement.load(tmp_path / "agreement")
    assert again.mechanism == agreement.mechanism
    assert (again.centre == agreement.centre).all()
    (tmp_path / "agreement" / "mechanism.json").write_text("{}")
    with pytest.raises(MessageError):
        Agreement.load(tmp_path / "agreement")


@pytest.mark.parametrize("simulated", [True, False])
def test_the_agreed_request_is_accepted(agreement: Agreement, run_config: Make, simulated: bool) -> None:
    check_request(agreement.mechanism, agreement.centre, run_config(), simulated)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t0": 300, "alpha_bar": float(LINEAR[300])}, "above epsilon"),
        ({"t0": 674, "alpha_bar": float(LINEAR[674])}, "above epsilon"),
        ({"t0": 1001}, "t0 = 1001"),
        ({"t0": 674}, "alpha_bar"),
        ({"alpha_bar": 0.5}, "alpha_bar"),
        ({"schedule": "cosine"}, "schedule"),
        ({"diffusion_steps": 2000}, "diffusion_steps"),
        ({"clip": 11.0}, "clip"),
        ({"clip": 5.0}, "clip"),
        ({"delta": 1e-3}, "delta"),
        ({"noise": "seeded"}, "noise"),
        ({"wire_bits": 4}, "wire_bits"),
        ({"image_shape": [1, 28, 28]}, "image_shape"),
    ],
)
def test_a_tampered_request_is_refused(
    change: dict[str, Any], message: str, agreement: Agreement, run_config: Make
) -> None:
    tampered = agreement.mechanism.model_copy(update=change)
    for simulated in (True, False):
        with pytest.raises(PrivacyError, match=message):
            check_request(tampered, agreement.centre, run_config(), simulated)


def test_every_field_of_the_mechanism_is_tampered_with_above(agreement: Agreement) -> None:
    mark = next(m for m in test_a_tampered_request_is_refused.pytestmark if m.name == "parametrize")
    assert {key for change, _ in mark.args[1] for key in change} == set(
        type(agreement.mechanism).model_fields
    )


def test_more_noise_than_the_budget_asks_for_is_accepted(agreement: Agreement, run_config: Make) -> None:
    safer = agreement.mechanism.model_copy(update={"t0": 900, "alpha_bar": float(LINEAR[900])})
    check_request(safer, agreement.centre, run_config(), simulated=False)


def test_a_fixed_t0_is_not_changed(run_config: Make, no_images: LabelledImages) -> None:
    config = run_config(epsilon=0.0, t0=690)
    agreement = propose(config, no_images)
    check_request(agreement.mechanism, agreement.centre, config, simulated=False)
    other = agreement.mechanism.model_copy(update={"t0": 689, "alpha_bar": float(LINEAR[689])})
    with pytest.raises(PrivacyError, match="t0"):
        check_request(other, agreement.centre, config, simulated=False)


def test_a_larger_ball_than_the_budget_allows_is_refused(run_config: Make, images: LabelledImages) -> None:
    config = run_config(clip_rule="public-median", centre="public-mean")
    agreement = propose(config, images)
    check_request(agreement.mechanism, agreement.centre, config, simulated=False)
    larger = agreement.mechanism.model_copy(update={"clip": 2 * agreement.mechanism.clip})
    with pytest.raises(PrivacyError, match="above epsilon"):
        check_request(larger, agreement.centre, config, simulated=False)


def test_a_real_site_never_releases_seeded_noise(run_config: Make, no_images: LabelledImages) -> None:
    config = run_config(release_noise="seeded")
    agreement = propose(config, no_images)
    check_request(agreement.mechanism, agreement.centre, config, simulated=True)
    with pytest.raises(PrivacyError, match="real site never releases seeded noise"):
        check_request(agreement.mechanism, agreement.centre, config, simulated=False)


@pytest.mark.parametrize(
    "centre", [np.zeros((1, 8, 9), np.float32), np.zeros((64,), np.float32), np.full((1, 8, 8), np.nan)]
)
def test_a_centre_that_is_no_image_is_refused(
    centre: np.ndarray, agreement: Agreement, run_config: Make
) -> None:
    with pytest.raises(PrivacyError, match="centre"):
        check_request(agreement.mechanism, centre, run_config(), simulated=True)
