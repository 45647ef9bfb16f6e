import pickle

import pytest

from modelserver import ModelServerError
from modelserver.client.failures import (
    CallFailed,
    CallTimeout,
    ClientError,
    ServerUnreachable,
    UnreadableAnswer,
)

URL = "http://h/v2"


@pytest.mark.parametrize(
    ("error", "status", "text", "reason"),
    [
        (ClientError(URL, "no"), 500, "http://h/v2: no", "no"),
        (CallFailed(URL, 503, "busy", 2.0), 503, "http://h/v2 answered 503: busy", "busy"),
        (CallTimeout(URL, 0.5), 504, "http://h/v2: no answer within 0.5 s", "no answer within 0.5 s"),
        (ServerUnreachable(URL, "gone"), 502, "http://h/v2: gone", "gone"),
        (UnreadableAnswer(URL, "html"), 502, "http://h/v2: html", "html"),
    ],
)
def test_what_they_say_here_and_in_another_process(error, status, text, reason):
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(each, ClientError)
        assert isinstance(each, ModelServerError)
        assert type(each) is type(error)
        assert (each.status, str(each), each.reason, each.url) == (status, text, reason, URL)


def test_a_retry_after_is_handed_on():
    assert CallFailed(URL, 503, "busy", 2.0).retry_after_s == 2
    assert pickle.loads(pickle.dumps(CallFailed(URL, 503, "busy", 2.0))).retry_after_s == 2


def test_they_are_also_what_python_calls_them():
    assert isinstance(CallTimeout(URL, 1), TimeoutError)
    assert isinstance(ServerUnreachable(URL, "gone"), ConnectionError)
