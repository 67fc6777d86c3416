"""The deployment guide, followed word for word: a coordinator, its proxy and three sites, one of them sealed.

``docs/deployment.md`` is the script: every block of commands in it is run here, in its order, as the user
that its heading names. Then bundles of a hostile coordinator, a revoked site, and the end of every process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.results import Results
from fedpdiff.simulation.launcher import to_toml

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "deployment.md"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SHORT = {
    "personal-steps": 2,
    "global-steps": 2,
    "batch-size": 8,
    "warmup-steps": 0,
    "global-sampling-steps": 2,
    "personal-sampling-steps": 2,
    "samples-per-class": 2,
    "device": "cpu",
    "wait-seconds": 900,
}
# A server that sends one message to every site and writes down what they reply.
ATTACKER = """
import json
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    asked = [Message(RecordDict(), dst_node_id=node, message_type="train.release") for node in nodes]
    replies = list(grid.send_and_receive(asked, timeout=900))
    said = [str(r.error.reason if r.has_error() else dict(r.content)) for r in replies]
    Path(context.run_config["run-dir"]).write_text(json.dumps({"nodes": len(nodes), "said": said}))
"""
# Code that a hostile coordinator wants run: it checks no fingerprint and leaves its mark in Flower's folder.
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


def blocks(kind: str) -> dict[str, list[str]]:
    """Return the guide's code blocks of one kind by the heading that they stand under."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^##+ ", GUIDE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        heading = section.partition("\n")[0]
        found[heading] = re.findall(rf"^```{kind}\n(.*?)^```", section, flags=re.M | re.S)
    return {heading: texts for heading, texts in found.items() if texts}


