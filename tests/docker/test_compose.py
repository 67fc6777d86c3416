"""Compose files and Dockerfile: valid, hardened, and in step with start scripts, settings and defaults."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedpdiff.cli import main
from fedpdiff.deployment.coordinator import Coordinator
from fedpdiff.deployment.site_setup import SiteSetup

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
HOMES = {"coordinator": "/coordinator", "site": "/site", "sealed": "/site"}
# What no container of a kind may see, beside what its scripts do not name.
NEVER = {
    "superlink": {"ca.key"},
    "serverapp": {"ca.key", "server.key", "server.pem", "state"},
    "proxy": {"ca.key", "superexec.secret", "state"},
    "supernode": {"state", "witness", "policy.toml"},
    "clientapp": {"site.key", "runtime.key"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a coordinator's and a site's folder as the commands make them."""
    root = tmp_path_factory.mktemp("folders")
    assert main(["coordinator", "init", str(root / "coordinator"), "--host", "localhost"]) == 0
    given = ["--coordinator", "localhost:8443", "--ca", str(root / "coordinator" / "ca.crt")]
    assert main(["site", "init", str(root / "site"), *given, "--data", "/data"]) == 0
    return {"coordinator": root / "coordinator", "site": root / "site", "sealed": root / "site"}


def services(stack: str, compose: Callable[..., dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a file's services, with letters for folders."""
    names = re.findall(r"\$\{(\w+):\?\}", (DOCKER / f"compose.{stack}.yml").read_text())
    return dict(compose(f"compose.{stack}.yml", {name: f"/{name}" for name in names})["services"])


def named_in(folder: Path, script: str) -> set[str]:
    """Return the files of its folder that a start script names, itself or through what it reads."""
    text = (folder / script).read_text()
    found = {script, *re.findall(r"\$HERE/([\w.-]+)", text)}
    if "nginx.conf" in found:
        conf = (folder / "nginx.conf").read_text()
        found |= set(re.findall(r"(?:ssl_certificate|ssl_certificate_key|trusted_certificate) (\S+);", conf))
    if "site settings" in text:
        found.add("site.toml")
    return found


def test_valid_by_the_published_schema(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    check = [str(program), "--builtin-schema", "vendor.compose-spec"]
    offline = {"PATH": os.environ["PATH"], "https_proxy": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    files = [str(path) for path in sorted(DOCKER.glob("compose.*.yml"))]
    assert len(files) == 2 * len(HOMES)
    subprocess.run([*check, *files], check=True, env=offline, capture_output=True)
    wrong = tmp_path / "compose.yml"
    wrong.write_text((DOCKER / "compose.site.yml").read_text().replace("read_only:", "readonly:"))
    assert subprocess.run([*check, str(wrong)], env=offline, capture_output=True).returncode == 1


@pytest.mark.parametrize("stack", HOMES)
def test_every_service_is_hardened(stack: str, compose: Callable[..., dict[str, Any]]) -> None:
    for name, service in services(stack, compose).items():
        assert service["user"] == "10001:10001", name
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service), name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        by_hand = "profiles" in service
        assert service["restart"] == ("no" if by_hand else "unless-stopped"), name
        checked = service["healthcheck"] != {"disable": True}
        assert checked == (not by_hand and name != "network"), name
        for mount in service.get("volumes", []):
            assert mount["bind"] == {"create_host_path": False}, name  # a missing file is an error


@pytest.mark.parametrize("stack", HOMES)
def test_a_container_sees_what_its_script_names_and_no_more(
    stack: str, compose: Callable[..., dict[str, Any]], folders: dict[str, Path]
) -> None:
    home = HOMES[stack]
    for name in set(NEVER) & set(found := services(stack, compose)):
        service = found[name]
        script = service["entrypoint"][0].removeprefix(f"{home}/")
        mounts = {
            mount["target"]: mount
            for mount in service["volumes"]
            if mount["target"].startswith(f"{home}/") and "DIR" in mount["source"]
        }
        for target, mount in mounts.items():
            assert mount["source"] == target.replace(home, "/FEDPDIFF_DIR", 1)
            assert (folders[stack] / target.removeprefix(f"{home}/")).exists(), target
        seen = {target.removeprefix(f"{home}/") for target in mounts}
        seen |= {place.removeprefix(f"{home}/") for place in service["tmpfs"] if place.startswith(home)}
        needed = named_in(folders[stack], script)
        if name == "proxy":
            needed.discard("flower")  # FLWR_HOME, for Flower's programs: it starts none
        if name == "clientapp":
            needed |= {"runtime-ca.crt"} | ({"policy.toml", "state", "witness"} if stack == "site" else set())
        assert seen == needed, name
        assert not seen & NEVER[name], name
        assert service["environment"]["FEDPDIFF_BIN"] == "/app/.venv/bin"


def test_the_site_settings_name_the_containers_places(
    compose: Callable[..., dict[str, Any]], tmp_path: Path, folders: dict[str, Path]
) -> None:
    text = (folders["site"] / "site.toml").read_text().replace(str(folders["site"]), "/site")
    node = tomllib.loads(text)["node"]
    mounted = {mount["target"]: mount for mount in services("site", compose)["clientapp"]["volumes"]}
    for key in ("data-path", "state-dir", "policy"):
        assert node[key] in mounted, key
    assert mounted["/data"]["read_only"] is True
    assert not mounted["/site/state"].get("read_only")


def test_the_sealed_network_side_has_nothing_private(compose: Callable[..., dict[str, Any]]) -> None:
    found = services("sealed", compose)
    private = {"/FEDPDIFF_PRIVATE", "/FEDPDIFF_DATA"}
    for name, service in found.items():
        sources = {mount["source"] for mount in service.get("volumes", [])}
        assert bool(sources & private) == (name == "private"), name
    writable = {
        (name, mount["target"])
        for name in ("private", "clientapp")
        for mount in found[name]["volumes"]
        if not mount.get("read_only")
    }
    assert writable == {("private", "/private"), ("private", "/outbox"), ("clientapp", "/inbox")}
    assert found["private"]["network_mode"] == "none"
    assert not {"ports", "networks", "expose", "links"} & set(found["private"])


def test_only_the_proxys_port_is_published(
    compose: Callable[..., dict[str, Any]], folders: dict[str, Path]
) -> None:
    published = {
        (stack, name): service["ports"]
        for stack in HOMES
        for name, service in services(stack, compose).items()
        if "ports" in service
    }
    port = Coordinator("localhost").port
    assert published == {("coordinator", "network"): [f"{port}:{port}"]}
    assert f"listen {port} ssl;" in (folders["coordinator"] / "nginx.conf").read_text()


def test_the_health_checks_ask_the_default_ports(compose: Callable[..., dict[str, Any]]) -> None:
    coordinator = Coordinator("localhost")
    runtime_port = SiteSetup.runtime_port
    ports = {
        "superlink": coordinator.superlink_port,
        "serverapp": coordinator.superlink_port,
        "proxy": coordinator.port,
        "supernode": runtime_port,
        "clientapp": runtime_port,
    }
    for stack in HOMES:
        for name in set(ports) & set(found := services(stack, compose)):
            test = found[name]["healthcheck"]["test"]
            assert test[-1].startswith(f"https://localhost:{ports[name]}/"), name
            authority = test[test.index("--cacert") + 1]
            assert authority in {mount["target"] for mount in found[name]["volumes"]}, name


def test_the_dockerfile_fits_the_compose_files(
    dockerfile: Callable[[str], list[str]], compose: Callable[..., dict[str, Any]]
) -> None:
    assert dockerfile("USER") == ["10001:10001"]
    assert any("--uid 10001" in line and "--gid 10001" in line for line in dockerfile("RUN"))
    assert all(":" in image for image in dockerfile("FROM"))
    assert dockerfile("FROM") == [f"python:{sys_version()}-slim"]
    assert dockerfile("ENTRYPOINT") == ['["fedpdiff"]']
    arguments = {line.partition("=")[0] for line in dockerfile("ARG")}
    images = set()
    for stack in HOMES:
        for service in services(stack, compose).values():
            images.add(service["image"])
            if "build" in service:
                assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
                assert set(service["build"]["args"]) == arguments == {"TORCH"}
    assert images == {"fedpdiff", "nginx:1.28"}


def sys_version() -> str:
    """Return the lowest Python that the project supports, which the image has."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    return str(required.removeprefix(">="))


def test_no_secret_can_get_into_the_image(dockerfile: Callable[[str], list[str]]) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line.removeprefix("!").partition("/")[0] for line in rules if line.startswith("!")}
    copied = {word.partition("/")[0] for line in dockerfile("COPY") for word in line.split()[:-1]}
    assert copied == allowed
    assert not dockerfile("ADD")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    if tracked:  # not where the tests lie outside a checkout
        assert allowed <= {line.partition("/")[0] for line in tracked.splitlines()}


def test_the_installation_refuses_an_unknown_torch(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    script = tmp_path / "docker" / "install"
    script.write_bytes((DOCKER / "install").read_bytes())
    for torch in ("", "rocm"):
        done = subprocess.run(
            ["sh", str(script)], env={"TORCH": torch, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )
        assert done.returncode == 2 and "must be cpu or cuda" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("stack", HOMES)
def test_gpus_are_added_to_services_that_train(stack: str, compose: Callable[..., dict[str, Any]]) -> None:
    added = yaml.safe_load((DOCKER / f"compose.{stack}.gpu.yml").read_text())["services"]
    trains = {"coordinator": "serverapp", "site": "clientapp", "sealed": "private"}[stack]
    assert set(added) == {trains} <= set(services(stack, compose))
    device = added[trains]["deploy"]["resources"]["reservations"]["devices"]
    assert device == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
