"""The section on attacks: words and figures of what was found, silence where a control failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedpdiff.attack_results import (
    RECOVERED_FILE,
    AttackResults,
    Attribute,
    Control,
    Curve,
    Epsilon,
    Interval,
    LowFalsePositives,
    Membership,
    MemorisationRow,
    Recovery,
    Reidentification,
)
from fedpdiff.errors import RunError
from fedpdiff.report import attack_charts, page
from fedpdiff.report.attack_tables import all_tables, attack_tables
from fedpdiff.report.attack_words import attack_words
from fedpdiff.report.page import write_report

Build = Callable[..., Path]
LEVELS = {100: 400.0, 300: 60.0, 432: 30.0, 690: 3.0}


def interval(value: float) -> Interval:
    return Interval(value=value, low=max(0.0, value - 0.05), high=min(1.0, value + 0.05))


def membership(target: str, auc: float, **changes: Any) -> Membership:
    protected = target != "personal model"
    grid = np.linspace(0, 1, 30)
    fields: dict[str, Any] = {
        "target": target,
        "client": None if protected else "client-0",
        "protected": protected,
        "attack": "PIA",
        "setting": "level 5",
        "works": None if target == "uploads" else True,
        "members": 1200,
        "non_members": 1200,
        "auc": interval(auc),
        "auc_cap": 0.999 if protected else None,
        "balanced_accuracy": auc - 0.05,
        "balanced_accuracy_cap": 0.99 if protected else None,
        "at_low_fpr": [
            LowFalsePositives(fpr=0.01, tpr=interval(0.123), cap=0.9 if protected else None),
            LowFalsePositives(fpr=0.001, tpr=None),
        ],
        "curve": Curve(fpr=grid.tolist(), tpr=(grid**0.7).tolist()),
    }
    return Membership(**fields | changes)


def make_attacks(**changes: Any) -> AttackResults:
    common = {"uploads": "sent", "epsilon": 30.0}
    fields: dict[str, Any] = {
        "created": "2026-01-02T03:04:05+00:00",
        "software": "fedpdiff 0.1.0",
        "seconds": {"controls": 20.0},
        "privacy": {"t0": 432, "mu": 4.6, "epsilon": 30.0},
        "release_noise": "secure",
        "controls": [Control(name="overfitted", what="w", measured="AUC 0.99", needed="0.9", passed=True)],
        "verdict": ["No attack exceeded what the guarantee allows."],
        "exceeded": [],
        "membership": [
            membership("uploads", 0.55, attack="Bayes score", setting=""),
            membership("global model", 0.52),
            membership("personal model", 0.71),
            membership("personal model", 0.93, works=False, attack="SecMI"),
        ],
        "memorisation": [
            MemorisationRow(
                target="PFDM samples",
                client="client-0",
                classes="minority",
                space="pixels",
                generated=60,
                references=40,
                closer_to_train=interval(0.83),
                closer_p_value=0.001,
                rank_p_value=0.2,
                carlini=0.2,
                carlini_held_out=0.1,
                nearest_ratio=0.0,
                nearest_ratio_held_out=0.01,
            )
        ],
        "reidentification": [
            Reidentification(
                t0=t0,
                gallery=gallery,
                candidates=100,
                rate=interval(0.104),
                chance=0.01,
                cap=0.289,
                epsilon=epsilon,
                uploads="sent",
            )
            for t0, epsilon in LEVELS.items()
            for gallery in ("all 100", "same class")
        ],
        "recovery": [
            Recovery(
                t0=t0,
                attacker="global model",
                attack="its view",
                images=64,
                score=1.08,
                standard_error=0.02,
                trusted=0.82,
                unclipped=0.84,
                psnr=15.2,
                ssim=0.47,
                reidentified=interval(0.2),
                chance=0.02,
                **common,
            )
            for t0 in LEVELS
        ],
        "attributes": [
            Attribute(
                t0=t0,
                attribute=name,
                values=10,
                reader="network",
                accuracy=interval(0.43),
                chance=0.12,
                cap=0.876,
                **common,
            )
            for t0 in LEVELS
            for name in ("class", "colour")
        ],
        "epsilon": [
            Epsilon(source="audit", assumption="a", theory=30, low=27.0, high=35.0, confidence=0.999),
            Epsilon(source="attack", assumption="b", theory=30, low=0.5, high=None, confidence=0.999),
            Epsilon(source="attack", assumption="c", theory=30, low=None, high=None, confidence=0.999),
        ],
        "notes": ["Non-members are images <b>of the same</b> split."],
    }
    return AttackResults(**fields | changes)


def write_pictures(folder: Path, channels: int = 1) -> None:
    path = folder / RECOVERED_FILE
    path.parent.mkdir(parents=True)
    rng, shape = np.random.default_rng(0), (6, channels, 8, 8)
    rows = rng.uniform(-1, 1, (len(LEVELS), *shape)).astype(np.float16)
    np.savez(path, levels=list(LEVELS), attacks=["Tweedie, global model"] * len(LEVELS), originals=rows[0],
             guesses=rows[1], uploads=3 * rows, recovered=rows)  # fmt: skip


def test_the_page_answers_what_a_reader_asks(run_folder: Build) -> None:
    folder = run_folder()
    before = write_report(folder).read_text()
    assert "What attackers found" not in before
    make_attacks().write(folder)
    write_pictures(folder)
    text = write_report(folder).read_text()
    start, end = text.index("What attackers found"), text.index("How the run went")
    section = text[start:end]
    assert "None found more than the guarantee allows" in section
    for found, guessing, allowed in (
        ("10.4 % right", "1.0 %", "28.9 %"),  # whose upload
        ("50.0 % right", "50.0 %", "99.0 %"),  # in the uploads
        ("66.0 % right", "50.0 %", "no limit"),  # personal model, the attack that works
        ("18 % of the difference to the true image removed", "0 %", "–"),
        ("43.0 % right", "12.0 %", "87.6 %"),  # class
        ("83.0 %", "50.0 %", "no limit"),  # copies
    ):
        at = section.index(f'<td class="n">{found}</td>')
        row = section[at : section.index("</tr>", at)]
        assert guessing in row and allowed in row
    assert section.count("data:image/png;base64") == 4
    assert text.index("Not protected:") < start  # the list that the section refers to
    assert "<b>of the same</b>" not in section and "&lt;b&gt;of the same" in section


def test_what_lies_above_a_cap_is_an_alarm(run_folder: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "draw_figures", lambda run: [])
    folder = run_folder()
    make_attacks(exceeded=["PIA on the global model: AUC 0.9, the cap is 0.6"]).write(folder)
    text = write_report(folder).read_text()
    assert 'role="alert">Above the cap beyond chance: PIA on the global model' in text
    assert "None found more" not in text


def test_a_failed_control_is_all_that_is_shown(run_folder: Build) -> None:
    folder = run_folder()
    failed = Control(name="overfitted", what="w", measured="AUC 0.6", needed="0.9", passed=False)
    attacks = make_attacks(controls=[failed], verdict=None)
    attacks.write(folder)
    write_pictures(folder)
    text = write_report(folder).read_text()
    section = text[text.index("What attackers found") : text.index("How the run went")]
    for words in (section, attack_tables(attacks)):
        assert "A control failed" in words and "NO: FAILED" in words
        assert "Bayes score" not in words and "10.4 %" not in words
    assert "data:image" not in section


def test_tables_say_when_a_number_means_nothing() -> None:
    text = attack_tables(make_attacks())
    membership_lines = [line for line in text.splitlines() if line.startswith(("| uploads", "| personal"))]
    assert all("not meaningful" in line and "0.123 [" in line for line in membership_lines)
    assert "0.123 [0.073, 0.173] (0.900)" in membership_lines[0]  # with the cap
    assert "SecMI, level 5 (its control failed)" in text
    assert "personal model of client-0 (not protected)" in text
    assert "432 (this run)" in text and "nothing concluded" in text and "at least 0.500" in text
    assert "Recovery score: squared error" in text
    titles = [table.title for table in all_tables(make_attacks(recovery=[], attributes=[]))]
    assert not any("Rebuilding" in title or "show?" in title for title in titles)


def test_no_attacks_no_words() -> None:
    assert attack_words(None) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_figures_are_drawn(tmp_path: Path, channels: int) -> None:
    write_pictures(tmp_path, channels)
    attacks = make_attacks()
    drawn = [
        attack_charts.roc(attacks, tmp_path / "roc.png"),
        attack_charts.levels(attacks, tmp_path / "levels.png"),
        attack_charts.epsilon(attacks, tmp_path / "epsilon.png"),
        attack_charts.recovered(attacks, tmp_path, tmp_path / "recovered.png"),
    ]
    for path in drawn:
        assert path is not None
        with Image.open(path) as picture:
            assert picture.width > 900
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_nothing_is_drawn_from_nothing(tmp_path: Path) -> None:
    empty = make_attacks(membership=[], reidentification=[], epsilon=[])
    for draw in (attack_charts.roc, attack_charts.levels, attack_charts.epsilon):
        assert draw(empty, tmp_path / "none.png") is None
    assert attack_charts.recovered(empty, tmp_path, tmp_path / "none.png") is None
    (tmp_path / "attacks").mkdir()
    (tmp_path / RECOVERED_FILE).write_bytes(b"no array")
    with pytest.raises(RunError, match="is damaged"):
        attack_charts.recovered(empty, tmp_path, tmp_path / "none.png")


def test_the_run_s_level_is_among_those_pictured() -> None:
    levels = [100, 200, 300, 380, 400, 500, 600, 700, 800]
    chosen = attack_charts._some(levels, 380)
    assert len(chosen) == 5 and 3 in chosen and chosen == sorted(chosen)
    assert {0, 8} < set(chosen)
