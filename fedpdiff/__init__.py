"""fedpdiff: federated personalised diffusion from one noisy upload per client (PFDM, arXiv 2504.00952)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpdiff.diffusion.pipeline import PFDMPipeline

__all__ = ["PFDMPipeline"]


def __getattr__(name: str) -> Any:
    """Import the pipeline when it is first used: diffusers takes seconds to import."""
    if name == "PFDMPipeline":
        from fedpdiff.diffusion.pipeline import PFDMPipeline

        return PFDMPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
