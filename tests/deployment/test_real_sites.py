"""The deployment guide, followed word for word: a coordinator, its proxy and three sites, one of them sealed.

``docs/deployment.md`` is the script: every block of commands in it is run here, in its order, as the user
that its heading names. Then a stranger, a revoked site, and the end of every process.
"""

from __future__ import annotations

import os
import re
import shutil
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
        checkout = machines.checkout()
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
    walk.machines.wait_for_ports(walk.proxy, walk.superlink)
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
    check_who_is_turned_away(walk, ports[5])
    assert walk.left_out() == {}
    assert machines.end_all() == []
