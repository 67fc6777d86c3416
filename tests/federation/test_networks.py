"""Threads of a process: all libraries that compute keep to what was set."""

from __future__ import annotations

import json
import subprocess
import sys


def test_all_libraries_use_the_threads_that_are_set() -> None:
    """In a process of its own: the number stays for whatever runs after."""
    code = (
        "import json, torch\nfrom threadpoolctl import threadpool_info\n"
        "from fedpdiff.federation.networks import use_threads\n"
        "counts = lambda: [torch.get_num_threads(), *(pool['num_threads'] for pool in threadpool_info())]\n"
        "told = []\n"
        "for threads in (3, 0, 1):\n    use_threads(threads)\n    told.append(counts())\n"
        "print(json.dumps(told))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    three, left, one = json.loads(output)
    assert len(three) > 2  # torch and two libraries of linear algebra
    assert set(three) == {3} and left == three
    assert set(one) == {1}
