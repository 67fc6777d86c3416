"""What a run left behind: the right images behind the right uploads, and nobody's images as non-members."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpdiff.config import RunConfig
from fedpdiff.data.public import load_public, load_test
from fedpdiff.errors import DataError, RunError
from fedpdiff.evidence.artefacts import read_artefacts
from fedpdiff.evidence.images import load_images
from fedpdiff.types import LabelledImages


def keys(images: LabelledImages) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


def test_uploads_meet_their_images(finished_run: Path) -> None:
    """A wrong order would leave no correlation: |r| above 0.2 has a chance far below 1e-9."""
    found = read_artefacts(finished_run, "cpu")
    assert [client.name for client in found.clients] == ["client-0", "client-1"]
    for client in found.clients:
        assert client.rows is not None
        assert len(client.rows) == len(client.uploads) == len(client.labels)
        truth = found.mechanism.clipped(client.train.select(torch.from_numpy(client.rows)))
        noise = client.uploads.numpy() - found.mechanism.alpha_bar**0.5 * truth
        assert noise.std() == pytest.approx((1 - found.mechanism.alpha_bar) ** 0.5, rel=0.03)
        assert np.corrcoef(client.uploads.numpy().ravel(), truth.ravel())[0, 1] > 0.2
        assert set(client.samples) == {"pfdm", "local"}
        assert client.personal.config.kind == "personal"
    assert found.global_half.config.kind == "continued"
    assert found.mechanism.mu == pytest.approx(found.mechanism.statement()["mu"])


def test_a_run_without_order_is_attacked_without_it(finished_run: Path) -> None:
    (finished_run / "client-0" / "state" / "release" / "ledger.sqlite").unlink()
    found = read_artefacts(finished_run, "cpu")
    assert found.clients[0].rows is None
    assert found.clients[1].rows is not None


def test_other_data_than_the_run_s_are_noticed(finished_run: Path) -> None:
    path = finished_run / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"seed": 2}))
    with pytest.raises(DataError, match=r"is not what it was when .* was run"):
        read_artefacts(finished_run, "cpu")


def test_only_finished_simulations_are_attacked(finished_run: Path, tmp_path: Path) -> None:
    manifest = finished_run / "server" / "spool" / "client-0" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({key: value for key, value in content.items() if key != "number"}))
    with pytest.raises(RunError, match="is of a deployment"):
        read_artefacts(finished_run, "cpu")
    (finished_run / "server" / "global" / "denoiser.json").unlink()
    (finished_run / "server" / "global").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="has not finished, or failed"):
        read_artefacts(finished_run, "cpu")
    with pytest.raises(RunError, match=r"no readable config\.json"):
        read_artefacts(tmp_path / "nowhere", "cpu")


def test_non_members_are_images_of_the_same_split_that_nobody_held() -> None:
    config = RunConfig.parse({"max-images": 300})
    found = load_images(config)
    held = set().union(*(keys(images) for images in found.clients))
    public, others = keys(load_public(config)), keys(found.held_out)
    assert not others & held and not others & public
    assert keys(load_test(config)) < others  # and those that max-images left over
    assert sum(len(images) for images in found.clients) == 300
    assert len(found.held_out) > 1000
    assert found.attacker is found.public
    assert "same random split" in found.origin


def test_without_public_images_the_attacker_gets_some_of_the_others() -> None:
    config = RunConfig.parse({"public-fraction": 0.0, "centre": "none", "clip-rule": "fixed"})
    found = load_images(config)
    assert len(found.public) == 0
    assert not keys(found.attacker) & keys(found.held_out)
    assert min(found.attacker.counts(10)) > 20 and min(found.held_out.counts(10)) > 20


def test_a_test_split_of_its_own_is_used_only_where_nothing_else_is_left(
    own_test_split: Callable[..., str],
) -> None:
    path = own_test_split(train=900, test=200)
    left = load_images(RunConfig.parse({"data": path, "max-images": 100, "partitioner": "iid"}))
    assert len(left.held_out) == 900 - 180 - 100
    assert "same random split" in left.origin
    none_left = load_images(RunConfig.parse({"data": path}))
    assert len(none_left.held_out) == 200
    assert "the data set's own test images" in none_left.origin
    assert not keys(none_left.held_out) & keys(left.held_out)
