"""The errors fedpdiff raises on purpose; each message names the setting, its value and what is allowed."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


def is_full(error: BaseException) -> bool:
    """Return whether an error says that a disk, or the caller's share of it, is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    # safetensors names the system's error only in words
    return any(f"code: {number}," in str(error) or f"os error {number})" in str(error) for number in _FULL)
