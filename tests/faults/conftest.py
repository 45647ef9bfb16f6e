"""What the fault tests share."""

import pytest
from harness import serving


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
