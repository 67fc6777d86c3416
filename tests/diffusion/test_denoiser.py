"""A denoiser on disk and in messages, and the frame in which it gives its estimates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedpdiff.diffusion.denoiser import Denoiser, load_arrays, to_arrays
from fedpdiff.diffusion.networks import build_network
from fedpdiff.errors import DataError

CENTRE = torch.linspace(-0.5, 0.5, 16).view(1, 4, 4)


@pytest.fixture
def denoiser(micro: str, describe: Any) -> Denoiser:
    return Denoiser(build_network(micro, (1, 4, 4), 2, seed=1).eval(), describe("continued"), CENTRE)


def test_round_trip(denoiser: Denoiser, tmp_path: Path) -> None:
    denoiser.save_pretrained(tmp_path / "half")
    again = Denoiser.from_pretrained(tmp_path / "half")
    assert again.config == denoiser.config
    assert torch.equal(again.centre, CENTRE)
    assert not again.network.training
    x, labels = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 1])
    with torch.no_grad():
        assert torch.equal(again.clean(x, 500, labels), denoiser.clean(x, 500, labels))


def test_no_pickle_is_written(denoiser: Denoiser, tmp_path: Path) -> None:
    denoiser.save_pretrained(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert not any(path.read_bytes().startswith((b"\x80", b"PK")) for path in files)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "denoiser.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


BREAKAGES = {
    "no folder": shutil.rmtree,
    "no description": lambda folder: (folder / "denoiser.json").unlink(),
    "no JSON": lambda folder: (folder / "denoiser.json").write_text("{"),
    "a list": lambda folder: (folder / "denoiser.json").write_text("[]"),
    "other format": lambda folder: edit(folder, format="fedpdiff-denoiser/9"),
    "extra field": lambda folder: edit(folder, note="x"),
    "unknown schedule": lambda folder: edit(folder, schedule="sigmoid"),
    "t0 beyond the last level": lambda folder: edit(folder, t0=1001),
    "no level left": lambda folder: edit(folder, t0=1000),
    "own classes of a global half": lambda folder: edit(folder, alone=[0]),
    "other shape": lambda folder: edit(folder, image_shape=[1, 8, 8]),
    "other channels": lambda folder: (
        edit(folder, image_shape=[3, 4, 4]),
        save_file({"centre": torch.zeros(3, 4, 4)}, folder / "centre.safetensors"),
    ),
    "other classes": lambda folder: edit(folder, class_names=["a", "b", "c"]),
    "no centre": lambda folder: (folder / "centre.safetensors").unlink(),
    "broken centre": lambda folder: (folder / "centre.safetensors").write_bytes(b"x" * 50),
    "centre under another name": lambda folder: save_file({"c": CENTRE}, folder / "centre.safetensors"),
    "no network": lambda folder: shutil.rmtree(folder / "network"),
    "broken weights": lambda folder: next((folder / "network").glob("*.safetensors")).write_bytes(b"x" * 50),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_folders_are_named(breakage: str, denoiser: Denoiser, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    denoiser.save_pretrained(folder)
    BREAKAGES[breakage](folder)
    with pytest.raises(DataError) as error:
        Denoiser.from_pretrained(folder)
    assert str(folder) in str(error.value)


def test_weights_travel_as_arrays(denoiser: Denoiser, micro: str) -> None:
    arrays = to_arrays(denoiser.network)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    other = build_network(micro, (1, 4, 4), 2, seed=2)
    load_arrays(other, arrays)
    assert all(np.array_equal(array, to_arrays(other)[name]) for name, array in arrays.items())


def test_arrays_that_do_not_fit_are_refused_and_nothing_is_loaded(denoiser: Denoiser) -> None:
    arrays = to_arrays(denoiser.network)
    before = {name: array.copy() for name, array in arrays.items()}
    name = next(iter(arrays))
    poisoned = arrays[name].copy()
    poisoned.flat[0] = np.nan
    infinite = arrays[name].copy()
    infinite.flat[0] = np.inf
    missing = {key: array for key, array in arrays.items() if key != name}
    for wrong, message in [
        (missing, f"first difference: .*{name}"),
        ({**arrays, "extra": np.zeros(3, np.float32)}, "first difference: .*extra"),
        ({**missing, "renamed": arrays[name]}, "do not fit"),
        ({**arrays, name: arrays[name].reshape(-1)}, name),
        ({**arrays, name: poisoned}, "not finite"),
        ({**arrays, name: infinite}, "not finite"),
    ]:
        with pytest.raises(DataError, match=message):
            load_arrays(denoiser.network, wrong)
    assert all(np.array_equal(array, before[key]) for key, array in to_arrays(denoiser.network).items())


def test_estimates_are_in_pixels(gaussian: Any, exact_network: Any, describe: Any) -> None:
    """The global half sees u = x - c; its estimate, in pixels, is that of the images x themselves."""
    centre = torch.tensor([[[0.1, -0.3], [0.0, 0.2]]])
    config = describe("continued", image_shape=[1, 2, 2])
    half = Denoiser(exact_network(config.chain(), [gaussian.shifted(-centre)]), config, centre)
    x = torch.randn(20, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(20, dtype=torch.int64)
    want = gaussian.expected(x, float(half.chain.alpha_bar[500])).clamp(-1, 1)
    torch.testing.assert_close(half.clean(x, 500, labels), want, atol=1e-5, rtol=0)
    bright = half.clean(100 + x, 500, labels)
    assert float(bright.abs().max()) == 1.0


def test_the_label_of_an_unseen_class_is_hidden(micro: str, describe: Any, tmp_path: Path) -> None:
    """A network that never saw a class gets the label for none, not an embedding that was never trained."""
    network = build_network(micro, (1, 4, 4), 3, seed=1).eval()
    x, wanted = torch.ones(2, 1, 4, 4), torch.tensor([0, 1])
    known = Denoiser(network, describe("personal", hidden_label=True), torch.zeros(1, 4, 4))
    unseen = Denoiser(network, describe("personal", hidden_label=True, unseen=[1]), torch.zeros(1, 4, 4))
    unseen.save_pretrained(tmp_path)
    again = Denoiser.from_pretrained(tmp_path)
    with torch.no_grad():
        found = again.noise(x, 500, wanted)
        assert torch.equal(found, known.noise(x, 500, torch.tensor([0, 2])))
        assert not torch.equal(found, known.noise(x, 500, wanted))


def test_labels_cannot_be_hidden_from_a_network_that_always_saw_them(describe: Any) -> None:
    with pytest.raises(ValueError, match="only from a network trained with hidden_label"):
        describe("personal", unseen=[1])


@pytest.mark.parametrize("objective", ["noise", "velocity"])
@pytest.mark.parametrize("scale", [1.0, 1.5, 4.0])
def test_guidance_moves_a_class_away_from_all(
    gaussian: Any, exact_network: Any, describe: Any, objective: str, scale: float
) -> None:
    """Where class and mixture are Gaussians of one covariance, guided images are those of a moved mean."""
    settings = {"image_shape": [1, 2, 2], "hidden_label": True, "objective": objective}
    config = describe("personal", **settings, guidance_scale=scale)
    everything = gaussian.shifted(torch.full((1, 2, 2), -0.05))
    network = exact_network(config.chain(), [gaussian, gaussian, everything])
    half = Denoiser(network, config, torch.zeros(1, 2, 2))
    x = 0.3 * torch.randn(20, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    labels, share = torch.arange(20) % 2, float(half.chain.alpha_bar[300])
    moved = everything.shifted(torch.full((1, 2, 2), 0.05 * scale))
    guided = moved.expected(x, share)
    assert float(guided.abs().max()) < 1
    torch.testing.assert_close(half.guided(x, 300, labels), guided, atol=1e-5, rtol=0)
    # What is not sampling, such as an attack, asks the network itself.
    for found in (half.clean(x, 300, labels), half.clean_clipped(x, 300, labels)):
        torch.testing.assert_close(found, gaussian.expected(x, share), atol=1e-5, rtol=0)
    torch.testing.assert_close(half.noise(x, 300, labels), gaussian.expected_noise(x, share))


def test_without_guidance_the_network_is_asked_once(gaussian: Any, exact_network: Any, describe: Any) -> None:
    for scale, times in ((1.0, 1), (1.5, 2)):
        config = describe("personal", image_shape=[1, 2, 2], hidden_label=True, guidance_scale=scale)
        network = exact_network(config.chain(), [gaussian] * 3)
        Denoiser(network, config, torch.zeros(1, 2, 2)).guided(
            torch.zeros(2, 1, 2, 2), 9, torch.tensor([0, 1])
        )
        assert network.asked == [(8, [0, 1]), (8, [2, 2])][:times]


def test_guidance_survives_the_disk(micro: str, describe: Any, tmp_path: Path) -> None:
    network = build_network(micro, (1, 4, 4), 3, seed=1).eval()
    config = describe("personal", hidden_label=True, guidance_scale=3.0)
    half = Denoiser(network, config, torch.zeros(1, 4, 4))
    half.save_pretrained(tmp_path)
    x, labels = 0.1 * torch.ones(2, 1, 4, 4), torch.tensor([0, 1])
    with torch.no_grad():
        found = Denoiser.from_pretrained(tmp_path).guided(x, 500, labels)
        assert torch.equal(found, half.guided(x, 500, labels))
        assert not torch.equal(found, half.clean(x, 500, labels))


def test_a_half_of_the_format_before_is_read_as_it_was(micro: str, describe: Any, tmp_path: Path) -> None:
    network = build_network(micro, (1, 4, 4), 3, seed=1).eval()
    Denoiser(network, describe("personal", hidden_label=True), torch.zeros(1, 4, 4)).save_pretrained(tmp_path)
    old = json.loads((tmp_path / "denoiser.json").read_text())
    del old["guidance_scale"]
    (tmp_path / "denoiser.json").write_text(json.dumps({**old, "format": "fedpdiff-denoiser/2"}))
    assert Denoiser.from_pretrained(tmp_path).config.guidance_scale == 1.0


def test_guidance_changes_nothing_for_a_class_that_was_never_seen(micro: str, describe: Any) -> None:
    network = build_network(micro, (1, 4, 4), 3, seed=1).eval()
    config = describe("personal", hidden_label=True, guidance_scale=3.0, unseen=[1])
    half = Denoiser(network, config, torch.zeros(1, 4, 4))
    x, labels = 0.1 * torch.ones(2, 1, 4, 4), torch.tensor([0, 1])
    with torch.no_grad():
        guided, bare = half.guided(x, 500, labels), half.clean(x, 500, labels)
    torch.testing.assert_close(guided[1], bare[1])
    assert not torch.allclose(guided[0], bare[0])


def test_guidance_needs_a_personal_network_that_knows_no_label(describe: Any) -> None:
    for kind, settings in (("personal", {}), ("continued", {"hidden_label": True})):
        with pytest.raises(ValueError, match="for a personal half trained with hidden_label"):
            describe(kind, **settings, guidance_scale=1.5)
    with pytest.raises(ValueError, match="would hide the flag"):
        describe("personal", hidden_label=True, clip_flag=True, guidance_scale=1.5)
