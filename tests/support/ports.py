"""Ports for servers that tests start."""

import random
import socket

#: Below the ports that systems give to clients, so that no connection takes a port before its server is started.
RANGE = range(20_000, 32_000)


def free_port():
    """Return a port of this machine that no server uses."""
    while True:
        port = random.choice(RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
