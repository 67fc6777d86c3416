"""The errors fedpdiff raises on purpose; each message names the setting, its value and what is allowed."""

from __future__ import annotations


class FedpdiffError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(FedpdiffError):
    """A setting is unknown, of the wrong type, out of range, or impossible together with another."""


class DataError(FedpdiffError):
    """Images, labels or partitions cannot be read or do not fit the settings."""


class PrivacyError(FedpdiffError):
    """Going on would break, or overstate, the privacy guarantee."""


class MessageError(FedpdiffError):
    """A message between server and client is not what was agreed."""


class RunError(FedpdiffError):
    """A run cannot go on, for example because too few clients are left."""
