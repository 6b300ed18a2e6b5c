"""A PostgreSQL server for all tests of faults, which takes seconds to set up, and the command in this process."""

import sys

import pytest
from postgres import Server

from dropopt import cli


@pytest.fixture(scope="session")
def _server():
    made = Server()
    yield made
    made.remove()


@pytest.fixture
def server(_server):
    """A running server without studies."""
    yield _server
    _server.clear()


@pytest.fixture(name="dropopt")
def _dropopt(monkeypatch, capsys):
    """A function that runs ``dropopt ARGUMENTS`` in this process; returns its exit code, output and errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dropopt", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capsys.readouterr()

    return call
