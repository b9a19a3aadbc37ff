"""One server for all tests, as long as they leave it alive."""

import pytest
from servers import Server, running

import nnblip


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running(Server(tmp_path_factory.mktemp("server") / "log")) as found:
        yield found


@pytest.fixture(scope="session")
def far(server):
    return nnblip.BlipVQA(remote=True)


@pytest.fixture(scope="session")
def local():
    return nnblip.BlipVQA()
