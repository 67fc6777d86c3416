"""What another version wrote is refused in words that name its format, never misread or ignored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedpdiff.cli import main
from fedpdiff.config import RunConfig
from fedpdiff.deployment.coordinator import Coordinator
from fedpdiff.deployment.site import Site
from fedpdiff.errors import ConfigError, MessageError, RunError
from fedpdiff.evidence.artefacts import read_artefacts
from fedpdiff.federation.protocol import Instruction, PhaseReport, ReleaseInstruction
from fedpdiff.federation.retention import forget
from fedpdiff.privacy.certificate_check import check_certificate
from fedpdiff.privacy.policy import Policy, policy_template
from fedpdiff.privacy.verify import verify_release
from fedpdiff.publishing.gate import publishable
from fedpdiff.records import pack, unpack
from fedpdiff.runfolder import RunFolder

Edit = Callable[..., None]


def test_a_run_folder_of_another_format_is_refused_everywhere(
    run: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((run / "format.json").read_text()) == {"format": "fedpdiff-run/1"}
    edit(run / "format.json", format="fedpdiff-run/9")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    commands = [["report", str(run)], ["publish", str(run)], ["attack", str(run)]]
    commands += [["verify", str(run / below)] for below in (".", "server", "server/spool/north")]
    commands += [["verify", str(run.parent)]]
    for command in commands:
        capsys.readouterr()
        assert main(command) == 2, command
        assert "fedpdiff-run/9" in (said := capsys.readouterr().err) and "this version reads" in said, command
    for read in (read_artefacts, publishable, lambda folder: forget([folder], "north")):
        with pytest.raises(RunError, match="fedpdiff-run/9"):
            read(run)
    with pytest.raises(RunError, match="fedpdiff-run/9"):  # nor is it written over by another run
        RunFolder(run).prepare(RunConfig())
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_damaged_format_is_no_format(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "format.json").write_text("{}")
    assert main(["report", str(run)]) == 2
    assert "format.json is damaged" in capsys.readouterr().err


def test_a_run_from_before_formats_were_marked_is_read(run: Path) -> None:
    (run / "format.json").unlink()
    assert main(["report", str(run)]) == 0
    assert main(["verify", str(run)]) == 0


def test_results_of_another_format(run: Path, edit: Edit, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run / "results.json", format_version=9)
    for command in ("report", "publish"):
        assert main([command, str(run)]) == 2
        assert "is not of results format 1" in capsys.readouterr().err


def test_a_certificate_of_another_format(run: Path, edit: Edit, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "server" / "spool" / "north" / "certificate.json"
    edit(path, format="fedpdiff-certificate/9", another="thing")
    said = "it has the format 'fedpdiff-certificate/9', but this version reads 'fedpdiff-certificate/1'"
    problems = check_certificate(json.loads(path.read_text()))
    assert len(problems) == 1 and said in problems[0]
    assert main(["verify", str(run)]) == 1
    assert said in capsys.readouterr().out


def test_a_release_manifest_of_another_format(original_run: Path, edit: Edit, tmp_path: Path) -> None:
    store = Path(shutil.copytree(original_run.parent / "north-store", tmp_path / "store"))
    assert verify_release(store / "outbox") == []
    edit(store / "outbox" / "manifest.json", format="fedpdiff-release/9")
    (problem,) = verify_release(store / "outbox")
    assert "fedpdiff-release/9" in problem and "this version reads" in problem


@pytest.mark.parametrize("model", [Instruction, ReleaseInstruction, PhaseReport])
def test_a_message_of_another_version(model: type) -> None:
    """Of all that differs, the version is named."""
    content = RecordDict({"message": ConfigRecord({"protocol": "fedpdiff/2", "new": 1})})
    with pytest.raises(
        MessageError, match="speaks 'fedpdiff/2', this one 'fedpdiff/1'; install the same"
    ) as caught:
        unpack(content, model)
    assert "new" not in str(caught.value)


def test_every_message_says_its_version() -> None:
    for message in (
        Instruction(fingerprint="0" * 64),
        PhaseReport(site="north", seconds=1.0, gradient_steps=0),
    ):
        assert pack(message)["message"]["protocol"] == "fedpdiff/1"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    coordinator, site = tmp_path / "coordinator", tmp_path / "site"
    assert main(["coordinator", "init", str(coordinator), "--host", "localhost"]) == 0
    given = ["--coordinator", "localhost:8443", "--ca", str(coordinator / "ca.crt"), "--data", "/images"]
    assert main(["site", "init", str(site), *given]) == 0
    return coordinator, site


def test_settings_files(folders: tuple[Path, Path]) -> None:
    coordinator, site = folders
    cases: list[tuple[Path, str, Callable[[], object]]] = [
        (coordinator / "coordinator.toml", "coordinator", lambda: Coordinator.load(coordinator)),
        (site / "site.toml", "site", lambda: Site.load(site)),
        (site / "policy.toml", "policy", lambda: Policy.load(site / "policy.toml")),
    ]
    for path, kind, load in cases:
        load()
        line, text = f'format = "fedpdiff-{kind}/1"\n', path.read_text()
        assert line in text
        path.write_text(text.replace(line, ""))  # made before formats were marked
        load()
        path.write_text(text.replace(line, f'format = "fedpdiff-{kind}/9"\n'))
        with pytest.raises(ConfigError, match=f"fedpdiff-{kind}/9.*fedpdiff-{kind}/1"):
            load()


def test_the_policy_that_is_printed_has_its_format() -> None:
    assert 'format = "fedpdiff-policy/1"' in policy_template(100)
