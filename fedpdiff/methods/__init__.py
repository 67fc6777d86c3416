"""The methods that PFDM is compared with: one file each, and one line here."""

from __future__ import annotations

from fedpdiff.config import PFDM, RunConfig
from fedpdiff.errors import ConfigError
from fedpdiff.methods.base import RoundMethod
from fedpdiff.methods.centralised import Centralised
from fedpdiff.methods.dpdm_fedavg import DPDMFedAvg
from fedpdiff.methods.fedavg import FedAvg
from fedpdiff.methods.fedddpm import FedDDPM, FedDDPMPlus
from fedpdiff.methods.feddiffuse import UDec, ULatDec, USplit
from fedpdiff.methods.feddm_quant import FedDMQuant
from fedpdiff.methods.fedphd import FedPhD
from fedpdiff.methods.fedprox import FedProx
from fedpdiff.methods.local_only import LocalOnly

METHODS: dict[str, type[RoundMethod]] = {
    method.name: method
    for method in (
        LocalOnly,
        Centralised,
        FedAvg,
        FedProx,
        FedDMQuant,
        USplit,
        ULatDec,
        UDec,
        FedDDPM,
        FedDDPMPlus,
        DPDMFedAvg,
        FedPhD,
    )
}


def round_method(config: RunConfig) -> RoundMethod:
    """Return the method that a run's settings name.

    Raises
    ------
    ConfigError
        When there is none of that name; it lists all.
    """
    if config.method not in METHODS:
        raise ConfigError(f'method = "{config.method}": must be one of {", ".join([PFDM, *METHODS])}')
    return METHODS[config.method](config)
