"""What requests are called."""

import os
import re

import pytest

from modelserver.rest import request_ids


@pytest.mark.parametrize("given", ["a", "5a0f7f0e-9a57-4b0a-8d1e-aaaaaaaaaaaa", "x" * 128, '"\\;,='])
def test_a_sane_name_is_kept(given):
    fields = {"host": "h", "x-request-id": given}
    assert request_ids.request_id(fields) == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\tb", "ä", "\x7f", "a\r\nb"])
def test_any_other_gets_a_new_one(given):
    fields = {"host": "h"} if given is None else {"host": "h", "x-request-id": given}
    made = request_ids.request_id(fields)
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9]+", made)
    assert request_ids.is_sane(made)
    assert request_ids.request_id(fields) != made


def test_a_forked_child_begins_anew():
    readable, writable = os.pipe()
    ours = request_ids.request_id({})
    pid = os.fork()
    if not pid:
        os.write(writable, request_ids.request_id({}).encode())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    theirs = os.read(readable, 100).decode()
    os.close(readable)
    os.close(writable)
    assert theirs.partition("-")[0] != ours.partition("-")[0]
    assert request_ids.request_id({}).partition("-")[0] == ours.partition("-")[0]
