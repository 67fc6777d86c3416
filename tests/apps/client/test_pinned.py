"""A site that pins its code: which bundles it refuses, and that what it runs is the installed code.

That shipped code never executes is tested with real processes in ``tests/deployment/test_real_sites.py``.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus
from hypothesis import given, settings
from hypothesis import strategies as st

import client_app.app
from client_app import pinned_clientapp, pinned_superexec
from client_app.pinned_clientapp import check_bundle, installed_app, take_over
from client_app.pinned_superexec import PinnedExecutor, check_installed
from fedpdiff.errors import ConfigError, MessageError
from fedpdiff.fingerprint import bundle_fingerprint, code_fingerprint

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bundle that Flower builds of this app and ships."""
    app = tmp_path_factory.mktemp("checkouts") / "fedpdiff"
    app.mkdir()
    for package in ("fedpdiff", "client_app", "server_app"):  # not the environment beside them: slow to walk
        shutil.copytree(ROOT / package, app / package)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, app)
    return build_fab_from_disk(app)


def changed(bundle: bytes, name: str, content: bytes, replace: bool = True) -> bytes:
    """Return the bundle with one more or another file."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(bundle)) as old,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            if entry != name or not replace:
                new.writestr(entry, old.read(entry))
        new.writestr(name, content)
    return target.getvalue()


def test_the_shipped_bundle_has_the_fingerprint_of_the_code(bundle: bytes) -> None:
    assert bundle_fingerprint(bundle) == code_fingerprint()
    check_bundle(code_fingerprint(), bundle)


def test_other_code_is_refused(bundle: bytes) -> None:
    pin = code_fingerprint()
    for name in ("client_app/app.py", "client_app/more.py", "fedpdiff/rng.py", "server_app/x/y.py"):
        with pytest.raises(MessageError, match="nothing of it was run"):
            check_bundle(pin, changed(bundle, name, b"x = 1\n"))
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = changed(bundle, "client_app/app.py", b"x = 1\n", replace=False)
    with pytest.raises(MessageError, match="twice"):
        check_bundle(pin, twice)
    with pytest.raises(MessageError, match="more than 32 MiB"):
        check_bundle(pin, changed(bundle, "client_app/app.py", b"#" * 2**25))  # 32 KiB as a zip file


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_bundle_is_refused_in_words(bundle: bytes, data: st.DataObject) -> None:
    """Whatever happened to its bytes: refused, or (bytes that mean nothing to the code) the same code."""
    cut = data.draw(st.integers(0, len(bundle)))
    flips = data.draw(st.lists(st.tuples(st.integers(0, len(bundle) - 1), st.integers(1, 255)), max_size=4))
    damaged = bytearray(bundle)
    for place, flip in flips:
        damaged[place] ^= flip
    try:
        check_bundle(code_fingerprint(), bytes(damaged[:cut]))
    except MessageError:
        return
    assert bundle_fingerprint(bytes(damaged[:cut])) == code_fingerprint()


def test_the_installed_app_runs_in_place_of_the_shipped_one(bundle: bytes) -> None:
    flower = ModuleType("run_clientapp")
    names = ("install_from_fab", "install_app_dependencies", "get_load_client_app_fn")
    for name in names:
        setattr(flower, name, None)
    take_over(flower, code_fingerprint())
    flower.install_from_fab(bundle, skip_prompt=True)
    load = flower.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    assert load("fedpdiff/fedpdiff", "0.1.0", "00") is client_app.app.app
    with pytest.raises(MessageError, match="nothing of it was run"):
        flower.install_from_fab(changed(bundle, "client_app/app.py", b""), skip_prompt=True)
    with pytest.raises(ConfigError, match="installs nothing"):
        flower.install_app_dependencies("anywhere", launch_id="x")
    with pytest.raises(ConfigError, match="has no install_from_fab"):
        take_over(ModuleType("another flower"), code_fingerprint())


def test_flower_has_the_steps_that_are_replaced() -> None:
    from importlib import import_module

    flower = import_module("flwr.supernode.runtime.run_clientapp")
    for name in ("install_from_fab", "install_app_dependencies", "get_load_client_app_fn"):
        assert callable(getattr(flower, name))
    assert callable(import_module("flwr.supercore.superexec.run_superexec").get_executor)


def test_another_package_of_that_name_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = ModuleType("client_app.app")
    other.__file__ = str(tmp_path / "client_app" / "app.py")
    monkeypatch.setitem(sys.modules, "client_app.app", other)
    with pytest.raises(ConfigError, match="another package"):
        installed_app()


def test_only_client_apps_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(pinned_superexec.subprocess, "Popen", started.append)
    executor = PinnedExecutor("f" * 64)
    assert executor.get_eligible_capacity(set(TaskType)) == ({TaskType.CLIENT_APP}, set())
    for kind in TaskType:
        spec = ExecutionSpec(kind, "127.0.0.1:1", "token", False, "/ca.crt", True, 7, False, 1)
        accepted = executor.launch(spec).status == LaunchResultStatus.ACCEPTED
        assert accepted == (kind == TaskType.CLIENT_APP)
    (command,) = started
    assert command[1:5] == ["-P", "-m", pinned_clientapp.__name__, "f" * 64]
    assert not any("dependency" in part for part in command)  # asked for above; never passed on


def test_the_installed_code_must_be_the_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed(code_fingerprint())
    with pytest.raises(ConfigError, match="is not that of the code installed here"):
        check_installed("0" * 64)
    command = [sys.executable, "-P", "-m", pinned_superexec.__name__, "0" * 64, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 2 and done.stderr.startswith("start-clientapp: code-fingerprint 000000000000")
    monkeypatch.setattr(pinned_superexec, "version", lambda _: "1.42.0")
    with pytest.raises(ConfigError, match=r"flwr 1\.42\.0"):
        check_installed(code_fingerprint())
