"""Starts an example's ``serve.py`` as a user would, in a process of its own."""

import pytest
from harness import EXAMPLES, serving


@pytest.fixture(scope="class")
def server(request, tmp_path_factory):
    """The example that the test class names, started once for the class; SIGTERM must end it with 0."""
    example = request.cls
    scratch = tmp_path_factory.mktemp(example.name)
    example.prepare(scratch)
    flags = []
    if example.archive == "made by serve.py":
        flags = ["--output", scratch]
    elif example.archive:
        flags = ["--output", request.getfixturevalue(example.archive).folder]
    with serving(
        ["serve.py", *flags],
        scratch / "output.txt",
        cwd=EXAMPLES / example.name,
        env={"TORCH_HOME": str(scratch), "PYTHONUNBUFFERED": "1"},
    ) as running:
        yield running.wait_ready(example.model)
        assert running.stop() == 0, running.text()
