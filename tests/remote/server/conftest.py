"""The bundled model, here and on the server."""

import pytest

import nnblip


@pytest.fixture(scope="session")
def far(server):
    return nnblip.BlipVQA(remote=True)


@pytest.fixture(scope="session")
def there(far):
    return far


@pytest.fixture(scope="session")
def local():
    return nnblip.BlipVQA()


@pytest.fixture(scope="module", autouse=True)
def it_runs(server):
    """At the start of each file, whatever the one before has done to it."""
    if not server.runs:
        server.start()
