"""FedPhD: clients train at edge servers that are chosen so that all of them see a balanced mix of classes.

Published: Long et al. 2025 (arXiv 2507.06449, and its code). With the labels of an edge server's clients as
a histogram q over K classes, and q* uniform, its homogeneity score is

    SH(q) = 2 - |q* - q|_2.

A client joins edge server e with probability proportional to ReLU(a SH_e - n_e) + 1e-8, with its own labels
merged into e's histogram and n_e the images attached to e so far (a = 10,000); an edge server averages its
clients' weights after every round; after the first round and every fifth from there on, the central server
averages the edge servers' networks with weights proportional to n_e + b SH_e (b = 50,000 for CIFAR-10), gives
every edge server the average, and attachments begin anew. Structured pruning of the network makes the rest of
its savings.

Ours: no pruning, which would change the network that all methods share. All clients take part in each round.
a and b in units of a client's mean number of images, which was 2,500 there: 4 and 20, times
``homogeneity-weight``. An edge server without clients has no weight. The moving average is each edge server's
own, and the central server averages these after the last round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedpdiff.methods.base import RoundMethod

_CHOICE = 4.0  # a = 10,000 and b = 50,000 at 2,500 images per client
_CENTRAL = 20.0
_LEAST = 1e-8


class FedPhD(RoundMethod):
    """FedAvg at edge servers with balanced classes, and now and then among them."""

    name = "fedphd"
    title = "FedPhD"
    source = "Long et al. 2025, arXiv 2507.06449, without its pruning"
    server_sees = (
        "every client's weights after each round, at its edge server, and its number of images per class, "
        "by which it is sent to one"
    )

    @property
    def edges(self) -> int:
        """Number of edge servers."""
        return self.config.edge_servers

    def choose_edges(
        self, attached: Sequence[np.ndarray], counts: Sequence[np.ndarray], generator: np.random.Generator
    ) -> list[int]:
        """Send one client after the other, in random order, to where its labels are wanted most."""
        weight = self.config.homogeneity_weight * _CHOICE * _mean_images(counts)
        so_far, chosen = list(attached), [0] * len(counts)
        for client in generator.permutation(len(counts)).tolist():
            own = counts[client]
            wanted = np.array([weight * homogeneity(edge + own) - edge.sum() for edge in so_far])
            probability = wanted.clip(min=0.0) + _LEAST
            edge = int(generator.choice(len(so_far), p=probability / probability.sum()))
            so_far[edge] = so_far[edge] + own
            chosen[client] = edge
        return chosen

    def edges_meet(self, number: int) -> bool:
        """Return whether this is the first round or a multiple of ``edge-rounds`` after it."""
        return (number - 1) % self.config.edge_rounds == 0

    def edge_shares(self, attached: Sequence[np.ndarray], counts: Sequence[np.ndarray]) -> list[float]:
        """Return n_e + b SH_e."""
        weight = self.config.homogeneity_weight * _CENTRAL * _mean_images(counts)
        return [float(edge.sum() + weight * homogeneity(edge)) if edge.any() else 0.0 for edge in attached]


def homogeneity(counts: np.ndarray) -> float:
    """Return SH of numbers of images per class, shape (K,), not all 0; 2 where they are equal, else less."""
    return 2.0 - float(np.linalg.norm(1.0 / len(counts) - counts / counts.sum()))


def _mean_images(counts: Sequence[np.ndarray]) -> float:
    return float(np.mean([own.sum() for own in counts]))
