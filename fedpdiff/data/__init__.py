"""Images and labels: sources, splits, the clients' partitions, and what one client sees."""

from fedpdiff.data.client import ClientData, load_client
from fedpdiff.data.public import load_all_private, load_public, load_test
from fedpdiff.data.source import class_names

__all__ = [
    "ClientData",
    "class_names",
    "load_all_private",
    "load_client",
    "load_public",
    "load_test",
]
