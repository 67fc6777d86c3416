"""What a site's doctor says of the coordinator that answers it."""

from __future__ import annotations

import datetime
import email.utils
import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedpdiff.deployment.certificates import make_authority, make_server
from fedpdiff.deployment.connection import CLOSED, coordinator
from fedpdiff.deployment.findings import Finding

Start = Callable[..., tuple[int, Path]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a coordinator of our making: how it behaves, then its port and ca.crt."""
    running: list[http.server.HTTPServer] = []

    def run(
        fleet: int = 401,
        closed: int = 404,
        seconds_off: float = 0.0,
        host: str = "localhost",
        tls: bool = True,
        date: str = "",
    ) -> tuple[int, Path]:
        class Answers(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(closed if self.path in CLOSED else fleet)
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                theirs = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds_off)
                return date or email.utils.format_datetime(theirs, usegmt=True)

            def log_message(self, *_: object) -> None:
                pass

        authority = make_authority("test")
        server = make_server(authority, [host])
        for name, content in (
            ("ca.crt", authority.certificate_pem),
            ("server.pem", server.certificate_pem),
            ("server.key", server.key_pem),
        ):
            (tmp_path / name).write_bytes(content)
        listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
            listener.socket = context.wrap_socket(listener.socket, server_side=True)
        running.append(listener)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        return listener.server_address[1], tmp_path / "ca.crt"

    yield run
    for listener in running:
        listener.shutdown()
        listener.server_close()


def problems(found: list[Finding]) -> str:
    return "\n".join(finding.text() for finding in found if finding.level == "problem")


def test_a_coordinator_in_order(start: Start) -> None:
    found = coordinator("localhost", *start())
    assert [finding.level for finding in found] == ["ok", "ok"]
    assert found[1].what == "clock"


@pytest.mark.parametrize("date", ["noon", "Wed, 25 Nov 2026 12:00:00 -0000"])
def test_a_coordinator_that_does_not_tell_its_time(start: Start, date: str) -> None:
    found = coordinator("localhost", *start(date=date))
    assert [(finding.level, finding.what) for finding in found][1] == ("note", "clock")


@pytest.mark.parametrize(
    ("behaviour", "said", "mend"),
    [
        ({"seconds_off": 600.0}, "seconds ahead of the coordinator's", "set both clocks"),
        ({"seconds_off": -600.0}, "seconds behind the coordinator's", "set both clocks"),
        ({"closed": 401}, "/v1/control/list-runs, /v1/runtime/acquire-task can be reached", "start-proxy"),
        ({"fleet": 502}, "not the SuperLink behind it (502)", "start-superlink"),
        ({"host": "pfdm.example.org"}, "certificate is refused", "host name"),
        ({"tls": False}, "does not speak TLS", "check the port"),
    ],
)
def test_what_is_to_mend(start: Start, behaviour: dict[str, object], said: str, mend: str) -> None:
    text = problems(coordinator("localhost", *start(**behaviour)))
    assert said in text and mend in text.partition("->")[2]


def test_another_authority_is_refused(start: Start, tmp_path: Path) -> None:
    port, _ = start()
    (tmp_path / "other.crt").write_bytes(make_authority("test").certificate_pem)
    assert "certificate is refused" in problems(coordinator("localhost", port, tmp_path / "other.crt"))
