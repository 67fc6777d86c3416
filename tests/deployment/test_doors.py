"""What a site can reach of the coordinator: Flower's fleet calls through the proxy, and nothing else."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONTROL = "/v1/control/list-runs"
CLOSED = (CONTROL, "/v1/runtime/acquire-task", "/openapi.json", "/docs", "/health", "/")
DISGUISED = (
    "//v1//control//list-runs",
    "/v1/./control/list-runs",
    "/V1/CONTROL/list-runs",
    "/v1%2fcontrol%2flist-runs",
    "/%76%31/%63ontrol/list-runs",
    "/v1/control/list-runs?/v1/fleet/",
    "/v1/control/list-runs#/v1/fleet/",
    "/v1/control;/v1/fleet/../list-runs",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/%2e%2e%2fcontrol%2flist-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet/%252e%252e/control/list-runs",
    "/v1/fleet/..;/control/list-runs",
    "/v1/fleet/.%00./control/list-runs",
    "/v1/fleet/..\\control\\list-runs",
    "/v1/fleet/x/../../control/list-runs",
    "/v1/fleet//../../v1/control/list-runs",
    "/v1/fleet/http://127.0.0.1/v1/control/list-runs",
    "https://localhost/v1/control/list-runs",
    "https://localhost/v1/fleet/../control/list-runs",
    "*",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="sites come through nginx: apt-get install nginx-light"),
]


class Door:
    """A port of the coordinator, spoken to byte by byte, so that no library mends a path."""

    def __init__(self, authority: Path, port: int) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=str(authority))

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("localhost", self.port), timeout=30)
        return self.context.wrap_socket(plain, server_hostname="localhost")

    def send(self, request: bytes) -> list[int]:
        """Return the status of each answer until the other side closes."""
        with self.connect() as connection:
            connection.sendall(request)
            received = b""
            try:
                while part := connection.recv(65536):
                    received += part
            except (ConnectionError, ssl.SSLError):
                pass
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", received)]

    def ask(self, path: str, method: str = "POST", headers: str = "") -> int:
        """Return the one answer's status; 0 when the connection was closed instead."""
        lines = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}"
        answers = self.send(f"{lines}Content-Length: 0\r\n\r\n".encode())
        assert len(answers) <= 1
        return answers[0] if answers else 0


@pytest.fixture
def doors(machines: Any, free_ports: Callable[[int], list[int]]) -> tuple[Door, Door]:
    """Return the proxy's door and the SuperLink's own, of a coordinator that runs."""
    port, inner = free_ports(2)
    machines.run(f"fedpdiff coordinator init c --host localhost --port {port} --superlink-port {inner}")
    for script in ("c/start-superlink", "c/start-proxy"):
        machines.start(script)
    machines.wait_for_ports(port, inner)
    authority = machines.root / "c" / "ca.crt"
    return Door(authority, port), Door(authority, inner)


def test_one_door_and_nothing_else(doors: tuple[Door, Door]) -> None:
    door, inner = doors
    assert inner.ask(CONTROL) not in (0, 400, 404, 405)  # there is something to be kept away from
    assert inner.ask("/v1/runtime/acquire-task") not in (0, 400, 404, 405)
    assert inner.ask("/openapi.json", "GET") == 200
    # The fleet calls are reached, and nobody is let in unsigned.
    assert door.ask("/v1/fleet/activate-node") == inner.ask("/v1/fleet/activate-node")
    assert door.ask("/v1/fleet/activate-node") not in (0, 200, 404)
    for path in CLOSED:
        for method in METHODS:
            assert door.ask(path, method) in (0, 400, 404, 405), (method, path)
    for path in DISGUISED:
        for method in ("GET", "POST"):
            assert door.ask(path, method) in (0, 400, 404, 405), (method, path)
    for headers in (f"X-Original-URL: {CONTROL}\r\n", f"X-Rewrite-URL: {CONTROL}\r\n", "Host: x\r\n"):
        assert door.ask("/v1/fleet/nothing", headers=headers) in (0, 400, 401, 404), headers
    _no_second_request_inside(door)
    _other_protocols(door)


def _no_second_request_inside(door: Door) -> None:
    """A request hidden in another's body never reaches the SuperLink as a request."""
    hidden = f"POST {CONTROL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    start = "POST /v1/fleet/nothing HTTP/1.1\r\nHost: localhost\r\n"
    for headers in (
        f"Content-Length: {len(hidden) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 9\r\n\r\n",
        "Content-Length: 0\r\nConnection: close, Content-Length\r\n\r\n",
    ):
        closed = hidden.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
        for status in door.send(f"{start}{headers}{closed}".encode()):
            assert status in (400, 401, 404, 405, 411, 501), headers


def _other_protocols(door: Door) -> None:
    plain = http.client.HTTPConnection("localhost", door.port, timeout=30)
    plain.request("POST", "/v1/fleet/activate-node", body=b"")
    assert plain.getresponse().status == 400  # nginx: plain HTTP on a TLS port
    plain.close()
    door.context.set_alpn_protocols(["h2", "http/1.1"])
    with door.connect() as connection:
        assert connection.selected_alpn_protocol() in (None, "http/1.1")
    assert set(door.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))) <= {400, 405, 505}
    upgrade = "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    assert door.ask(CONTROL, headers=f"{upgrade}Connection: Upgrade, HTTP2-Settings\r\n") in (0, 400, 404)
    assert door.ask(CONTROL, "GET", "Upgrade: websocket\r\nConnection: Upgrade\r\n") in (0, 400, 404)
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection(("localhost", door.port)) as s,
    ):
        old.wrap_socket(s)
