"""What the fault tests share."""

import pytest
from harness import serving
from wire import hostile_server


@pytest.fixture
def faulty(programs, tmp_path):
    """Starts programs/faulty.py: ``with faulty("--workers", "2") as server``. Calls are noted in a file."""

    def start(*flags, **environment):
        return serving(
            [programs / "faulty.py", *flags],
            tmp_path / "log",
            env={"CALLS": str(tmp_path / "calls"), **environment},
        )

    return start


@pytest.fixture(scope="module", params=["1", "2"], ids=["one worker", "two workers"])
def server(request, tmp_path_factory):
    """programs/hostile.py, with one worker and with two."""
    with hostile_server(tmp_path_factory.mktemp("hostile"), "--workers", request.param) as running:
        yield running
