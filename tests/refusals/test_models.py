"""Model files that are refused before anything of them is built or run, wherever a person may have got them.

Read as ``PFDMPipeline.from_pretrained`` reads them, and as a sealed site's private side reads its inbox,
which its network side may have filled with anything.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.diffusion.networks import build_network
from fedpdiff.diffusion.pipeline import PFDMPipeline
from fedpdiff.errors import DataError, FedpdiffError
from fedpdiff.federation.exchange_folders import fill_inbox, read_inbox
from fedpdiff.metrics.features import FeatureNetwork
from tests.refusals.spoiled import Executed, header

Spoil = Callable[[Path], None]
TRACE = "executed"
WEIGHTS = "network/diffusion_pytorch_model.safetensors"
ATTENTION = ["DownBlock2D", "AttnDownBlock2D"]
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def quick() -> None:
    """Nothing: no run is needed here."""


def half(kind: str) -> Denoiser:
    config = DenoiserConfig.model_validate(
        {"kind": kind, "objective": "noise", "schedule": "linear", "diffusion_steps": 1000, "t0": 600}
        | {"hand_off": 660, "last": 1000, "class_names": ["cat", "dog"], "image_shape": [1, 8, 8]}
        | {"clip": 10.0}
    )
    return Denoiser(build_network("tiny", (1, 8, 8), 2, 1), config, torch.zeros(1, 8, 8))


# -- ways to spoil a half ------------------------------------------------------------------------------------


def described(**changes: Any) -> Spoil:
    return edit("denoiser.json", changes)


def network(**changes: Any) -> Spoil:
    return edit("network/config.json", changes)


def edit(name: str, changes: dict[str, Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    return spoil


def text(name: str, content: str) -> Spoil:
    return lambda folder: (folder / name).write_text(content) and None


def tensors(change: Callable[[dict[str, torch.Tensor]], Any], name: str = WEIGHTS) -> Spoil:
    def spoil(folder: Path) -> None:
        held = load_file(folder / name)
        change(held)
        save_file(held, folder / name)

    return spoil


def data(change: Callable[[bytes], bytes], name: str = WEIGHTS) -> Spoil:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def pickle_beside(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "network" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Executed(TRACE)))


def centre(value: torch.Tensor) -> Spoil:
    return lambda folder: save_file({"centre": value}, folder / "centre.safetensors")


MODELS = [
    ("no description", lambda folder: (folder / "denoiser.json").unlink(), "No such file"),
    ("no weights", lambda folder: (folder / WEIGHTS).unlink(), "No such file"),
    ("a pickle beside", pickle_beside, "No such file"),
    ("a pickle for weights", data(lambda _: pickle.dumps(Executed(TRACE))), "SafetensorError"),
    ("cut weights", data(lambda held: held[:-100]), "SafetensorError"),
    ("weights with a tail", data(lambda held: held + b"more"), "SafetensorError"),
    ("no bytes", data(lambda _: b""), "SafetensorError"),
    ("a header without end", data(lambda _: struct.pack("<Q", 2**60) + b"{}"), "header too large"),
    ("a zip", data(lambda _: b"PK\x03\x04" + bytes(99)), "SafetensorError"),
    ("a weight missing", tensors(lambda held: held.pop("conv_in.bias")), "conv_in.bias is nothing, but"),
    ("a weight too many", tensors(lambda held: held.update(x=torch.ones(3))), "x is [3], but"),
    ("a weight of another shape", tensors(lambda held: held.update({"conv_in.bias": torch.ones(3)})), "[16]"),
    ("weights of NaN", tensors(lambda held: held["conv_in.bias"].fill_(NAN)), "not finite"),
    ("infinite weights", tensors(lambda held: held["conv_in.bias"].fill_(INF)), "not finite"),
    ("whole numbers", tensors(lambda held: held.update({"conv_in.bias": torch.ones(16).int()})), "no n"),
    ("a centre of NaN", centre(torch.full((1, 8, 8), NAN)), "the centre holds values that are not finite"),
    ("a centre of another shape", centre(torch.zeros(3, 8, 8)), "the centre is torch.float32 of shape (3, 8"),
    ("a centre of bytes", centre(torch.zeros(1, 8, 8).byte()), "the centre is torch.uint8"),
    ("an unknown key", described(colour=1), "colour: Extra inputs are not permitted"),
    ("another format", described(format="fedpdiff-denoiser/9"), "of format 'fedpdiff-denoiser/9'"),
    ("a radius of NaN", described(clip=NAN), "clip: Input should be a finite number"),
    ("an infinite radius", described(clip=INF), "clip: Input should be a finite number"),
    ("steps beyond reason", described(diffusion_steps=10**13), "diffusion_steps: Input should be less"),
    ("levels that are not there", described(t0=1001), "t0 = 1001"),
    ("another schedule", described(schedule="evil"), "schedule = 'evil'"),
    ("three channels", described(image_shape=[3, 8, 8]), "not torch.float32 of [3, 8, 8]"),
    ("another number of classes", described(class_names=["cat"]), "but denoiser.json says 1 and 1"),
    ("brackets without end", text("denoiser.json", "[" * 10**5), "RecursionError"),
    ("a description that is a list", text("denoiser.json", "[]"), "is no denoiser's"),
    ("a description that is no text", data(lambda _: b"\xff\xfe", "denoiser.json"), "UnicodeDecodeError"),
    ("another model", network(_class_name="AutoencoderKL"), "does not describe a UNet2DModel"),
    ("a network that is a list", text("network/config.json", "[]"), "does not describe a UNet2DModel"),
    ("a network of brackets", text("network/config.json", "[" * 10**5), "RecursionError"),
    ("text for channels", network(in_channels="one"), "TypeError"),
    ("no blocks", network(block_out_channels=None), "TypeError"),
    ("channels beyond reason", network(block_out_channels=[2**20, 2**20]), "do not fit the network"),
    ("layers beyond reason", network(layers_per_block=10**12), "more layers than there are weights"),
    ("conditions beyond reason", network(num_class_embeds=10**15), "do not fit the network"),
    ("attention of no heads", network(attention_head_dim=0, down_block_types=ATTENTION), "ZeroDivisionError"),
]  # fmt: skip


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Denoiser]:
    return {"global": half("continued"), "personal": half("personal")}


@pytest.fixture
def folder(halves: dict[str, Denoiser], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, denoiser in halves.items():
        denoiser.save_pretrained(tmp_path / "run" / name)
    return tmp_path / "run"


@pytest.mark.parametrize("which", ["global", "personal"])
@pytest.mark.parametrize(("spoil", "words"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_a_model_is_refused_with_its_cause(spoil: Spoil, words: str, which: str, folder: Path) -> None:
    spoil(folder / which)
    with pytest.raises(DataError) as error:
        PFDMPipeline.from_pretrained(folder / "global", folder / "personal")
    told = str(error.value)
    assert words in told and str(folder / which) in told
    assert len(told) < 600 and len(told.splitlines()) == 1
    assert not Path(TRACE).exists()


def test_what_was_spoiled_was_right(folder: Path) -> None:
    PFDMPipeline.from_pretrained(folder / "global", folder / "personal")


def test_the_halves_must_belong_together(folder: Path) -> None:
    described(t0=500)(folder / "global")
    with pytest.raises(DataError, match="do not belong together: t0 is 500 and 600"):
        PFDMPipeline.from_pretrained(folder / "global", folder / "personal")
    with pytest.raises(DataError, match="must hold a global half"):
        PFDMPipeline.from_pretrained(folder / "personal", folder / "global")


# -- the inbox -----------------------------------------------------------------------------------------------


def archive(path: Path, data: bytes, squeeze: bool = False, parts: int = 1) -> None:
    kind = zipfile.ZIP_DEFLATED if squeeze else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as file:
        for number in range(parts):
            file.writestr(f"{number}.npy", data)


ARCHIVES: list[tuple[str, Spoil, str]] = [
    ("a bomb", lambda path: archive(path, header("|u1", (2**24,), bytes(2**24)), squeeze=True), "compressed"),
    ("a thousand arrays", lambda path: archive(path, header("|u1", (1,), b"1"), parts=1000), "more than 100"),
    ("an array of nothing", lambda path: archive(path, header("|u1", (2**50,))), "is damaged"),
    ("a pickle", lambda path: archive(path, header("|O", (1,), pickle.dumps(Executed(TRACE)))), "is damaged"),
    ("a bare pickle", lambda path: path.write_bytes(pickle.dumps(Executed(TRACE))) and None, "is damaged"),
    ("a cut archive", lambda path: path.write_bytes(path.read_bytes()[:-30]) and None, "is damaged"),
    ("no archive", lambda path: path.write_bytes(b"") and None, "is damaged"),
]


@pytest.mark.parametrize(
    ("spoil", "words"), [case[1:] for case in ARCHIVES], ids=[case[0] for case in ARCHIVES]
)
def test_a_spoiled_inbox_is_refused(
    spoil: Spoil, words: str, halves: dict[str, Denoiser], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    features = FeatureNetwork(1, 8, 2).to_arrays()
    fill_inbox(tmp_path / "inbox", halves["global"], features)
    received = read_inbox(tmp_path / "inbox")
    assert {name for name in received if name.startswith("features/")} == {f"features/{n}" for n in features}
    spoil(tmp_path / "inbox" / "features.npz")
    with pytest.raises(DataError, match=words):
        read_inbox(tmp_path / "inbox")
    assert not Path(TRACE).exists()


@pytest.mark.parametrize("numbers", [[1, 8, 10**12], [1, 2**62, 2], [10**9, 8, 2], [1, -8, 2], [1, 8, 0]])
def test_a_feature_network_of_any_size_is_refused(numbers: list[int]) -> None:
    arrays = FeatureNetwork(1, 8, 2).to_arrays() | {"architecture": np.array(numbers)}
    with pytest.raises(FedpdiffError):
        FeatureNetwork.from_arrays(arrays)
