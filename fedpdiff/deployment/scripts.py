"""The start scripts and the proxy's configuration: plain files that a person can read before running them.

Scripts find their own folder, so that it can be moved or mounted; ``FEDPDIFF_BIN`` names another environment
than the one that made them.
"""

from __future__ import annotations

import sys
from pathlib import Path

_HEAD = """\
#!/bin/sh
# {purpose}
set -eu
umask 077
HERE=$(cd -- "$(dirname -- "$0")" && pwd)
: "${{FEDPDIFF_BIN:={tools}}}"
unset PYTHONPATH
export PATH="$FEDPDIFF_BIN:$PATH" FLWR_HOME="$HERE/flower" PYTHONUNBUFFERED=1
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
cd "$HERE/empty" # Python imports from the working directory first: keep it empty
"""

_SUPERLINK = """\
# What is freed goes back to the system; otherwise glibc keeps it.
export MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=1048576 MALLOC_TRIM_THRESHOLD_=1048576
# flower-superlink, which waits longer for locks of its database
exec "$FEDPDIFF_BIN/python" -P -m server_app.superlink \\
  --host {bind} --port {port} \\
  --ssl-ca-certfile "$HERE/ca.crt" --ssl-certfile "$HERE/server.pem" --ssl-keyfile "$HERE/server.key" \\
  --enable-supernode-auth --database "$HERE/state/superlink.db" \\
  --isolation process --superexec-auth-secret-file "$HERE/superexec.secret" \\
  --disable-runtime-dependency-installation
"""

_SERVERAPP = """\
# What is freed goes back to the system; otherwise glibc keeps it.
export MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=4194304 MALLOC_TRIM_THRESHOLD_=4194304
exec "$FEDPDIFF_BIN/flower-superexec" \\
  --root-certificates "$HERE/ca.crt" --runtime-api-address {address} \\
  --superexec-auth-secret-file "$HERE/superexec.secret"
"""

_PROXY = """\
exec nginx -p "$HERE/proxy" -c "$HERE/nginx.conf" -e "$HERE/proxy/error.log" -g 'daemon off;'
"""

_SUPERNODE = """\
# From site.toml: SUPERLINK, RUNTIME_PORT and NODE_CONFIG
SETTINGS=$("$FEDPDIFF_BIN/fedpdiff" site settings "$HERE")
eval "$SETTINGS"
exec "$FEDPDIFF_BIN/flower-supernode" \\
  --root-certificates "$HERE/ca.crt" --superlink "$SUPERLINK" --auth-supernode-private-key "$HERE/site.key" \\
  --host 127.0.0.1 --port "$RUNTIME_PORT" --ssl-ca-certfile "$HERE/runtime-ca.crt" \\
  --ssl-certfile "$HERE/runtime.pem" --ssl-keyfile "$HERE/runtime.key" \\
  --isolation process --superexec-auth-secret-file "$HERE/superexec.secret" \\
  --node-config "$NODE_CONFIG"
"""

_CLIENTAPP = """\
# From site.toml: RUNTIME_PORT, CODE_FINGERPRINT and, in words, whose code this site TRUSTS
SETTINGS=$("$FEDPDIFF_BIN/fedpdiff" site settings "$HERE")
eval "$SETTINGS"
echo "$TRUSTS" >&2
set -- --root-certificates "$HERE/runtime-ca.crt" --runtime-api-address "127.0.0.1:$RUNTIME_PORT" \\
  --superexec-auth-secret-file "$HERE/superexec.secret"
if [ -n "$CODE_FINGERPRINT" ]; then
  # Installed code compares what the coordinator ships with the fingerprint, and runs in its place.
  exec "$FEDPDIFF_BIN/python" -P -m client_app.pinned_superexec "$CODE_FINGERPRINT" "$@"
fi
exec "$FEDPDIFF_BIN/flower-superexec" "$@"
"""

_NGINX = """\
# The only door for sites: TLS, and nothing but Flower's fleet calls. Names of files are relative to this one.
pid nginx.pid;
worker_processes auto;
error_log error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log access.log;
  server_tokens off;
  client_body_temp_path body;
  proxy_temp_path proxied;
  fastcgi_temp_path unused-fastcgi;
  uwsgi_temp_path unused-uwsgi;
  scgi_temp_path unused-scgi;
  upstream superlink {{
    server 127.0.0.1:{superlink_port};
    keepalive 16;
  }}
  server {{
    listen {port} ssl;
    ssl_certificate server.pem;
    ssl_certificate_key server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    client_max_body_size 64m; # Flower sends arrays in pieces of 5 MiB
    # Nothing else, above all not /v1/control/ (has no login: submits code) and /v1/runtime/.
    location / {{ return 404; }}
    location /v1/fleet/ {{
      # The path is passed on as it was matched, so that no spelling of it leads elsewhere.
      proxy_pass https://superlink/v1/fleet/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate ca.crt;
      proxy_ssl_name localhost;
      proxy_request_buffering off; # uploads go through, not to this disk
      proxy_buffering off;
      proxy_read_timeout 300s;
      proxy_send_timeout 300s;
    }}
  }}
}}
"""


def superlink(port: int) -> str:
    """Return the script that starts the SuperLink, on this machine's own address only."""
    return _head("Starts the SuperLink. Only this machine reaches it; sites come through start-proxy.") + (
        _SUPERLINK.format(bind="127.0.0.1", port=port)
    )


def serverapp(port: int) -> str:
    """Return the script that starts what runs the ServerApp, in a process apart from the SuperLink's."""
    return _head("Runs the ServerApp; needs the secret that it shares with the SuperLink.") + (
        _SERVERAPP.format(address=f"127.0.0.1:{port}")
    )


def proxy() -> str:
    """Return the script that starts nginx."""
    return _head("Starts nginx, the only door for sites.") + _PROXY


def nginx(port: int, superlink_port: int) -> str:
    """Return nginx's configuration: ``/v1/fleet/`` and nothing else."""
    return _NGINX.format(port=port, superlink_port=superlink_port)


def supernode() -> str:
    """Return the script that starts a site's SuperNode, the process that talks to the network."""
    return _head("Starts the SuperNode, which talks to the coordinator.") + _SUPERNODE


def clientapp() -> str:
    """Return the script that starts what runs the ClientApp, in a process apart from the SuperNode's."""
    return _head("Runs the ClientApp; needs the secret that it shares with the SuperNode.") + _CLIENTAPP


def _head(purpose: str) -> str:
    return _HEAD.format(purpose=purpose, tools=Path(sys.executable).parent)
