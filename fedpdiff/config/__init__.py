"""The run's and the client's settings, checked before anything starts."""

from fedpdiff.config.node import NodeConfig
from fedpdiff.config.run import PFDM, RunConfig

__all__ = ["PFDM", "NodeConfig", "RunConfig"]
