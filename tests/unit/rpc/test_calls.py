"""One call at the door: who asks, what it holds, how it ends. gRPC's side is a stand-in."""

import asyncio
import re

import grpc
import pytest

from modelserver.dataplane import DataPlane
from modelserver.errors import InvalidInput, ModelNotReady
from modelserver.lifecycle import Lifecycle
from modelserver.metrics.counting import Metrics
from modelserver.model import Model
from modelserver.protocols.tfs_messages import ModelSpec
from modelserver.repository.model_repository import ModelRepository
from modelserver.rest.access import ApiKeys, Secrets
from modelserver.rest.body_memory import BodyMemory
from modelserver.rpc.calls import Calls, remote_ip
from modelserver.rpc.statuses import CODES, code, details


class Aborted(Exception):
    pass


class Context:
    """gRPC's part of a call."""

    def __init__(self, *metadata, remaining_s=None):
        self._metadata = metadata
        self.remaining_s = remaining_s
        self.trailing = {}

    def invocation_metadata(self):
        return self._metadata

    def time_remaining(self):
        return self.remaining_s

    def set_trailing_metadata(self, metadata):
        self.trailing = dict(metadata)

    def peer(self):
        return "ipv4:127.0.0.1:4711"

    async def abort(self, code, details):
        raise Aborted(code.name, details)


class Log:
    def __init__(self):
        self.lines = []

    def add(self, connection, method, uri, status, elapsed_s, model_name):
        self.lines.append(
            (connection.context.remote_ip, connection.request_id, method, uri, status, model_name)
        )


@pytest.fixture
def dataplane():
    repository = ModelRepository()
    repository.update(Model("known"))
    return DataPlane(repository, Lifecycle())


def handler(dataplane, function, verb="predict", needs_key=True, **kwargs):
    calls = Calls(dataplane, **kwargs)
    return calls.unary("/a.B/C", ModelSpec, verb, function, needs_key=needs_key).unary_unary


async def echo(message, call):
    call.model_name = message.name
    return message


DATA = ModelSpec(name="known").SerializeToString()


def test_a_call_is_answered_named_counted_and_logged(dataplane):
    metrics, log, memory = Metrics(), Log(), BodyMemory(100)
    answer = handler(dataplane, echo, metrics=metrics, access_log=log, memory=memory)
    context = Context(("x-request-id", "mine"), ("some-bin", b"\xff"))
    assert asyncio.run(answer(DATA, context)) == DATA
    assert context.trailing == {"x-request-id": "mine"}
    assert log.lines == [("127.0.0.1", "mine", "POST", "/a.B/C", 200, "known")]
    assert list(metrics.models) == ["known"]
    assert memory.held == 0


def test_names_that_no_model_has_make_no_series(dataplane):
    metrics = Metrics()
    data = ModelSpec(name="made up").SerializeToString()
    asyncio.run(handler(dataplane, echo, metrics=metrics)(data, Context()))
    asyncio.run(handler(dataplane, echo, verb="other", metrics=metrics)(DATA, Context()))
    assert not metrics.models


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InvalidInput("wrong"), "INVALID_ARGUMENT", "wrong"),
        (ModelNotReady("m"), "UNAVAILABLE", "Model with name m is not ready."),
        (ValueError("x" * 3000), "INTERNAL", "ValueError : x+" + re.escape("...TRUNCATED")),
        (MemoryError(), "UNAVAILABLE", "Not enough memory"),
        (NotImplementedError(), "UNIMPLEMENTED", "Not implemented."),
        (asyncio.CancelledError(), "INTERNAL", "CancelledError"),
    ],
)
def test_what_is_raised_becomes_the_status(dataplane, error, status, words):
    async def fail(message, call):
        raise error

    memory = BodyMemory(100)
    with pytest.raises(Aborted) as aborted:
        asyncio.run(handler(dataplane, fail, memory=memory)(DATA, Context()))
    assert aborted.value.args[0] == status
    assert re.match(words, aborted.value.args[1])
    assert memory.held == 0


