"""What a site sees of the coordinator: its certificate, its clock, and nothing but the fleet calls."""

from __future__ import annotations

import datetime
import email.utils
import http.client
import ssl
from pathlib import Path

from fedpdiff.deployment.findings import Finding

_SECONDS = 10.0
_CLOCK_SECONDS = 5.0  # Flower refuses signatures that are older than 305 s, or come from 5 s in the future
CLOSED = ("/v1/control/list-runs", "/v1/runtime/acquire-task")


def coordinator(host: str, port: int, authority: Path) -> list[Finding]:
    """Connect as a SuperNode would, and look at what answers.

    Parameters
    ----------
    host, port
        The coordinator's address.
    authority
        Its ``ca.crt``.
    """
    what = f"coordinator {host}:{port}"
    try:
        status, date = _ask(host, port, authority, "/v1/fleet/")
        others = {path: _ask(host, port, authority, path)[0] for path in CLOSED}
    except (OSError, http.client.HTTPException) as error:
        return [Finding("problem", what, *_explain(error))]
    found = [Finding("ok", what, "reached; its certificate is vouched for by ca.crt"), _clock(date)]
    if status >= 500:
        mend = "ask the coordinator to start its SuperLink (start-superlink)"
        found.append(
            Finding("problem", what, f"the proxy answers, but not the SuperLink behind it ({status})", mend)
        )
    if opened := [path for path, answer in others.items() if answer != 404]:
        mend = "tell the coordinator: sites must come through start-proxy, never to the SuperLink itself"
        found.append(Finding("problem", what, f"{', '.join(opened)} can be reached from here", mend))
    return found


def _ask(host: str, port: int, authority: Path, path: str) -> tuple[int, str]:
    context = ssl.create_default_context(cafile=str(authority))
    connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    try:
        connection.request("POST", path, body=b"")
        answer = connection.getresponse()
        return answer.status, answer.getheader("Date", "")
    finally:
        connection.close()


def _clock(date: str) -> Finding:
    try:
        theirs = email.utils.parsedate_to_datetime(date)
        off = (datetime.datetime.now(datetime.UTC) - theirs).total_seconds()
    except (ValueError, TypeError):  # no date, or one without its zone
        return Finding("note", "clock", "the coordinator did not tell its time")
    if abs(off) > _CLOCK_SECONDS:
        mend = (
            "set both clocks (timedatectl set-ntp true): the SuperLink refuses signatures from the wrong time"
        )
        return Finding(
            "problem",
            "clock",
            f"{abs(off):.0f} seconds {'ahead of' if off > 0 else 'behind'} the coordinator's",
            mend,
        )
    return Finding("ok", "clock", "agrees with the coordinator's")


def _explain(error: Exception) -> tuple[str, str]:
    """Return what went wrong and what to do, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is refused: {error.verify_message}",
            "compare ca.crt with the coordinator's, and the host name with the one it was set up with",
        )
    if isinstance(error, ssl.SSLError):
        return ("what answers there does not speak TLS", "check the port; sites connect to the proxy's")
    reason = str(error) or type(error).__name__
    return (
        f"cannot be reached ({reason})",
        "check name and port in site.toml, the firewall, and that the coordinator's start-proxy runs",
    )
