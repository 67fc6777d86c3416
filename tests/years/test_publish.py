"""What is published is certified, complete and usable, and tells nothing about sites and machines."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from fedpdiff import PFDMPipeline
from fedpdiff.cli import main
from fedpdiff.deletions import delete_upload
from fedpdiff.diffusion.denoiser import Denoiser
from fedpdiff.diffusion.denoiser_config import DenoiserConfig
from fedpdiff.diffusion.networks import build_network
from fedpdiff.privacy.certificate_check import check_certificate
from fedpdiff.privacy.certificate_words import NOT_PROTECTED

Edit = Callable[..., None]


@pytest.fixture
def published(run: Path) -> Path:
    assert main(["publish", str(run), "--licence", "Apache-2.0"]) == 0
    return run / "published"


def test_everything_is_there(published: Path, run: Path) -> None:
    names = {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "certificates/party-1.json",
        "certificates/party-2.json",
        "centre.safetensors",
        "classes.json",
        "denoiser.json",
        "network/config.json",
        "network/diffusion_pytorch_model.safetensors",
        "publication.json",
    }
    assert json.loads((published / "classes.json").read_text()) == ["cat", "dog", "emu"]
    stated = json.loads((published / "publication.json").read_text())
    assert stated["format"] == "fedpdiff-publication/1"
    assert set(stated["sha256"]) == names - {"publication.json"}
    for name, sha256 in stated["sha256"].items():
        assert hashlib.sha256((published / name).read_bytes()).hexdigest() == sha256
    certificates = [json.loads(path.read_text()) for path in sorted((published / "certificates").iterdir())]
    kept = [json.loads(p.read_text()) for p in (run / "server/spool").glob("*/certificate.json")]
    assert sorted(certificates, key=str) == sorted(kept, key=str)
    assert all(check_certificate(certificate) == [] for certificate in certificates)


def test_the_card(published: Path) -> None:
    card = ModelCard((published / "README.md").read_text())
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "fedpdiff")
    assert "arxiv:2504.00952" in card.data.tags
    certificate = json.loads((published / "certificates/party-1.json").read_text())
    assert f"> 1. {certificate['statement']}" in card.text
    assert certificate["adjacency"] in card.text and certificate["trust"] in card.text
    assert all(line in card.text for line in NOT_PROTECTED)
    assert "24 noisy copies from 2 parties" in card.text and "3: cat, dog, emu" in card.text
    assert f"| party-1.json | 12 | {certificate['epsilon']:.3f} | 1e-05 |" in card.text
    assert "{" not in card.text.replace("{number}", "")  # every gap is filled


def test_the_model_is_the_runs_and_can_be_used(published: Path, run: Path, tmp_path: Path) -> None:
    half, own = Denoiser.from_pretrained(published), Denoiser.from_pretrained(run / "server" / "global")
    assert half.config == own.config and torch.equal(half.centre, own.centre)
    for name, tensor in own.network.state_dict().items():
        assert torch.equal(half.network.state_dict()[name], tensor)
    config = own.config.model_dump() | {"kind": "personal", "objective": "noise", "hidden_label": False}
    personal = DenoiserConfig.model_validate(config)
    network = build_network("tiny", (1, 8, 8), personal.conditions, seed=1)
    Denoiser(network, personal, torch.zeros(1, 8, 8)).save_pretrained(tmp_path / "personal")
    pipe = PFDMPipeline.from_pretrained(published, tmp_path / "personal")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(class_labels=["cat", "emu"], num_inference_steps=4, output_type="np").images
    assert images.shape == (2, 8, 8, 1) and np.isfinite(images).all()


def test_nothing_private_or_of_this_machine_is_in_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name in ((socket, "gethostname"), (platform, "node"), (socket, "getfqdn")):
        monkeypatch.setattr(owner, name, lambda: "ward-7-server")
    assert main(["publish", str(run)]) == 0
    published = run / "published"
    sites = ["north", "south", "uni-clinic", "run-1"]
    machine = [
        str(tmp_path),
        f"{Path.home()}/",
        "ward-7-server",
        platform.platform(),
        "server/global",
        "_name_or",
    ]
    for path in published.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert [word for word in [*sites, *machine] if word.encode() in content] == [], path
    files = [path.read_bytes() for path in run.rglob("*") if published not in path.parents and path.is_file()]
    assert all(
        any(site.encode() in content for content in files) for site in sites[:3]
    )  # there was something


def test_how_the_parties_are_numbered_says_nothing(published: Path) -> None:
    certificates = [json.loads(path.read_text()) for path in sorted((published / "certificates").iterdir())]
    assert [c["sha256"] for c in certificates] == sorted(c["sha256"] for c in certificates)


def refused(run: Path, capsys: pytest.CaptureFixture[str], *said: str) -> None:
    capsys.readouterr()
    assert main(["publish", str(run), "--out", str(run.parent / "out")]) == 2
    message = capsys.readouterr().err
    assert all(text in message for text in said), message
    assert not [path for path in run.parent.iterdir() if path.name.startswith(("out", ".out"))]


def test_without_valid_certificates_nothing_is_published(
    run: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = run / "server" / "spool" / "south"
    shard = next(spool.glob("shard-*"))
    whole = {path: path.read_bytes() for path in spool.iterdir()}

    def again() -> None:
        for path, content in whole.items():
            path.write_bytes(content)

    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    refused(run, capsys, "the upload of south has no valid certificate")
    again()
    edit(spool / "certificate.json", epsilon=0.1)
    refused(run, capsys, "the upload of south", "epsilon is 0.1")
    again()
    (spool / "certificate.json").unlink()
    refused(run, capsys, "the upload of south", "certificate.json is missing")
    again()
    shutil.copy(run / "server/spool/north/certificate.json", spool / "certificate.json")
    refused(run, capsys, "the upload of south", "other bytes than its certificate")
    again()
    shutil.rmtree(spool)
    refused(run, capsys, "the upload of south has no valid certificate")


def test_seeded_noise_is_not_published(
    new_run: Callable[..., Path], edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(noise="seeded")
    refused(run, capsys, "NOT PRIVATE", "seeded")
    edit(run / "results.json", release_noise="secure")  # a lie in one place does not help
    refused(run, capsys, "the upload of north has no valid certificate")


def test_an_unfinished_run_is_not_published(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(run / "server" / "global", run / "server" / "away")
    refused(run, capsys, "holds no global model")
    (run / "results.json").unlink()
    refused(run, capsys, "has no results.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "personal", "objective": "noise"}, "never publish it"),
        ({"release_noise": "seeded"}, "NOT PRIVATE"),
        ({"t0": 600}, "its t0 is 600"),
        ({"clip": 9.0}, "its clip is 9.0"),
        ({"class_names": ["a", "b", "c"]}, "other classes"),
    ],
)
def test_another_model_than_the_uploads_is_not_published(
    changes: dict[str, object], said: str, run: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run / "server" / "global" / "denoiser.json", **changes)
    refused(run, capsys, said)


def test_a_withdrawn_site_stops_it_and_an_expired_upload_does_not(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spools = run / "server" / "spool"
    delete_upload(spools / "north", "north", "expired", verified=True)
    assert main(["publish", str(run)]) == 0
    assert "1 of 2: compared earlier, deleted since" in (run / "published/README.md").read_text()
    delete_upload(spools / "south", "south", "withdrawn", verified=True)
    refused(run, capsys, "south has withdrawn")


def test_an_upload_deleted_before_it_was_verified_stops_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    delete_upload(run / "server/spool/north", "north", "expired", verified=False)
    refused(run, capsys, "north", "was not found to fit its certificate")


def test_nothing_is_overwritten(published: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", str(run)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_licences(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "terms.txt"
    text.write_text("For research only.\n")
    for given, head in (([], "not-stated"), (["--licence", str(text)], "own-text")):
        out = tmp_path / head
        assert main(["publish", str(run), "--out", str(out), *given]) == 0
        card = ModelCard((out / "README.md").read_text())
        assert (card.data.license, card.data.license_name) == ("other", head)
    assert (tmp_path / "own-text" / "LICENSE").read_text() == "For research only.\n"
    assert main(["publish", str(run), "--out", str(tmp_path / "x"), "--licence", "no such file"]) == 2
    assert "must be an identifier such as apache-2.0" in capsys.readouterr().err
