"""``fedpdiff policy`` and ``fedpdiff ledger``: what a site allows, and what it has spent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpdiff.cli import main
from fedpdiff.privacy import making
from fedpdiff.privacy.gaussian_noise import SecureNoise, SeededNoise
from fedpdiff.privacy.noise_health import HealthReport
from fedpdiff.privacy.policy import Policy
from fedpdiff.privacy.private import PrivateImages
from fedpdiff.privacy.release import ReleaseRequest, ReleaseStore
from fedpdiff.schedule import NoiseSchedule
from fedpdiff.types import LabelledImages


def _release(folder: Path, noise: str = "secure", persons: list[str] | None = None) -> None:
    """Release four grey images at t0 = 690 with C = 10: epsilon 8.774 each."""
    alpha_bar = float(NoiseSchedule("linear", 1000).alpha_bar[690])
    centre = np.zeros((1, 4, 4), np.float32)
    request = ReleaseRequest(690, alpha_bar, 10.0, centre, "linear", 1000, 1e-5, noise)  # type: ignore[arg-type]
    images = LabelledImages(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    private = PrivateImages(images, [hashlib.sha256(bytes([n])).digest() for n in range(4)], persons)
    source = SecureNoise() if noise == "secure" else SeededNoise(1)
    ReleaseStore(folder, Policy.simulation(100.0, 1e-5)).get_or_make(request, private, source)


def test_the_printed_policy_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "--images", "60000"]) == 0
    (tmp_path / "policy.toml").write_text(capsys.readouterr().out)
    assert Policy.load(tmp_path / "policy.toml").delta == 1.66e-6
    assert main(["policy", "--images", "0"]) == 2
    assert "--images is 0" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["", "release", "state/release"])
def test_a_ledger_in_sum(inside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _release(tmp_path / inside, persons=["ann", "bob", "ann", "cat"])
    assert main(["ledger", str(tmp_path)]) == 0
    lines = [line.split(maxsplit=-1) for line in capsys.readouterr().out.splitlines()]
    text = "\n".join(" ".join(line) for line in lines)
    assert "images ever noised 4" in text and "most noisings of one image 1" in text
    assert "spent on that image mu 1.7978, epsilon 8.774 at delta 1e-05" in text
    assert "most images of one person 2" in text
    assert "most spent on one person mu 2.5425, epsilon 13.4" in text
    assert "NOT PRIVATE" not in text


def test_seeded_noise_is_called_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _release(tmp_path, "seeded")
    main(["ledger", str(tmp_path)])
    output = capsys.readouterr().out
    assert output.startswith("NOT PRIVATE") and "person" not in output


def test_a_failure_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "check_noise", lambda *_: HealthReport({"used twice": 0.0}))
    with pytest.raises(Exception, match="health check"):
        _release(tmp_path)
    monkeypatch.undo()
    main(["ledger", str(tmp_path)])
    assert "1 not accepted" in capsys.readouterr().out
    assert main(["ledger", str(tmp_path), "--accept-failed-noise"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("accepted: 1 ") and "0 not accepted" in output
    _release(tmp_path)
    main(["ledger", str(tmp_path)])
    assert "most noisings of one image  2" in capsys.readouterr().out


def test_no_ledger_is_made_by_looking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", str(tmp_path / "nothing")]) == 2
    assert "has no ledger.sqlite" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
