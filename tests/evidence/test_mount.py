"""All attacks on a whole run: what is attacked, written and printed, and what a failed control silences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedpdiff.attack_results import RECOVERED_FILE, AttackResults
from fedpdiff.cli import main
from fedpdiff.errors import ConfigError
from fedpdiff.evidence import controls, mount
from fedpdiff.evidence.mount import Effort, mount_attacks

FIVE = ["PIA", "PIAN", "SecMI", "loss threshold", "SimA"]


@pytest.mark.usefixtures("little_effort", "working_controls")
def test_the_command_attacks_everything(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["attack", str(finished_run), "--images", "40", "--clients", "1", "--device", "cpu"])
    found = AttackResults.read(finished_run)
    assert found is not None and found.controls_work and found.verdict
    assert (status, found.exceeded) == (0, [])
    targets = [(row.target, row.client, row.attack, row.protected) for row in found.membership]
    assert targets == [
        ("uploads", None, "Bayes score", True),
        *(("global model", None, attack, True) for attack in FIVE),
        ("global model", None, "loss threshold, with the noise of t0", True),
        *(("personal model", "client-0", attack, False) for attack in FIVE),
    ]
    assert all((row.auc_cap is not None) == row.protected for row in found.membership)
    assert all(entry.tpr is None for row in found.membership for entry in row.at_low_fpr)  # too few images
    assert {row.t0: row.uploads for row in found.reidentification}[400] == "sent"
    levels = sorted({row.t0 for row in found.reidentification})
    assert levels == [100, 300, 400, 600]  # the grid, the control's and the run's own
    assert (
        sorted({row.t0 for row in found.recovery}) == sorted({row.t0 for row in found.attributes}) == levels
    )
    attackers = {(row.attacker, row.attack) for row in found.recovery if row.t0 == 400}
    assert {attacker for attacker, _ in attackers} == {
        "public images",
        "model of public images",
        "another client's model",
        "global model",
    }
    assert {attack for _, attack in attackers} == {
        *("Wiener", "Tweedie", "DDIM", "posterior mean", "MAP", "its view")
    }
    assert {row.reader for row in found.attributes if row.t0 == 300} == {"Gaussian model", "network"}
    assert {row.source for row in found.epsilon} == {
        "audit of the release code",
        "membership attack on the uploads",
    }
    assert {(row.target, row.classes, row.space) for row in found.memorisation} == {
        (target, classes, space)
        for space in ("pixels", "features")
        for target in ("PFDM samples", "local-only samples")
        for classes in ("all", "minority")
    }
    with np.load(finished_run / RECOVERED_FILE) as pictures:
        assert pictures["recovered"].shape == pictures["uploads"].shape == (4, 8, 1, 8, 8)
        # The least noise shows the originals, the most does not.
        off = np.abs(pictures["recovered"] - pictures["originals"]).mean(axis=(1, 2, 3, 4))
        assert off[0] < off[-1]
    printed = capsys.readouterr().out
    for words in (*FIVE, "Verdict", "not meaningful", "Recovery score:", "sent", "guessing", "cap"):
        assert words in printed
    page = (finished_run / "report.html").read_text()
    assert "What attackers found" in page and "Whose upload is it?" in page
    assert page.count("<img") >= 4


@pytest.mark.usefixtures("little_effort")
def test_without_a_working_control_there_is_no_verdict(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "NEEDED_AUC", 1.0)  # above what anything reaches
    for name, nothing in (("attributes", []), ("copies", [])):  # none of it may be shown anyway
        monkeypatch.setattr(mount, name, lambda *_, nothing=nothing: nothing)
    assert main(["attack", str(finished_run), "--images", "20", "--clients", "1", "--device", "cpu"]) == 1
    printed, page = capsys.readouterr().out, (finished_run / "report.html").read_text()
    found = json.loads((finished_run / "attacks.json").read_text())
    assert found["verdict"] is None
    for text in (printed, page):
        assert "A control failed" in text and "FAILED" in text
        assert "Bayes score" not in text and "Whose upload" not in text
    assert "Verdict" not in printed
    assert not (finished_run / "figures" / "attack-roc.png").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("little_effort", "working_controls")
def test_a_nested_chain_without_order_and_with_one_client_is_attacked_too(
    run_anew: Callable[..., Path],
) -> None:
    folder = run_anew(
        chain="nested",
        personal_base="none",
        clients=1,
        min_clients=1,
        objective="noise",
        global_base="none",
        partitioner="iid",
        t0=290,
        hand_off_signal=0.0,
    )
    (folder / "client-0" / "state" / "release" / "secret").unlink()
    found = mount_attacks(folder, Effort(30, 3), "cpu")
    assert {row.uploads for row in found.reidentification} == {"made for the attack"}
    assert any("did not keep which upload is of which image" in note for note in found.notes)
    assert {row.target for row in found.membership} == {"uploads", "global model", "personal model"}
    assert "another client's model" not in {row.attacker for row in found.recovery}
    assert "t0 = 145" in next(c.what for c in found.controls if c.name == "low-noise release")
    assert {row.classes for row in found.memorisation} == {"all"}


@pytest.mark.parametrize("effort", [(19, 1), (20, 0)])
def test_too_little_effort_is_refused(effort: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least 20 and 1"):
        Effort(*effort)


def test_a_mistaken_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", str(tmp_path)]) == 2
    assert "no readable config.json" in capsys.readouterr().err
