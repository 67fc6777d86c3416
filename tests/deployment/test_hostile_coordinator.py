"""A coordinator that ships other code than its sites agreed to: what of it runs at a site.

Two sites with real processes: one pins its code, as ``site init`` makes it; the other trusts what it is
shipped, and shows that the bundles would do their work.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.simulation.launcher import to_toml

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
# A server that sends one message to every site and writes down what they reply.
ATTACKER = """
import json, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(1)
    asked = [Message(RecordDict(), dst_node_id=node, message_type="train.release") for node in nodes]
    replies = list(grid.send_and_receive(asked, timeout=900))
    said = [str(r.error.reason if r.has_error() else dict(r.content)) for r in replies]
    Path(context.run_config["run-dir"]).write_text(json.dumps(said))
"""
# What is to be run at the sites: it checks no fingerprint, and leaves its mark in Flower's folder.
CANARY = """
import os
from pathlib import Path
from flwr.clientapp import ClientApp

Path(os.environ["FLWR_HOME"], "canary-{name}").write_text("executed")
app = ClientApp()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="sites come through nginx: apt-get install nginx-light"),
]


@pytest.fixture
def federation(machines: Any, free_ports: Callable[[int], list[int]]) -> Any:
    """Return a coordinator with two sites that have joined: ``pinned`` and ``trusting``."""
    port, inner, *others = free_ports(4)
    machines.run(f"fedpdiff coordinator init c --host localhost --port {port} --superlink-port {inner}")
    for name in ("superlink", "proxy", "serverapp"):
        machines.start(f"c/start-{name}")
    machines.wait_for_ports(port, inner)
    (machines.root / "images").mkdir()
    for site, own in zip(("pinned", "trusting"), others, strict=True):
        machines.run(
            f"fedpdiff site init {site} --coordinator localhost:{port} --ca c/ca.crt --data $PWD/images "
            f"--runtime-port {own}\nfedpdiff coordinator admit {site}/site.key.pub --name {site} --dir c"
        )
        if site == "trusting":
            settings = machines.root / site / "site.toml"
            settings.write_text(settings.read_text().replace(code_fingerprint(), ""))
        for name in ("supernode", "clientapp"):
            machines.start(f"{site}/start-{name}")
    machines.checkout()
    return machines


def ship(machines: Any, name: str, files: dict[str, str], app: str = "client_app.app:app") -> list[str]:
    """Ship this app with files changed and the attacker's server; return what the sites replied."""
    folder, answer = machines.root / name / "fedpdiff", machines.root / f"{name}.json"
    shutil.copytree(machines.root / "fedpdiff", folder)
    for path, text in ({"attacker.py": ATTACKER} | files).items():
        (folder / path).write_text(text, encoding="utf-8")
    settings = (folder / "pyproject.toml").read_text(encoding="utf-8")
    settings = settings.replace("server_app.app:app", "attacker:app").replace("client_app.app:app", app)
    settings = re.sub(r"^fab-include = .*$", "", settings, flags=re.M)
    (folder / "pyproject.toml").write_text(settings, encoding="utf-8")
    (machines.root / f"{name}.toml").write_text(to_toml({"run-dir": str(answer)}), encoding="utf-8")
    machines.run(f"FLWR_HOME=$PWD/c/flower flwr run {folder} --stream --run-config {name}.toml")
    assert answer.exists(), machines.log("c/start-serverapp")[-4000:]
    said = json.loads(answer.read_text(encoding="utf-8"))
    assert len(said) == 2
    return list(said)


def test_shipped_code_never_executes_at_a_site_that_pins_its_code(federation: Any) -> None:
    def marks(site: str) -> list[str]:
        return sorted(path.name for path in (federation.root / site / "flower").glob("canary-*"))

    said = ship(federation, "other-code", {"client_app/app.py": CANARY.format(name="app")})
    assert sum("nothing of it was run" in text for text in said) == 1, said
    assert (marks("pinned"), marks("trusting")) == ([], ["canary-app"])
    # The code has the pinned fingerprint; what is to be run lies beside it.
    evil = CANARY.format(name="evil")
    beside = dict.fromkeys(("evil.py", "sitecustomize.py", "torch.py", "numpy.py"), evil)
    said = ship(federation, "code-beside", beside, app="evil:app")
    assert sum("refusal" in text for text in said) == 1, said  # the installed ClientApp, asked for nothing
    assert (marks("pinned"), marks("trusting")) == ([], ["canary-app", "canary-evil"])
    assert not (federation.root / "pinned" / "flower" / "apps").exists()  # not even unpacked
    assert "trusts whoever starts the run" in federation.log("trusting/start-clientapp")
    assert federation.end_all() == []
