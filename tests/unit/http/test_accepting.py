"""Several workers on the same sockets: each gets its share, and nothing waits long or gets lost."""

import asyncio
import contextlib
import errno
import logging
import socket

import pytest

from modelserver.http import accepting
from modelserver.http.accepting import PATIENCE, TURNS, Acceptor
from modelserver.http.limits import Limits
from modelserver.http.server import HTTPServer
from modelserver.load_board import ASLEEP_S, LoadBoard

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


# -- with a clock that only the test moves


class World:
    """A board, its clock, and connections that wait."""

    def __init__(self, workers):
        self.now_s = 0.0
        self.backlog = []
        self.board = LoadBoard(workers, lambda: int((1 + self.now_s) * 1e9))

    def worker(self, number):
        return Worker(self, number)

    def pass_moment(self, *workers):
        self.now_s += accepting.MOMENT_S
        for worker in workers:
            worker.turn()


class Worker:
    """The event loop of a worker and its listening socket, as far as an acceptor sees them."""

    def __init__(self, world, number):
        self.world = world
        self.slot = world.board.slot(number)
        self.slot.is_spare = False
        self.readers = {}
        self.timers = []
        self.taken = []
        self.acceptor = Acceptor(self, [self], self.slot, self.take)

    # the loop

    def time(self):
        return self.world.now_s

    def add_reader(self, sock, callback, *args):
        self.readers[sock] = (callback, args)

    def remove_reader(self, sock):
        self.readers.pop(sock, None)

    def call_later(self, delay_s, callback):
        timer = Timer(self.world.now_s + delay_s, callback)
        self.timers.append(timer)
        return timer

    def turn(self):
        due = [timer for timer in self.timers if timer.at <= self.world.now_s + 1e-9]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            if not timer.is_cancelled:
                timer.callback()
        waiting = len(self.world.backlog)
        for _ in range(TURNS + 1):  # it looks so often before it pauses
            if self.world.backlog and len(self.world.backlog) == waiting:
                self.once()

    def once(self):
        for callback, args in list(self.readers.values()):
            callback(*args)

    # the socket

    def accept(self):
        if not self.world.backlog:
            raise BlockingIOError
        item = self.world.backlog.pop(0)
        if isinstance(item, OSError):
            raise item
        return item, None

    # the server

    def take(self, accepted):
        self.taken.append(accepted)
        self.slot.set_connections(len(self.taken))

    @property
    def is_waiting(self):
        return not self.readers


class Timer:
    def __init__(self, at, callback):
        self.at = at
        self.callback = callback
        self.is_cancelled = False

    def cancel(self):
        self.is_cancelled = True


def test_one_connection_a_turn_and_none_while_another_worker_has_fewer():
    world = World(2)
    first, second = world.worker(0), world.worker(1)
    world.backlog = ["a", "b", "c", "d"]
    first.turn()
    assert first.taken == ["a"]
    first.turn()
    first.turn()
    assert first.taken == ["a"]
    assert first.is_waiting  # and does not turn for nothing
    second.turn()
    second.turn()
    second.turn()
    assert second.taken == ["b", "c"]
    world.pass_moment(first)
    assert first.taken == ["a", "d"]


def test_it_looks_a_few_times_for_each_connection_before_it_pauses():
    world = World(2)
    first, second = world.worker(0), world.worker(1)
    first.slot.set_connections(9)
    for name in "abc":
        world.backlog = [name]
        for _ in range(TURNS):
            first.once()
            assert not first.is_waiting
        second.once()
    assert second.taken == ["a", "b", "c"]
    world.backlog = ["d"]
    for _ in range(TURNS + 1):
        first.once()
    assert first.is_waiting
    assert first.taken == []


def test_it_listens_again_when_another_one_has_taken_it():
    world = World(2)
    first, second = world.worker(0), world.worker(1)
    world.backlog = ["a", "b"]
    first.turn()
    first.turn()
    assert first.is_waiting
    second.turn()
    second.slot.set_connections(0)  # and has lost it again: still fewer
    world.pass_moment(first)
    assert not first.is_waiting


def test_a_worker_that_sleeps_is_waited_for_once_a_second_and_not_longer():
    world = World(2)
    first = world.worker(0)
    world.worker(1)  # has fewer, and its loop never turns
    world.backlog = ["a", "b"]
    first.turn()

    def moments_until(name):
        for moment in range(100):
            if first.taken[-1] == name:
                return moment
            world.pass_moment(first)
        raise AssertionError(f"{name} waits for ever")

    first.turn()
    assert moments_until("b") == PATIENCE
    world.backlog = ["c", "d", "e"]
    for name in "cde":
        first.turn()
        assert moments_until(name) == 0
    world.now_s += ASLEEP_S
    world.backlog = ["f"]
    first.turn()
    assert moments_until("f") == PATIENCE


def test_one_that_only_waits_for_another_one_is_not_taken_to_be_asleep():
    """Of five, three and no connections, and the last one sleeps: the second gets the next."""
    world = World(3)
    first, second, _ = (world.worker(number) for number in range(3))
    first.slot.set_connections(5)
    second.slot.set_connections(3)
    world.backlog = ["a"]
    first.turn()
    second.turn()
    assert first.is_waiting
    assert second.is_waiting
    for _ in range(PATIENCE + 3):
        world.pass_moment(first, second)
    assert (first.taken, second.taken) == ([], ["a"])


def test_one_that_dies_is_waited_for_no_longer():
    world = World(2)
    first = world.worker(0)
    world.worker(1)
    world.backlog = ["a", "b"]
    first.turn()
    first.turn()
    world.board.clear(1)
    world.pass_moment(first)
    assert first.taken == ["a", "b"]


