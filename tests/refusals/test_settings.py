"""Settings and policies that are refused, each in words that name the setting, its value and what is allowed.

(Every single setting's type and range: tests/config, tests/privacy/test_policy.py.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.deployment.coordinator import Coordinator
from fedpdiff.deployment.site import Site
from fedpdiff.errors import ConfigError
from fedpdiff.privacy.policy import Policy

NAN, INF = float("nan"), float("inf")
NODE = {"data-path": "/data", "state-dir": "/state", "policy": "/policy.toml", "site-name": "north"}
POLICY = 'epsilon = 8.0\ndelta = 1e-6\nschedules = ["linear"]\n'
SITE = """\
[connection]
coordinator = "localhost:8443"
runtime-port = 9094
[code]
code-fingerprint = ""
[node]
site-name = "north"
data-path = "/data"
state-dir = "/state"
policy = "/policy.toml"
"""
COORDINATOR = 'host = "localhost"\nport = 8443\nsuperlink-port = 8000\n'


@pytest.fixture
def quick() -> None:
    """Nothing: no run is needed here."""


@dataclass(frozen=True)
class Settings:
    """Changes to settings that are right, and the words of the error."""

    name: str
    words: str
    changes: dict[str, Any] = field(default_factory=dict)


NODES = [
    Settings("a name that climbs folders", 'site-name = "../up": must be 1 to 64', {"site-name": "../up"}),
    Settings("a name of two lines", r'site-name = "a\nb": must be 1 to 64', {"site-name": "a\nb"}),
    Settings("a name that ends a line", r'site-name = "a\n": must be 1 to 64', {"site-name": "a\n"}),
    Settings("a name in other letters", 'site-name = "Süd": must be 1 to 64', {"site-name": "Süd"}),
    Settings("a relative path", 'state-dir = "state": must be an absolute', {"state-dir": "state"}),
    Settings("a path with a zero byte", r'policy = "/p\u0000": must be an', {"policy": "/p\0"}),
    Settings("a path of two lines", r'data-path = "/a\n/b": must be an', {"data-path": "/a\n/b"}),
    Settings("a number for a path", "data-path = 7: must be an absolute path", {"data-path": 7}),
    Settings("no data", 'data-path = "": must be set for a real client', {"data-path": ""}),
    Settings("no policy", 'policy = "": must be set together with data-path', {"policy": ""}),
    Settings("a key too many", "data-paht: unknown setting, did you mean data-path?", {"data-paht": "/x"}),
    Settings("an endless value", "...: must be an absolute path", {"policy": "x" * 9999}),
    Settings("sealed, with data in reach", "must not be set together with outbox", {"outbox": "/outbox"}),
    Settings("a partition of text", 'partition-id = "0": must be a whole number', {"partition-id": "0"}),
]

RUNS = [
    Settings("epsilon that is no number", "epsilon = NaN: must be a number", {"epsilon": NAN}),
    Settings("delta that is no number", "delta = NaN: must be a number above 0", {"delta": NAN}),
    Settings("an infinite radius", "clip = Infinity: must be a number above 0", {"clip": INF}),
    Settings("an image size beyond reason", "image-size = 1000000000: must be", {"image-size": 10**9}),
    Settings("steps beyond reason", "diffusion-steps = 1000000000: must be", {"diffusion-steps": 10**9}),
    Settings("a run folder with a zero byte", r'run-dir = "/a\u0000": must be', {"run-dir": "/a\0"}),
    Settings(
        "braces that do not match", "(unbalanced braces)", {"partitioner-settings": "a = 1}\nb = {c = 1"}
    ),
    Settings(
        "brackets without end", "must be TOML key = value", {"partitioner-settings": "a = " + "[" * 9999}
    ),
    Settings("a partitioner that is a path", "partitioner =", {"partitioner": "../../evil:Evil"}),
    Settings("a device of another kind", 'device = "cuda:x": must be', {"device": "cuda:x"}),
    Settings("classes twice", "empty or repeated names: caf\u00e9", {"classes": "cafe\u0301,caf\u00e9"}),
    Settings("a key that forges a line", "unknown setting", {"x\n2026 INFO: fine": 1}),
]

POLICIES = [
    ("no limit", 'delta = 1e-6\nschedules = ["linear"]\n', "epsilon: is missing; must be a number above 0"),
    ("no limit at all", POLICY.replace("8.0", "inf"), "epsilon = Infinity: must be a number above 0"),
    ("a limit that is no number", POLICY.replace("8.0", "nan"), "epsilon = NaN: must be a number above 0"),
    ("a limit of nothing", POLICY.replace("8.0", "0"), "epsilon = 0: must be a number above 0"),
    ("delta of one", POLICY.replace("1e-6", "1.0"), "delta = 1.0: must be a number above 0 and below 1"),
    ("a schedule of their own", POLICY.replace("linear", "none"), 'schedules = "none": must be a list'),
    ("a misspelt key", POLICY + "metric-may-leave = true\n", "did you mean metrics-may-leave?"),
    ("a key twice", POLICY + "epsilon = 100.0\n", "is not TOML: Cannot overwrite a value"),
    ("a table", POLICY + "[coordinators]\nnorth = true\n", "must be a list of names"),
    ("yes for true", POLICY + 'metrics-may-leave = "yes"\n', 'metrics-may-leave = "yes": must be true or'),
    ("a date", POLICY + "images-per-person = 2026-01-01\n", "images-per-person = datetime.date"),
    ("a number beyond reason", POLICY + f"images-per-person = {'9' * 5000}\n", "is not TOML"),
    ("persons nobody names", POLICY + "images-per-person = 3\n", 'with person-column = ""'),
    ("brackets without end", "epsilon = " + "[" * 9999, "is not TOML: "),
    ("another encoding", "epsilon = 8.0 # \udcff", "is not TOML: 'utf-8' codec"),
    ("a zero byte", "epsilon = 8\0", "is not TOML: "),
    ("nothing", "", "epsilon: is missing"),
]

SITES = [
    ("no connection", SITE.replace("[connection]", "[connexion]"), "has no 'connection'"),
    ("no node", SITE.replace("[node]", "[nodes]"), "unknown settings: nodes"),
    ("a connection of text", 'connection = "localhost:1"\n[code]\n[node]\n', "cannot be read"),
    ("a port of text", SITE.replace("9094", '"9094"'), "runtime-port 9094 must be a port number"),
    ("an infinite port", SITE.replace("9094", "inf"), "runtime-port inf must be a port number"),
    ("a port too far", SITE.replace("8443", "70000"), "coordinator 70000 must be a port number"),
    ("a port of many digits", SITE.replace("8443", "9" * 5000), "must be HOST:PORT"),
    ("no port", SITE.replace(":8443", ""), 'coordinator "localhost" must be HOST:PORT'),
    (
        "a command for a host",
        SITE.replace("localhost", "$(reboot)"),
        'coordinator "$(reboot)" must be a host',
    ),
    ("a host of two lines", SITE.replace("localhost:8443", "localhost\\n:8443"), "must be a host name"),
    ("a quotation mark", SITE.replace("/data", '/da\\"ta'), "must not have a quotation mark"),
    ("a line break in a path", SITE.replace("/data", "/da\\nta"), "data-path = "),
    ("an unknown setting", SITE + 'data-pth = "/x"\n', "data-pth: unknown setting"),
    ("a name that climbs folders", SITE.replace('"north"', '"../up"'), 'site-name = "../up": must be'),
    ("brackets without end", SITE + "x = " + "[" * 9999, "cannot be read"),
    ("no images", SITE.replace('"/data"', '""'), 'data-path = "" in '),
]

COORDINATORS = [
    ("no host", COORDINATOR.replace("host =", "hots ="), "is damaged"),
    ("a port of text", COORDINATOR.replace("8443", '"8443"'), "port 8443 must be a port number"),
    ("an infinite port", COORDINATOR.replace("8443", "inf"), "port inf must be a port number"),
    ("a list for a port", COORDINATOR.replace("8000", "[8000]"), "superlink-port [8000] must be a port"),
    ("brackets without end", "host = " + "[" * 9999, "is damaged"),
    ("no TOML", "host: localhost", "is damaged"),
]


def check(error: pytest.ExceptionInfo[ConfigError], words: str) -> None:
    told = str(error.value)
    assert words in told
    assert max(map(len, told.splitlines())) < 1000
    assert error.value.__suppress_context__ or error.value.__context__ is None  # no other library's traceback


@pytest.mark.parametrize("case", NODES, ids=lambda case: case.name)
def test_node_settings_are_refused(case: Settings) -> None:
    with pytest.raises(ConfigError) as error:
        NodeConfig.parse(NODE | case.changes)
    check(error, case.words)


@pytest.mark.parametrize("case", RUNS, ids=lambda case: case.name)
def test_run_settings_are_refused(case: Settings) -> None:
    with pytest.raises(ConfigError) as error:
        RunConfig.parse(RunConfig().flat() | case.changes)
    check(error, case.words)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.parametrize(
    ("text", "words"), [case[1:] for case in POLICIES], ids=[case[0] for case in POLICIES]
)
def test_policies_are_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Policy.load(write(tmp_path / "policy.toml", text))
    check(error, words)


@pytest.mark.parametrize(("text", "words"), [case[1:] for case in SITES], ids=[case[0] for case in SITES])
def test_site_files_are_refused(text: str, words: str, tmp_path: Path) -> None:
    write(tmp_path / "site.toml", text)
    with pytest.raises(ConfigError) as error:
        Site.load(tmp_path)
    check(error, words)


@pytest.mark.parametrize(
    ("text", "words"), [case[1:] for case in COORDINATORS], ids=[case[0] for case in COORDINATORS]
)
def test_coordinator_files_are_refused(text: str, words: str, tmp_path: Path) -> None:
    write(tmp_path / "coordinator.toml", text)
    with pytest.raises(ConfigError) as error:
        Coordinator.load(tmp_path)
    check(error, words)


def test_what_was_changed_was_right(tmp_path: Path) -> None:
    """So that each case above is refused for its change and nothing else."""
    NodeConfig.parse(NODE)
    Policy.load(write(tmp_path / "policy.toml", POLICY))
    write(tmp_path / "site.toml", SITE)
    write(tmp_path / "coordinator.toml", COORDINATOR)
    assert Site.load(tmp_path).runtime_port == 9094
    assert Coordinator.load(tmp_path).port == 8443