class Walk:
    """One walk through the guide; every block is taken once."""

    def __init__(self, machines: Any, ports: list[int]) -> None:
        self.machines, self.root = machines, machines.root
        self.blocks = blocks("bash")
        self.proxy, self.superlink = ports[:2]
        checkout = self.root / "fedpdiff"
        machines.words |= {
            "48443": str(self.proxy),
            "48000": str(self.superlink),
            "48101": str(ports[2]),
            "48103": str(ports[3]),
            "/path/of/the/checkout": str(checkout),
            "/srv/fedpdiff/run-1": str(self.root / "run-1"),
            "-o north-net ": f"-o {machines.users.get('north-net', os.getuid())} ",
            "-o north ": f"-o {machines.users.get('north', os.getuid())} ",
        }
        text = GUIDE.read_text(encoding="utf-8")
        assert all(word in text for word in machines.words), "the guide has changed: so must the words"
        checkout.mkdir()
        for name in ("fedpdiff", "client_app", "server_app"):  # not the environment beside them: slow to walk
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, checkout)

    def next(self, heading: str, who: str = "me") -> str:
        """Do the next block under a heading: commands are run, start scripts are started."""
        text = self.blocks[heading].pop(0)
        lines = text.splitlines()
        if all(re.fullmatch(r"\S+/start-[a-z]+", line) for line in lines):
            for line in lines:
                self.machines.start(line, who)
            return ""
        return str(self.machines.run(text, who))

    def site_again(self, name: str, images: str, port: int) -> list[str]:
        """Return the blocks of "A site" for another one on the same machine."""
        changes = {"hospital-1": name, "images 1": images, "48101": str(port)}
        texts = blocks("bash")["A site"]
        for old, new in changes.items():
            texts = [text.replace(old, new) for text in texts]
        return texts

    def left_out(self) -> dict[str, list[str]]:
        return {heading: texts for heading, texts in self.blocks.items() if texts}


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.3)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def write_digits(folder: Path, rows: slice) -> None:
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[rows], digits.target[rows], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = np.round(image * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")


def give(path: Path, user: int | None) -> None:
    """Give a folder to another user, where there is one."""
    for place in (path, *path.rglob("*")) if user is not None else ():
        os.chown(place, user, user)


def bring_up_the_coordinator(walk: Walk) -> None:
    walk.next("The coordinator")
    walk.next("The coordinator")
    wait_for(lambda: answers(walk.proxy) and answers(walk.superlink))
    assert "Nothing to mend" in walk.next("The coordinator")
    (settings,) = blocks("toml")["The coordinator"]
    text = f"{walk.machines.text(settings)}{to_toml(SHORT)}"
    (walk.root / "run.toml").write_text(text, encoding="utf-8")
    walk.next("The coordinator")
    shutil.copy(walk.root / "coordinator" / "ca.crt", walk.root)  # "send every site the file"
    (walk.root / "ca.crt").chmod(0o644)


def admit(walk: Walk, name: str, key: Path) -> None:
    command = blocks("bash")["A site"][2].replace("hospital-1", name)
    shutil.copy(key, walk.root / f"{name}.pub")  # "send it to the coordinator"
    assert f"{name} is admitted" in walk.machines.run(command)


def bring_up_the_open_sites(walk: Walk, port: int) -> None:
    """The first pins its code, as ``site init`` has it; the second runs whatever it is shipped."""
    machines = walk.machines
    write_digits(walk.root / "images 1", slice(0, 300))
    write_digits(walk.root / "images 2", slice(300, 600))
    walk.next("A site")
    assert "Nothing to mend" in walk.next("A site")
    walk.blocks["A site"].pop(0)
    admit(walk, "hospital-1", walk.root / "hospital-1" / "site.key.pub")
    walk.next("A site")
    init, doctor, _, start = walk.site_again("hospital-2", "images 2", port)
    machines.run(init)
    settings = walk.root / "hospital-2" / "site.toml"
    settings.write_text(settings.read_text().replace(code_fingerprint(), ""))
    assert "trusts whoever starts the run" in machines.run(doctor)
    admit(walk, "hospital-2", walk.root / "hospital-2" / "site.key.pub")
    for script in start.split():
        machines.start(script)


def bring_up_the_sealed_site(walk: Walk) -> None:
    apart = "north" in walk.machines.users
    walk.next("A sealed site")
    private = walk.root / "north" / "private"
    write_digits(private / "images", slice(600, 900))
    give(private, walk.machines.users.get("north"))
    shutil.copy(walk.root / "request.json", walk.root / "north")
    (walk.root / "north" / "request.json").chmod(0o644)
    if not apart:  # one user for both sides: the doctor rightly has something to say
        for heading in ("The private side", "The network side"):
            walk.blocks[heading][0] = re.sub(
                r"^(fedpdiff doctor .*)$", r"! \1", walk.blocks[heading][0], flags=re.M
            )
    said = walk.next("The private side", "north")
    assert "1 verified" in said and "for one noisy copy of an image" in said
    assert ("can open neither images nor state folder" in said) == apart
    walk.next("The private side", "north")
    said = walk.next("The network side", "north-net")
    assert ("holds a verified release, and this user can only read it" in said) == apart
    admit(walk, "north", walk.root / "north" / "network" / "site.key.pub")
    walk.next("The network side", "north-net")


def check_the_run(walk: Walk) -> None:
    walk.next("A run")
    logs = (walk.machines.log(f"coordinator/start-{name}")[-4000:] for name in ("serverapp", "superlink"))
    assert "finished:completed" in walk.next("A run"), "\n".join(logs)
    results = Results.read(walk.root / "run-1")
    assert sorted(results.participants) == ["hospital-1", "hospital-2", "north"]
    assert results.refused == []
    assert "hospital-2" in (walk.root / "run-1" / "report.html").read_text(encoding="utf-8")
    assert "3 verified" in walk.next("A run")
    said = walk.next("A run", "north")
    assert "pfdm" in said and "Outbox" not in said
    with np.load(walk.root / "north" / "private" / "samples" / "samples.npz") as samples:
        assert samples["images"].shape == (20, 1, 8, 8)


def ship(walk: Walk, name: str, changes: dict[str, str]) -> list[str]:
    """Ship this app with files changed and the attacker's server; return what the sites replied."""
    app, answer = walk.root / name / "fedpdiff", walk.root / f"{name}.json"
    shutil.copytree(walk.root / "fedpdiff", app)
    settings = (app / "pyproject.toml").read_text(encoding="utf-8")
    settings = settings.replace("server_app.app:app", "attacker:app")
    settings = re.sub(r"^fab-include = .*$", "", settings, flags=re.M)
    for path, text in ({"attacker.py": ATTACKER} | changes).items():
        if path == "pyproject.toml":
            settings = settings.replace("client_app.app:app", text)
        else:
            (app / path).write_text(text, encoding="utf-8")
    (app / "pyproject.toml").write_text(settings, encoding="utf-8")
    (walk.root / f"{name}.toml").write_text(to_toml({"run-dir": str(answer)}), encoding="utf-8")
    flwr = blocks("bash")["A run"][0]
    flwr = flwr.replace("/path/of/the/checkout", str(app)).replace("run.toml", f"{name}.toml")
    walk.machines.run(flwr)
    result = json.loads(answer.read_text(encoding="utf-8"))
    assert result["nodes"] == len(result["said"]) == 3
    return list(result["said"])


def check_what_a_hostile_coordinator_can_run(walk: Walk) -> None:
    """Nothing at the sites that pin their code; the site that trusts what is shipped shows the difference."""

    def marks(site: str) -> list[str]:
        return sorted(path.name for path in (walk.root / site / "flower").glob("canary-*"))

    said = ship(walk, "other-code", {"client_app/app.py": CANARY.format(name="app")})
    assert sum("nothing of it was run" in text for text in said) == 2
    # The code has the pinned fingerprint; what is to run lies beside it.
    beside = {name: CANARY.format(name=name.removesuffix(".py")) for name in ("evil.py", "sitecustomize.py")}
    said = ship(walk, "code-beside", beside | {"pyproject.toml": "evil:app", "torch.py": beside["evil.py"]})
    assert sum("refusal" in text for text in said) == 2  # the installed ClientApp, asked for nothing it knows
    assert marks("hospital-1") == marks("north/network") == []
    assert not any(
        (walk.root / site / "flower" / "apps").exists() for site in ("hospital-1", "north/network")
    )
    assert marks("hospital-2") == ["canary-app", "canary-evil"]


def check_who_is_turned_away(walk: Walk, port: int) -> None:
    init = walk.site_again("stranger", "images 1", port)[0]
    walk.machines.run(init)
    assert walk.machines.start("stranger/start-supernode").wait(timeout=400) != 0
    walk.machines.end("hospital-1/start-supernode")
    assert "is revoked" in walk.next("A site leaves")
    assert walk.machines.start("hospital-1/start-supernode").wait(timeout=400) != 0


def test_the_guide_from_init_to_report(machines: Any, free_ports: Callable[[int], list[int]]) -> None:
    ports = free_ports(6)
    walk = Walk(machines, ports)
    bring_up_the_coordinator(walk)
    bring_up_the_open_sites(walk, ports[4])
    bring_up_the_sealed_site(walk)
    check_the_run(walk)
    check_what_a_hostile_coordinator_can_run(walk)
    check_who_is_turned_away(walk, ports[5])
    assert walk.left_out() == {}
    assert machines.end_all() == []