def test_it_listens_no_more_once_it_is_closed():
    world = World(2)
    first, second = world.worker(0), world.worker(1)
    world.backlog = ["a", "b", "c"]
    first.turn()
    first.turn()
    first.acceptor.close()
    for _ in range(PATIENCE + 3):
        world.pass_moment(first)
    assert first.taken == ["a"]
    world.backlog.append("d")
    for _ in range(3):
        second.turn()  # and nobody waits for it
    assert second.taken == ["b", "c", "d"]


def test_what_is_gone_before_it_is_accepted_is_no_trouble(caplog):
    world = World(2)
    first = world.worker(0)
    world.backlog = [ConnectionAbortedError(), OSError(errno.EPROTO, "gone"), InterruptedError(), "a"]
    for _ in range(4):
        first.turn()
    assert first.taken == ["a"]
    assert not caplog.records


def test_a_system_without_room_is_tried_now_and_then_and_said_once_a_minute(caplog):
    world = World(2)
    first = world.worker(0)
    world.backlog = [OSError(errno.EMFILE, "Too many open files") for _ in range(300)]
    other = world.board.slot(1)
    other.open()
    other.is_spare = False
    other.set_connections(1)
    with caplog.at_level(logging.WARNING):
        first.turn()
        assert first.is_waiting
        assert other.lighter() == []  # nobody waits for it meanwhile
        for _ in range(100):
            world.pass_moment(first)
        assert 297 <= len(world.backlog) <= 298  # ten times a second
        assert len(caplog.records) == 1
        assert "cannot be accepted: Too many open files" in caplog.text
        world.now_s += 60
        first.turn()
        assert len(caplog.records) == 2
        world.backlog = ["a"]
        world.now_s += 1
        first.turn()
    assert first.taken == ["a"]
    assert not first.is_waiting


# -- with real sockets


@contextlib.asynccontextmanager
async def sharing(application, count):
    """Servers that share one listening socket, each with a descriptor of its own as after a fork."""
    board = LoadBoard(count)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
        servers = []
        for number in range(count):
            slot = board.slot(number)
            slot.is_spare = False
            server = HTTPServer(application, Limits(sweep_s=0.02), slot)
            await server.start([listening.dup()])
            servers.append(server)
        try:
            yield board, servers, listening.getsockname()
        finally:
            for server in servers:
                await server.stop_accepting()
                server.close()
            await asyncio.sleep(0)


def counts(servers):
    return [len(server.connections) for server in servers]


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("count", [4, 64])
def test_clients_at_once_are_shared_evenly_again_and_again(run, recorder, count):
    async def main():
        async with sharing(recorder, 2) as (_, servers, address):
            for _ in range(5):
                clients = [socket.create_connection(address) for _ in range(count)]
                await until(lambda: sum(counts(servers)) == count)
                assert abs(len(servers[0].connections) - count / 2) <= (2 if count > 15 else 0)
                for client in clients:
                    client.close()
                await until(lambda: not sum(counts(servers)))

    run(main)


def test_clients_one_after_another(run, recorder):
    async def main():
        async with sharing(recorder, 3) as (board, servers, address):
            clients = []
            for number in range(1, 10):
                clients.append(socket.create_connection(address))
                await until(lambda number=number: sum(counts(servers)) == number)
                assert max(counts(servers)) - min(counts(servers)) == (number % 3 > 0)
                assert board.words[::8].tolist() == counts(servers)
            for client in clients:
                client.close()
            await until(lambda: board.words[::8].tolist() == [0, 0, 0])

    run(main)


def test_requests_are_answered_and_small_packets_are_sent_at_once(run, recorder):
    async def main():
        async with sharing(recorder, 2) as (_, servers, address):
            for number in range(4):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(GET)
                assert (await reader.readuntil(b"\r\n\r\n%d" % number)).startswith(b"HTTP/1.1 200 ")
                for server in servers:
                    for connection in server.connections:
                        assert connection.context.remote_ip == "127.0.0.1"
                        sock = connection._transport.get_extra_info("socket")
                        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                writer.transport.abort()

    run(main)


def test_nothing_that_waits_is_lost_when_accepting_ends(run, recorder):
    """Connections wait for a worker that has fewer and sleeps; then this one is told to stop."""

    async def main():
        board = LoadBoard(2)
        idle = board.slot(0)
        idle.open()
        idle.is_spare = False
        slot = board.slot(1)
        slot.is_spare = False
        with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
            address = listening.getsockname()
            server = HTTPServer(recorder, Limits(), slot)
            await server.start([listening])
            first = await asyncio.open_connection(*address)
            await until(lambda: server.connections)
            others = []
            for _ in range(30):
                client = socket.create_connection(address)
                client.setblocking(False)
                client.send(GET)
                others.append(client)
            await server.stop_accepting()
            assert len(server.connections) == 31  # known before anybody asks whether there are any
            assert listening.fileno() < 0
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            for client in others:
                answer = await asyncio.get_running_loop().sock_recv(client, 1000)
                assert answer.startswith(b"HTTP/1.1 200 ")
                client.close()
            first[1].transport.abort()
            await until(lambda: not server.connections)
            server.close()

    run(main)


def test_a_stopped_server_counts_no_more(run, recorder):
    async def main():
        async with sharing(recorder, 2) as (board, servers, address):
            clients = [socket.create_connection(address) for _ in range(2)]
            await until(lambda: counts(servers) == [1, 1])
            await servers[0].stop_accepting()
            clients += [socket.create_connection(address) for _ in range(3)]
            await until(lambda: counts(servers) == [1, 4])
            assert board.slot(1).lighter() == []
            for client in clients:
                client.close()

    run(main)
