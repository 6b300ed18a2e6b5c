"""A PostgreSQL server for all tests of faults; it takes seconds to set up."""

import pytest
from postgres import Server


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