@pytest.mark.parametrize(("remaining_s", "status"), [(None, 499), (5.0, 499), (0.0, 504)])
def test_a_call_that_is_cancelled_is_counted_so(dataplane, remaining_s, status):
    async def run():
        async def wait(message, call):
            started.set()
            await asyncio.Event().wait()

        started, context, log = (
            asyncio.Event(),
            Context(remaining_s=None if remaining_s is None else 10.0),
            Log(),
        )
        task = asyncio.ensure_future(handler(dataplane, wait, access_log=log)(DATA, context))
        await started.wait()
        context.remaining_s = remaining_s
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return log.lines[0][4]

    assert asyncio.run(run()) == status


def test_a_message_for_which_there_is_no_room_is_refused(dataplane):
    memory = BodyMemory(4)
    with pytest.raises(Aborted, match="--max_in_flight_bytes") as aborted:
        asyncio.run(handler(dataplane, echo, memory=memory)(DATA, Context()))
    assert aborted.value.args[0] == "UNAVAILABLE"
    assert memory.held == 0


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        (("x-api-key", "sesame"), {"x-tenant": "blue"}),
        (("authorization", "Bearer sesame"), {"x-tenant": "blue"}),
        (("x-api-key", "other"), None),
        (("authorization", "Basic sesame"), None),
    ],
)
def test_a_key_lets_in_and_goes_no_further(dataplane, metadata, kept):
    fields = []

    async def look(message, call):
        fields.append(dict(call.fields))
        return message

    keys = ApiKeys(Secrets("api_key_file", "", "KEY", {"KEY": "sesame"}))
    answer = handler(dataplane, look, api_keys=keys)
    context = Context(metadata, ("x-tenant", "blue"))
    if kept is None:
        with pytest.raises(Aborted, match="An API key is needed, as metadata") as aborted:
            asyncio.run(answer(DATA, context))
        assert aborted.value.args[0] == "UNAUTHENTICATED"
    else:
        asyncio.run(answer(DATA, context))
        assert fields == [kept]


def test_answers_are_kept_until_they_are_let_go(dataplane):
    async def run():
        calls = Calls(dataplane)
        answer = calls.unary("/a.B/C", ModelSpec, "predict", echo).unary_unary
        calls.hold_answers()
        task = asyncio.ensure_future(answer(DATA, Context()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        calls.release_answers()
        assert await task == await answer(DATA, Context()) == DATA
        calls.release_answers()  # which has nothing to do then

    asyncio.run(run())


def test_the_bytes_of_a_message_may_be_read_and_written_elsewhere(dataplane):
    async def look(value, call):
        assert value == (b"read", DATA)
        return b"bytes"

    calls = Calls(dataplane)
    answer = calls.unary("/a.B/C", lambda data: (b"read", data), "predict", look).unary_unary
    assert asyncio.run(answer(DATA, Context())) == b"bytes"


def test_a_probe_needs_no_key(dataplane):
    keys = ApiKeys(Secrets("api_key_file", "", "KEY", {"KEY": "sesame"}))
    assert asyncio.run(handler(dataplane, echo, needs_key=False, api_keys=keys)(DATA, Context())) == DATA


@pytest.mark.parametrize(
    ("status", "expected"),
    [(418, "INVALID_ARGUMENT"), (422, "INVALID_ARGUMENT"), (507, "INTERNAL"), (302, "UNKNOWN")],
)
def test_a_status_of_the_models_own_choice_has_a_code(status, expected):
    assert code(status).name == expected


def test_every_code_but_those_for_which_rest_has_no_status_is_used():
    unused = {"UNKNOWN", "DATA_LOSS", "OUT_OF_RANGE", "ALREADY_EXISTS"}
    assert {each.name for each in grpc.StatusCode} - {each.name for each in CODES.values()} == unused


@pytest.mark.parametrize(("text", "length"), [("x" * 1024, 1024), ("x" * 1025, 1036), ("é" * 513, 524)])
def test_details_are_cut_after_1024_bytes(text, length):
    assert len(details(text)) == length
    assert (
        details(text).removesuffix("...TRUNCATED") == text[: len(details(text).removesuffix("...TRUNCATED"))]
    )


def test_text_that_cannot_be_sent_is_replaced():
    """Else the call would never end."""
    assert details("\ud800 bad") == "? bad"


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:10.0.0.1:80", "10.0.0.1"), ("ipv6:%5B::1%5D:80", "::1"), ("unix:/x", "-"), ("", "-")],
)
def test_the_clients_address(peer, address):
    assert remote_ip(peer) == address
