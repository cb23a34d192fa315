"""Connections to this machine alone, for tests that start a server."""

from __future__ import annotations

import _socket
import socket
from typing import Any

import pytest


def allow_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test connect to 127.0.0.1, and to nothing else."""

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "127.0.0.1":
            message = f"a test opened a connection to {address}"
            raise AssertionError(message)
        _socket.socket.connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
