"""One server for all tests, as long as they leave it alive."""

import pytest
from servers import Server, running

import nnblip
from nnblip.remote import client


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


@pytest.fixture(scope="session")
def there(far):
    return far


@pytest.fixture
def stock(server, monkeypatch):
    """What the tests without a server call their stand-in for one; gives the sizes of requests, up and down."""
    sizes, finalize = [], client.Backend.finalize

    def finalized(self, content):
        sizes.append((self.sent, len(content)))
        return finalize(self, content)

    monkeypatch.setattr(client.Backend, "finalize", finalized)
    return sizes
