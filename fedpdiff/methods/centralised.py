"""Centralised: one network trained on all clients' clean images, as no federation can. The upper bound.

Only a simulation can compute it, and only where ``centralised = true`` says that it may.
"""

from __future__ import annotations

from fedpdiff.methods.base import RoundMethod


class Centralised(RoundMethod):
    """No client trains; the server does, on everybody's images."""

    name = "centralised"
    title = "centralised"
    source = "PFDM's upper bound, arXiv 2504.00952"
    server_sees = "everybody's clean images"
    privacy = "none: the images themselves are pooled"
    clients_train = False
