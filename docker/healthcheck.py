#!/usr/bin/env python3
"""Exits with 0 if the container's server answers at /healthz, or if no server was asked for.

Usage: healthcheck CMDLINE, a process's arguments as in /proc/1/cmdline. A demo, say, is healthy as
long as it runs, and Docker sees that for itself.
"""

import argparse
import http.client
import ssl
import sys
from pathlib import Path

SECONDS = 4.0
"""Longest wait for the answer."""
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that stand for all of this machine's, and where to reach the server then."""


def main() -> None:
    arguments = Path(sys.argv[1]).read_bytes().decode(errors="replace").split("\0")
    if "serve" in arguments:
        check(arguments[arguments.index("serve") + 1 :])


def check(arguments: list[str]) -> None:
    """Exits with 1 unless the server that was started with `arguments` answers with 200."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--tls-cert")
    options, _ = parser.parse_known_args(arguments)
    place = ANYWHERE.get(options.host, options.host), options.port
    connection = http.client.HTTPConnection(*place, timeout=SECONDS)
    if options.tls_cert:
        # The certificate names the server as others see it, and this never leaves the container.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(*place, timeout=SECONDS, context=context)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"no answer: {error}")
    if status != 200:
        sys.exit(f"the answer is {status}")


main()
