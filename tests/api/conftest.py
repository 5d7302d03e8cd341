"""Servers for the API tests.  `server` is one with the tiny model for the whole run; `start` makes
more with other options; `smollm` is one with the real small model, skipped where it is not there."""
import pytest

from harness import SMOLLM, Server


@pytest.fixture(scope="session")
def start():
    """Starts servers that live until the end of the run."""
    running = []

    def make(*flags, **options):
        running.append(Server(*flags, **options))
        return running[-1]

    yield make
    codes = [s.stop() for s in running]
    for s, code in zip(running, codes):
        s.check(code)


@pytest.fixture(scope="session")
def server(start):
    return start()


@pytest.fixture(scope="session")
def client(server):
    return server.client()


@pytest.fixture(autouse=True)
def still_alive(request):
    """No test may kill the shared server."""
    yield
    if "server" in request.fixturenames:
        s = request.getfixturevalue("server")
        assert s.process.poll() is None, s.log[-3000:]


@pytest.fixture(scope="session")
def smollm(start):
    if not SMOLLM.exists():
        pytest.skip("models/cache has no SmolLM2; `make models` gets it")
    return start("--n_ctx", 2048, models={"smollm": SMOLLM})
