"""Sealed mode with two users of the operating system: what the network side's user can open, and serves.

Afterwards the private side samples with what arrived, and gets the scores of an open client on the same
release files, global half and seeds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdiff.cli import main
from fedpdiff.diffusion.denoiser import Denoiser, to_arrays
from fedpdiff.federation.run_request import RunRequest
from fedpdiff.privacy.wire import encode

ROOT = Path(__file__).parents[3]
USER = 54321  # of the network side; no account is needed
# Runs as that user: what it can open, then the ClientApp's answers to the messages of a whole run.
NETWORK_SIDE = """
import json, os, sys, time
from pathlib import Path
from flwr.app import Context, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.supercore.task_identity import TaskIdentity

for name in ("_run_id", "_node_id", "_task_id"):
    setattr(TaskIdentity, name, 7)
task = json.loads(sys.argv[1])
opened = []
for path in task["private"]:
    try:
        open(path, "rb").close() if not Path(path).is_dir() else os.listdir(path)
        opened.append(path)
    except PermissionError:
        pass
for folder in task["private_folders"]:
    try:
        Path(folder, "new").write_text("x")
        opened.append(folder)
    except PermissionError:
        pass

import numpy as np
from client_app.app import app
from fedpdiff.federation.protocol import Instruction, ReleaseInstruction, ShardInstruction
from fedpdiff.federation.run_request import RunRequest
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.records import pack

code = {"fingerprint": code_fingerprint()}
agreement = RunRequest.load(Path(task["request"])).agreement
asked = ReleaseInstruction(**agreement.mechanism.model_dump(), **code, class_names=list("0123456789"))
weights = dict(np.load(task["weights"]))
messages = {
    "train.release": pack(asked, {"centre": agreement.centre}),
    "train.upload": pack(ShardInstruction(shard=0, **code)),
    "train.personalize": pack(Instruction(**code)),
    "evaluate.sample": pack(Instruction(**code), weights),
}
said = {}
for kind, content in messages.items():
    message = make_message(Metadata(7, "m", 1, 1, "", "", time.time(), 3600.0, kind), content)
    reply = app(message, Context(7, 1, task["node"], RecordDict(), task["run"])).content
    said[kind] = {name: dict(record) for name, record in reply.items() if name != "arrays"}
    for name, array in dict(reply.array_records.get("arrays", {})).items():
        np.save(Path(task["node"]["inbox"]) / f"sent-{name}.npy", array.numpy())
print(json.dumps({"user": os.getuid(), "opened": opened, "said": said}))
"""


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """Return a folder that every user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="fedpdiff-sealed-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_network_user(python: str, code: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    libraries = os.pathsep.join([str(ROOT), sysconfig.get_paths()["purelib"]])
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": libraries}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [python, "-c", code, *arguments],
        user=USER,
        group=USER,
        extra_groups=[],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def python_of_everybody(home: Path) -> str:
    """Return a Python of this version that another user may start: this one, or the system's."""
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            if as_network_user(python, "import numpy", home=home).returncode == 0:
                return python
    pytest.skip("another user cannot start this Python: it lies in a private folder")


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to run a process as another user")
def test_the_network_side_is_another_user(make_client: Callable[..., Any], shared_folder: Path) -> None:
    python = python_of_everybody(shared_folder)
    client = make_client("deployment", **{"personal-steps": 2})
    client.all_actions()  # as an open client, before; what it released, the sealed site serves
    data, private = shared_folder / "data", shared_folder / "private"
    Path(client.node["data-path"]).rename(data)
    data.chmod(0o700)
    request, outbox, inbox = (shared_folder / name for name in ("request.json", "outbox", "inbox"))
    RunRequest.make(client.config).save(request)
    shutil.copytree(client.folder / "state" / "release", private / "state" / "release")
    private.chmod(0o700)
    options = ["--state", str(private), "--request", str(request), "--policy", client.node["policy"]]
    options += ["--data", str(data), "--site", "north"]
    assert main(["release", *options, "--outbox", str(outbox)]) == 0
    assert main(["personalize", "--state", str(private)]) == 0
    inbox.mkdir()
    os.chown(inbox, USER, USER)
    np.savez(shared_folder / "weights.npz", **client.weights())  # type: ignore[arg-type]
    private_files = [path for folder in (data, private) for path in (folder, *folder.rglob("*"))]
    store = private / "state" / "release"
    assert {data, store / "ledger.sqlite", store / "secret"} <= set(private_files)
    assert private / "state" / "personal" / "denoiser.json" in private_files
    task = {
        "private": [str(path) for path in (*private_files, outbox / "certificate.json")],
        "private_folders": [str(path) for path in (data, private, store, outbox)],
        "request": str(request),
        "weights": str(shared_folder / "weights.npz"),
        "run": client.run,
        "node": {"outbox": str(outbox), "inbox": str(inbox), "site-name": "north"},
    }
    done = as_network_user(python, NETWORK_SIDE, json.dumps(task), home=inbox)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["user"], result["opened"]) == (USER, [str(outbox / "certificate.json")])
    assert all(set(records) == {"message"} for records in result["said"].values()), result["said"]
    exact = np.load(store / "outbox" / "release.npy")
    assert np.load(inbox / "sent-codes.npy").tobytes() == encode(exact, 8).tobytes()
    _the_private_side_goes_on(client, private, inbox, shared_folder / "samples")


def _the_private_side_goes_on(client: Any, private: Path, inbox: Path, samples: Path) -> None:
    """Check that the global half arrived as it was sent, and gives the open client's samples and scores."""
    half = to_arrays(Denoiser.from_pretrained(inbox / "global"))
    sent = client.weights()
    assert all(np.array_equal(sent[f"global/{name}"], weights) for name, weights in half.items())
    assert main(["evaluate", "--state", str(private), "--inbox", str(inbox)]) == 0
    scores = json.loads((private / "scores.json").read_text())
    assert scores and scores == json.loads((client.folder / "scores.json").read_text())
    for name in ("local", "pfdm", "global"):
        ours, theirs = (np.load(folder / "samples" / f"{name}.npz") for folder in (private, client.folder))
        assert np.array_equal(ours["images"], theirs["images"])
    halves = ["--global", str(inbox / "global"), "--personal", str(private / "state" / "personal")]
    assert (
        main(["sample", *halves, "-n", "10", "--steps", "2", "--device", "cpu", "--out", str(samples)]) == 0
    )
    assert np.load(samples / "samples.npz")["images"].shape == (10, 1, 8, 8)
