"""What the noise health check costs beside the noising. Run: python simulations/benchmarks/noise_health.py

For client sets of several sizes it prints the median CPU seconds of the mechanism alone (clip, signal, noise;
no hashing, no ledger, no disk), of the check, and their ratio. The check has a fixed part, so the ratio falls
with the size. On one core of an AMD EPYC, threads limited to 1:

                    images     noising       check    ratio
        1000 x 1 x 28 x 28     0.021 s     0.012 s    57.5%
        5000 x 1 x 28 x 28     0.096 s     0.018 s    18.4%
       20000 x 1 x 28 x 28     0.369 s     0.033 s     9.0%
       10000 x 3 x 32 x 32     0.757 s     0.061 s     8.1%

Of a whole noising, ledger and disk included, it is 2 % at 20,000 images of 28x28 (0.034 of 2.0 s).
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.mechanism import noise_sigma, release_with_signal
from fedpdiff.privacy.noise_health import check_noise

ALPHA_BAR = 0.00801553  # t0 = 690 of the linear schedule
CLIP = 10.0
SHAPES = ((1000, 1, 28, 28), (5000, 1, 28, 28), (20_000, 1, 28, 28), (10_000, 3, 32, 32))


def measure(shape: tuple[int, int, int, int], repetitions: int) -> tuple[float, float]:
    """Return the median CPU seconds of the mechanism and of the check."""
    pixels = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    noising, checking = [], []
    for _ in range(repetitions):
        start = time.process_time()
        release, signal = release_with_signal(pixels, 0.0, CLIP, ALPHA_BAR, SecureNoise())
        middle = time.process_time()
        if not check_noise(release, signal, noise_sigma(ALPHA_BAR)).ok:
            raise SystemExit("sound noise failed its check")
        noising.append(middle - start)
        checking.append(time.process_time() - middle)
    return statistics.median(noising), statistics.median(checking)


def main() -> None:
    """Print one line per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    print(f"{'images':>22}{'noising':>12}{'check':>12}{'ratio':>9}")
    for shape in SHAPES:
        noising, checking = measure(shape, repetitions)
        size = " x ".join(str(side) for side in shape)
        print(f"{size:>22}{noising:>10.3f} s{checking:>10.3f} s{checking / noising:>9.1%}")


if __name__ == "__main__":
    main()
