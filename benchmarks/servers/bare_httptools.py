"""The least that could answer: httptools and uvloop around the same model call, in one process.

It reads JSON, calls the network, writes JSON; no routes, no limits, no errors, no log.
"""

import asyncio
import os
import sys

import httptools
import network
import orjson
import torch
import uvloop

NETWORK = network.load(os.environ["BENCH_FOLDER"])
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Connection(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data):
        self.parser.feed_data(data)

    def on_body(self, data):
        self.body += data

    def on_message_complete(self):
        payload = orjson.loads(self.body)
        self.body = b""
        with torch.inference_mode():
            output = NETWORK(network.rows_of(payload["instances"]))
        answer = orjson.dumps({"predictions": output.tolist()})
        self.transport.write(HEAD % (len(answer), answer))


async def main():
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
