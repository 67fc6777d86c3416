from __future__ import annotations

# The stand-ins for a running Flower task, and the connection that calls the ClientApp itself.
from tests.apps.conftest import fake_grid, no_report, quick, settings, simulated_nodes  # noqa: F401
