"""An answer that is broken off ends so that nobody takes it for whole, in each kind of framing."""

import pytest
from tornado import httputil


class BreaksOff(httputil.HTTPServerConnectionDelegate):
    """Writes a piece of an answer, and then gives up."""

    def __init__(self, fields):
        self._fields = fields

    def start_request(self, server_conn, connection):
        fields = self._fields

        class Delegate(httputil.HTTPMessageDelegate):
            def finish(self):
                line = httputil.ResponseStartLine("HTTP/1.1", 200, "OK")
                connection.write_headers(line, httputil.HTTPHeaders(fields), b"abc")
                connection.break_off()
                connection.finish()

        return Delegate()


@pytest.mark.parametrize(
    ("fields", "end"),
    [({}, b"\r\n\r\n3\r\nabc\r\n"), ({"Content-Length": "9"}, b"\r\n\r\nabc")],
    ids=["chunked", "length"],
)
def test_what_is_missing_shows(run, serving, fields, end):
    async def main():
        async with serving(BreaksOff(fields)) as served:
            client = await served.client()
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
            got = await client.reader.read()  # to the end of the connection
            assert got.endswith(end)
            assert got.count(b"HTTP/1.1 200") == 1

    run(main)


def test_where_only_the_end_tells_it_is_a_reset(run, serving):
    async def main():
        async with serving(BreaksOff({})) as served:
            client = await served.client()
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await client.reader.read()

    run(main)
