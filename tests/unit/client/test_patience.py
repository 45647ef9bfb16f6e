import datetime
from email.utils import format_datetime

import pytest

from modelserver.client.calls import Call, Reply
from modelserver.client.failures import CallFailed, CallTimeout
from modelserver.client.patience import Patience, pause_before, reason_of, retry_after_s

CALL = Call("POST", "/v2/models/m/infer")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def refused(status=503, **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, fields, memoryview(b'{"error": "busy"}'))


def test_an_answer_is_no_reason_to_wait():
    patience = Patience("http://h", 10, 3)
    assert patience.pause_s(CALL, Reply(200, {}, b"")) is None
    assert patience.pause_s(CALL._replace(answers=(200, 503)), refused()) is None


def test_the_timeout_is_for_all_tries():
    clock = Clock()
    patience = Patience("http://h", 10, 3, clock)
    patience.begin(CALL)
    assert patience.left_s() == 10
    clock.now += 9.5
    assert patience.left_s() == pytest.approx(0.5)
    clock.now += 0.5
    with pytest.raises(CallTimeout, match=r"^http://h/v2/models/m/infer: no answer within 10 s$"):
        patience.left_s()


def test_a_timeout_may_be_endless():
    assert Patience("http://h", float("inf"), 3).left_s() < 2**31 / 1000  # what poll() takes, in milliseconds


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_timeout_is_positive(timeout_s):
    with pytest.raises(ValueError, match="must be more than 0 seconds"):
        Patience("http://h", timeout_s, 3)


def test_tries_are_counted_for_each_request_of_a_call():
    patience = Patience("http://h", 60, 2, Clock())
    for _ in range(2):
        patience.begin(CALL)
        assert patience.pause_s(CALL, refused()) is not None
        assert patience.pause_s(CALL, refused(429)) is not None
        with pytest.raises(CallFailed, match="http://h/v2/models/m/infer answered 503: busy"):
            patience.pause_s(CALL, refused())


def test_there_is_no_pause_beyond_the_deadline():
    clock = Clock()
    patience = Patience("http://h", 10, 3, clock)
    assert 4 <= patience.pause_s(CALL, refused(retry_after="4")) <= 4.4
    clock.now += 6
    with pytest.raises(CallFailed) as caught:
        patience.pause_s(CALL, refused(retry_after="4"))
    assert caught.value.retry_after_s == 4


def test_pauses_double_and_differ():
    for retry, longest in ((1, 0.1), (2, 0.2), (3, 0.4), (30, 5.0)):
        pauses = {pause_before(retry, None) for _ in range(50)}
        assert len(pauses) > 10
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest
    assert pause_before(1, 0.0) == 0


@pytest.mark.parametrize("name", ["GMT", "naive", "+0200"])
def test_retry_after_may_be_a_date(name):
    now = datetime.datetime.now(datetime.UTC)
    later = now + datetime.timedelta(seconds=90)
    text = {
        "GMT": format_datetime(later, usegmt=True),
        "naive": later.strftime("%a, %d %b %Y %H:%M:%S -0000"),
        "+0200": format_datetime(later.astimezone(datetime.timezone(datetime.timedelta(hours=2)))),
    }[name]
    assert 60 < retry_after_s(text) <= 90


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), (" 12 ", 12), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("", None), ("-1", None), ("٣", None)],
)
def test_retry_after(value, seconds):
    assert retry_after_s(value) == seconds


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error":"x y"}', "x y"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"loc":["id"]}]}', '[{"loc":["id"]}]'),
        (b'{"name":"m","ready":false}', '{"name":"m","ready":false}'),
        (b'{"error":null}', "null"),
        (b'"text"', "text"),
        (b"<h1>Bad Gateway</h1>\n", "<h1>Bad Gateway</h1>"),
        (b"\xff", "�"),
        (b"", "no text"),
    ],
)
def test_what_the_server_says(body, reason):
    assert reason_of(Reply(500, {}, memoryview(body))) == reason


def test_what_a_grpc_server_says():
    assert reason_of(Reply(400, {}, "plain")) == "plain"
