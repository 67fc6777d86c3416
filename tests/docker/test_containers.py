"""Every container's command with its mounts, user, environment and network, from ``init`` to a report."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fedpdiff.results import Results
from fedpdiff.simulation.launcher import to_toml

ROOT = Path(__file__).parents[2]
OWNER = 10001
PROGRAMS = {"nginx": "nginx-light", "bwrap": "bubblewrap", "curl": "curl", "nsenter": "util-linux"}
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
SHORT = {
    "personal-steps": 2,
    "global-steps": 2,
    "batch-size": 8,
    "warmup-steps": 0,
    "global-sampling-steps": 2,
    "personal-sampling-steps": 2,
    "samples-per-class": 2,
    "device": "cpu",
    "epsilon": 8.0,  # the sites' policies allow 10
    "run-dir": "/runs/run-1",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give a sandbox another user and its mounts"),
    pytest.mark.skipif(
        bool(MISSING), reason=f"apt-get install {' '.join(PROGRAMS[name] for name in MISSING)}"
    ),
]


def folder(path: Path) -> Path:
    """Make a folder as the guide says: the containers' user owns it."""
    path.mkdir()
    os.chown(path, OWNER, OWNER)
    return path


def hand_over(source: Path, target: Path) -> None:
    """Bring a file to the other side, as by e-mail."""
    shutil.copy(source, target)
    os.chown(target, OWNER, OWNER)


