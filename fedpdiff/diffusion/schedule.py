"""The noise schedule of the denoisers' chain: the one that releases are made and verified with."""

from fedpdiff.schedule import SCHEDULES, NoiseSchedule

__all__ = ["SCHEDULES", "NoiseSchedule"]
