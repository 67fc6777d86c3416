"""Settings with anything changed in them: read as they are meant, or refused with a ConfigError."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.config.run import parse_assignment
from fedpdiff.config.settings import Settings
from fedpdiff.deployment.coordinator import Coordinator
from fedpdiff.deployment.site import Site
from fedpdiff.errors import ConfigError
from fedpdiff.privacy.policy import Policy, policy_template
from tests.refusals.fuzzing import cases, mutated_text
from tests.refusals.test_settings import COORDINATOR, NODE, POLICY, SITE

pytestmark = pytest.mark.slow


@pytest.fixture
def quick() -> None:
    """Nothing: no run is needed here."""


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


TEXTS = [
    *("", "/", "~", "../up", "/a\0b", "/a\nb", "iid", "cuda:9", "a,b,,c", "m:C", "tiny", "/n.json", "1e999"),
    *("x = [1, 2], y = {z = 1}", "a = 1}\nb = {", "[" * 2000, "{" * 2000, "\ud800", "\u202e", "a" * 5000),
    "café,cafe\u0301",
]
values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 2**63, 10**400, 0.5, 1.0, float("nan"), float("inf"), -0.0, 5e-324])
    | st.floats()
    | st.text(st.characters(), max_size=30)
    | st.sampled_from(TEXTS)
    | st.binary(max_size=9)
    | st.lists(st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.integers(), max_size=2)
    | st.sampled_from([nested(3), nested(900), datetime.date(2026, 1, 1), object()])
)


def changes(model: type[Settings]) -> st.SearchStrategy[dict[str, Any]]:
    keys = st.sampled_from(sorted(model.fields_by_key())) | st.text(st.characters(), max_size=15)
    return st.dictionaries(keys, values, max_size=4)


def check(model: type[Settings], settings: dict[str, Any]) -> None:
    try:
        read = model.parse(settings)
    except ConfigError as error:
        assert all(line.strip() for line in str(error).splitlines() or [""])
    else:
        assert model.parse(read.flat()) == read


@cases(2500)
@given(changed=changes(RunConfig))
def test_run_settings(changed: dict[str, Any]) -> None:
    check(RunConfig, RunConfig().flat() | changed)


@cases(1500)
@given(changed=changes(NodeConfig), base=st.sampled_from([NODE, {"partition-id": 0, "num-partitions": 2}]))
def test_node_settings(changed: dict[str, Any], base: dict[str, Any]) -> None:
    check(NodeConfig, base | changed)


@cases(500)
@given(
    key=st.sampled_from(sorted(RunConfig.fields_by_key())) | st.text(max_size=9),
    text=st.sampled_from(TEXTS) | st.text(st.characters(), max_size=20),
)
def test_assignments(key: str, text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_assignment(f"{key}={text}")


# -- files ---------------------------------------------------------------------------------------------------

FRAGMENTS = [
    *("", "=", "\n", "\r", '"', "'", '"""', "[", "]", "[[", "{", "}", "#", ".", ",", "-", "\0", "\x1b", "é"),
    *(
        "inf",
        "nan",
        "true",
        "1_000",
        "0x1f",
        "1e400",
        "2026-01-01",
        "9" * 5000,
        "[" * 2000,
        "\\u0000",
        "\\ud800",
    ),
    *(
        "site-name = ",
        "port = ",
        "epsilon = ",
        "schedules = []\n",
        "[node]\n",
        "[connection]\n",
        "a.b.c = 1\n",
    ),
]
fragments = st.sampled_from(FRAGMENTS) | st.text(st.characters(), max_size=8)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


@cases(1000)
@given(text=mutated_text(POLICY, fragments) | mutated_text(policy_template(1000), fragments))
def test_policy_files(text: str, tmp_path: Path) -> None:
    try:
        policy = Policy.load(write(tmp_path / "policy.toml", text))
    except ConfigError:
        return
    assert policy.epsilon > 0 and 0 < policy.delta < 1  # never a policy without limits


@cases(700)
@given(text=mutated_text(SITE, fragments))
def test_site_files(text: str, tmp_path: Path) -> None:
    write(tmp_path / "site.toml", text)
    try:
        site = Site.load(tmp_path)
    except ConfigError:
        return
    host, port = site.coordinator
    assert 1 <= port <= 65535 and 1 <= site.runtime_port <= 65535
    assert host.replace(".", "").replace("-", "").isalnum()
    assert "\n" not in site.node_config() and site.node_config().count('"') % 2 == 0


@cases(300)
@given(text=mutated_text(COORDINATOR, fragments))
def test_coordinator_files(text: str, tmp_path: Path) -> None:
    write(tmp_path / "coordinator.toml", text)
    try:
        coordinator = Coordinator.load(tmp_path)
    except ConfigError:
        return
    assert 1 <= coordinator.port <= 65535 and 1 <= coordinator.superlink_port <= 65535
