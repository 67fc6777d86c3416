"""What the coordinator's memory and disk take while sites upload, over real processes on this machine.

    python simulations/benchmarks/upload_memory.py [--sites 3] [--megabytes 1000]

Sets up a coordinator (SuperLink, ServerApp, nginx) and sealed sites with the commands of the deployment
guide, fills the sites' outboxes with noise (32x32 RGB at 8 bits: see upload_memory_outbox.py), runs the app
to its end with 20 training steps that draw from all uploads, and watches the memory of SuperLink and
ServerApp all the time, the ServerApp's start and training included. There are no public images, so no feature
network is trained, which would take memory by the image size. RSS counts every page that a process maps, also
those of libraries that several processes share; PSS divides shared ones among them. What the operating system
caches of files that are read in the ordinary way is counted in neither.

The transfer is slower than the network for reasons that are Flower's: each shard is served by a new process
at the site, which takes seconds to start, and is written to the SuperLink's database and read from it again.
The raw rate is that of a plain TCP connection on the loopback interface, measured in the same run.

Needs about 4 times sites x megabytes of disk under --folder. Writes OUT/upload_memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upload_memory_machines import ROOT, WATCHED, Machines, Watch
from upload_memory_outbox import fill

from fedpdiff.config import RunConfig
from fedpdiff.federation.run_request import RunRequest
from fedpdiff.results import Results

MB = 10**6
SIDE, CHANNELS = 32, 3
LIMIT_MB = 1500  # what SuperLink and ServerApp together are to stay below
SETTINGS: dict[str, bool | int | float | str] = {
    "image-size": SIDE,
    "channels": CHANNELS,
    "public-fraction": 0.0,
    "classes": ",".join(str(label) for label in range(10)),  # so that no data set is read to know them
    "centre": "none",
    "clip-rule": "fixed",
    "epsilon": 8.0,
    "wire-bits": 8,
    "global-steps": 20,
    "batch-size": 16,
    "warmup-steps": 0,
    "device": "cpu",
    "wait-seconds": 600,
    "reply-seconds": 7200,
}
JUDGED = "SuperLink + ServerApp"
TOGETHER = {name: (name,) for name in WATCHED} | {JUDGED: WATCHED[:2], "all": WATCHED}
COLUMNS = "{:>10}{:>12}{:>12}{:>12}{:>24}{:>16}"


def loopback_rate(size: int = 1000 * MB) -> float:
    """Return how fast one plain TCP connection carries ``size`` bytes within this machine, MB/s."""
    block = bytes(MB)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            with socket.create_connection(server.getsockname()) as connection:
                for _ in range(size // MB):
                    connection.sendall(block)

        sender = threading.Thread(target=send)
        sender.start()
        connection, _ = server.accept()
        buffer, received, started = bytearray(MB), 0, time.perf_counter()
        with connection:
            while count := connection.recv_into(buffer):
                received += count
        seconds = time.perf_counter() - started
        sender.join()
    if received != size:
        raise SystemExit("the loopback connection lost bytes")
    return received / seconds / MB


def measure(folder: Path, sites: int, megabytes: int) -> dict[str, Any]:
    """Run the app once and return what it took.

    Parameters
    ----------
    folder
        A new folder for everything.
    sites, megabytes
        How many sites, and how much each uploads.
    """
    images = megabytes * MB // (CHANNELS * SIDE**2)
    settings = SETTINGS | {"clients": sites, "min-clients": sites, "run-dir": str(folder / "run")}
    request = RunRequest.make(RunConfig.parse(settings))
    with Machines(folder) as machines:
        for number in range(sites):
            say(f"making the release of site {number + 1} of {sites}: {images} images")
            outbox = folder / f"outbox-{number}"
            fill(outbox, request, images, seed=number)
            machines.add_sealed_site(f"site-{number}", outbox)
        raw = loopback_rate()
        say("running")
        watch = Watch(machines)
        watch.start()
        idle_database = machines.database_bytes()
        status = machines.run(settings)
        watch.finish()
        if status != "finished:completed":
            say(f"peaks up to its end, MB: {json.dumps(peaks(watch.samples))}")
            raise SystemExit(f"the run ended {status}:\n{machines.log('SuperExec')[-4000:]}")
        results = Results.read(folder / "run")
        return {
            "sites": sites,
            "megabytes_per_site": megabytes,
            "images_per_site": images,
            "bytes_up": results.bytes_up,
            "seconds": results.seconds,
            "megabytes_per_second": sum(results.bytes_up) / results.seconds["upload"] / MB,
            "raw_loopback_megabytes_per_second": raw,
            "peak_megabytes": peaks(watch.samples),
            "database_megabytes": {
                "before": idle_database / MB,
                "largest": watch.largest_database / MB,
                "after": machines.database_bytes() / MB,
            },
        }


def peaks(samples: Sequence[tuple[float, dict[str, tuple[int, int]]]]) -> dict[str, dict[str, float]]:
    """Return the largest RSS and PSS, MB, of each process and of several at one time."""
    found: dict[str, dict[str, float]] = {}
    for kind, place in (("rss", 0), ("pss", 1)):
        found[kind] = {
            what: max(sum(sample[name][place] for name in names) for _, sample in samples) / MB
            for what, names in TOGETHER.items()
        }
    return found


def print_table(found: dict[str, Any]) -> None:
    """Print what was measured."""
    print(f"\n{found['sites']} sites x {found['megabytes_per_site']} MB")
    print(COLUMNS.format("peak, MB", *TOGETHER))
    for kind in ("rss", "pss"):
        print(
            COLUMNS.format(kind.upper(), *(f"{peak:.0f}" for peak in found["peak_megabytes"][kind].values()))
        )
    database = found["database_megabytes"]
    print(
        f"SuperLink's database, MB: {database['largest']:.0f} at most, {database['after']:.0f} after the run"
    )
    rate, raw = found["megabytes_per_second"], found["raw_loopback_megabytes_per_second"]
    size, seconds = sum(found["bytes_up"]) / MB, found["seconds"]["upload"]
    print(f"Upload: {size:.0f} MB in {seconds:.0f} s, {rate:.1f} MB/s; raw loopback {raw:.0f} MB/s")


def say(text: str) -> None:
    """Tell the person what goes on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print, write; the exit status is 1 when the memory exceeds what it is to stay below."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=1000, help="that each site uploads")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for everything")
    parser.add_argument("--keep", action="store_true", help="keep the folder, logs and run included")
    parser.add_argument("--out", type=Path, default=ROOT / "simulations/results/upload_memory")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="upload-memory-", dir=args.folder))
    try:
        found = measure(folder, args.sites, args.megabytes)
    finally:
        if args.keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()}
    print_table(found)
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found | {"machine": machine}, indent=2) + "\n"
    (args.out / "upload_memory.json").write_text(text, encoding="utf-8")
    return int(found["peak_megabytes"]["rss"][JUDGED] > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