def write_digits(root: Path, rows: slice) -> Path:
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[rows], digits.target[rows], strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = np.round(image * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(root / str(label) / f"{number}.png")
    return root


@pytest.fixture
def coordinator(tmp_path: Path, sandboxes: Callable[..., Any]) -> Any:
    """Return the coordinator's containers, healthy."""
    root, runs = folder(tmp_path / "coordinator"), folder(tmp_path / "runs")
    stack = sandboxes("compose.coordinator.yml", FEDPDIFF_DIR=root, FEDPDIFF_RUNS=runs)
    stack.start("network")
    stack.run("tools", "fedpdiff", "coordinator", "init", "/coordinator", "--host", "localhost")
    for name in ("superlink", "serverapp", "proxy"):
        stack.start(name)
        stack.wait(name)
    return stack


def init_site(stack: Any, root: Path, coordinator: Path, name: str, *more: str) -> None:
    hand_over(coordinator / "ca.crt", root / "ca.crt")
    where = ["--coordinator", "localhost:8443", "--ca", "/site/ca.crt", "--name", name]
    stack.run("tools", "site", "init", "/site", *where, *more)
    hand_over(root / "site.key.pub", coordinator / f"{name}.pub")


def test_the_image_has_the_pinned_versions(image: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = dict(pin.split("==") for pin in project["tool"]["uv"]["constraint-dependencies"])
    found = {
        distribution.name.lower(): distribution.version
        for distribution in distributions(path=[str(next(image.glob(".venv/lib/*/site-packages")))])
    }
    needed = [re.split(r"[\[<>=]", requirement)[0] for requirement in project["project"]["dependencies"]]
    assert {name: found[name] for name in needed} == {name: pins[name] for name in needed}
    assert "pytest" not in found


def test_from_init_to_report_in_the_containers_places(
    coordinator: Any, sandboxes: Callable[..., Any], tmp_path: Path
) -> None:
    tools = ["tools", "fedpdiff"]
    images = [write_digits(tmp_path / f"images-{k}", slice(300 * k, 300 * (k + 1))) for k in range(2)]

    open_root = folder(tmp_path / "open")
    site = sandboxes("compose.site.yml", FEDPDIFF_DIR=open_root, FEDPDIFF_DATA=images[0])
    site.network = coordinator.network
    init_site(site, open_root, tmp_path / "coordinator", "hospital-1", "--data", "/data")

    names = ("sealed", "private", "outbox", "inbox")
    sealed_root, private, outbox, inbox = (folder(tmp_path / name) for name in names)
    sealed = sandboxes(
        "compose.sealed.yml",
        FEDPDIFF_DIR=sealed_root,
        FEDPDIFF_PRIVATE=private,
        FEDPDIFF_DATA=images[1],
        FEDPDIFF_OUTBOX=outbox,
        FEDPDIFF_INBOX=inbox,
    )
    sealed.network = coordinator.network
    # Both sites share the coordinator's network here, so one takes another port.
    init_site(sealed, sealed_root, tmp_path / "coordinator", "hospital-2", "--runtime-port", "9095")
    seal(sealed_root / "site.toml", "hospital-2")
    sealed.services["supernode"]["healthcheck"]["test"][-1] = "https://localhost:9095/health"

    for name in ("hospital-1", "hospital-2"):
        key = f"/coordinator/{name}.pub"
        coordinator.run(*tools, "coordinator", "admit", key, "--name", name, "--dir", "/coordinator")
    settings = tmp_path / "coordinator" / "run.toml"
    settings.write_text(to_toml(SHORT))
    changes = [f"--set={key}={value}" for key, value in SHORT.items() if key != "run-dir"]
    coordinator.run(*tools, "request", *changes, "--out", "/coordinator/request.json")
    hand_over(tmp_path / "coordinator" / "request.json", private / "request.json")
    hand_over(sealed_root / "policy.toml", private / "policy.toml")
    known = ["--data", "/data", "--policy", "/private/policy.toml", "--site", "hospital-2"]
    asked = ["--request", "/private/request.json", "--state", "/private/state"]
    sealed.run("private", "release", *known, *asked, "--outbox", "/outbox")
    sealed.run("private", "personalize", "--state", "/private/state")

    for stack in (site, sealed):
        for name in ("supernode", "clientapp"):
            stack.start(name)
        stack.wait("supernode")
    site.wait("clientapp")
    assert "Nothing to mend" in site.run("tools", "doctor", "/site")
    check_what_is_out_of_reach(coordinator, site, sealed)

    started = coordinator.run(
        *["tools", "flwr", "run", "/app/app", "fedpdiff", "--stream"],
        *["--run-config", "/coordinator/run.toml", "--format", "json"],
    )
    run = ["--run-id", str(json.loads(started)["run-id"]), "--format", "json"]
    listed = json.loads(coordinator.run("tools", "flwr", "list", "fedpdiff", *run))
    assert listed["runs"][0]["status"] == "finished:completed", coordinator.log("serverapp")
    results = Results.read(tmp_path / "runs" / "run-1")
    assert (sorted(results.participants), results.refused) == (["hospital-1", "hospital-2"], [])
    assert (tmp_path / "runs" / "run-1" / "report.html").is_file()
    sealed.run("private", "evaluate", "--state", "/private/state", "--inbox", "/inbox")
    for root in (tmp_path / "runs" / "run-1", open_root / "state", inbox, private / "state"):
        assert root.stat().st_uid == OWNER
    check_the_guide({"coordinator": coordinator.commands, "site": site.commands, "sealed": sealed.commands})


def check_the_guide(ran: dict[str, list[str]]) -> None:
    """Check that what the guide tells a person to run was run, as it stands there."""
    guide = (ROOT / "docs" / "docker.md").read_text().replace("pfdm.example.org", "localhost")
    told = re.findall(r"^docker compose -f docker/compose\.(\w+)\.yml run --rm (.*)$", guide, re.M)
    assert len(told) > 8
    for stack, command in told:
        assert any(given.startswith(command) for given in ran[stack]), command


def seal(settings: Path, name: str) -> None:
    """Edit site.toml as the guide says for a sealed site."""
    connection = settings.read_text().partition("[node]")[0]
    node = f'[node]\nsite-name = "{name}"\noutbox = "/outbox"\ninbox = "/inbox"\n'
    settings.write_text(connection + node)


def check_what_is_out_of_reach(coordinator: Any, site: Any, sealed: Any) -> None:
    """Check the walls between containers, each with something that is within reach."""
    lists = {
        (coordinator, "superlink"): ("server.key superexec.secret state", "ca.key sites.json nginx.conf"),
        (coordinator, "serverapp"): ("ca.crt superexec.secret", "ca.key server.key state"),
        (coordinator, "proxy"): ("ca.crt server.key", "ca.key superexec.secret state"),
        (site, "supernode"): ("site.key runtime.key", "state policy.toml"),
        (site, "clientapp"): ("state policy.toml", "site.key runtime.key"),
        (sealed, "supernode"): ("site.key runtime.key", "state policy.toml"),
        (sealed, "clientapp"): ("site.toml", "site.key runtime.key state policy.toml"),
    }
    for (stack, name), (within, beyond) in lists.items():
        home = "/coordinator" if stack is coordinator else "/site"
        seen = stack.execute(name, "ls", home).split()
        assert set(within.split()) <= set(seen) and not set(beyond.split()) & set(seen), (name, seen)
        who = stack.execute(name, "sh", "-c", "id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status")
        assert re.sub(r"\s+", " ", who) == f"{OWNER} CapEff: 0000000000000000 NoNewPrivs: 1 "
        for place in ("/", "/app", home, f"{home}/empty"):
            stack.execute(name, "sh", "-c", f"! touch {place}/new 2>/dev/null")
    for stack, name in ((site, "supernode"), (sealed, "supernode"), (sealed, "clientapp")):
        stack.execute(name, "sh", "-c", "! ls /data /private 2>/dev/null")
    site.execute("clientapp", "sh", "-c", "ls /data/0 >/dev/null && ! touch /data/new 2>/dev/null")
    connect = "import socket; socket.create_connection(('127.0.0.1', 8443), 5)"
    site.execute("clientapp", "python", "-c", connect)
    sealed.execute("private", "python", "-c", connect, status=1)
