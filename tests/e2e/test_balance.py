"""Workers share the connections evenly, however they were started and whatever becomes of one of them."""

import collections
import concurrent.futures
import contextlib
import json
import os
import resource
import signal
import socket
import time
from pathlib import Path

import pytest
from harness import serving, wait_until

from modelserver.load_board import LoadBoard

NOBODY = 1 << 62
HEAD = "POST /v1/models/{}:predict HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n"


class Client:
    """A connection that is kept."""

    def __init__(self, server):
        self.sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)

    def ask(self, model="who", row=0):
        body = json.dumps({"instances": [row]})
        self.sock.sendall((HEAD.format(model, len(body)) + body).encode())

    def answer(self):
        """The process that has answered."""
        answer = b""
        while not answer.endswith(b"}"):
            piece = self.sock.recv(65536)
            assert piece, f"closed after {answer!r}"
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ")
        return json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"][0]

    def who(self):
        self.ask()
        return self.answer()

    def leave(self):
        """Close, and wait until the server has counted it out."""
        self.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert self.sock.recv(1) == b""
        self.sock.close()


def at_once(server, count):
    """Clients that connect before any of them is answered, and who answers each."""
    clients = [Client(server) for _ in range(count)]
    for client in clients:
        client.ask()
    return clients, [client.answer() for client in clients]


def loads(server):
    """The first number of each slot on the load board of a running server."""
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        if "load-board" in str(link.readlink()):
            return LoadBoard.attached(os.open(link, os.O_RDWR)).words[::8].tolist()
    raise AssertionError("no load board")


def stat(pid):
    """The fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@contextlib.contextmanager
def balancing(programs, tmp_path, workers=2, **env):
    with serving([programs / "balance.py", "--workers", str(workers)], tmp_path / "log", env=env) as server:
        if workers > 1:
            wait_until(lambda: server.text().count("is ready") == workers, 120, "all workers ready")
        else:
            server.wait_ready("who")
        yield server


@pytest.mark.parametrize("launch", ["fork", "rerun"])
def test_connections_are_shared_evenly(programs, tmp_path, launch):
    with balancing(programs, tmp_path, LAUNCH=launch) as server:
        assert ("runs the program again" in server.text()) is (launch == "rerun")
        for count, rounds in ((4, 20), (64, 3)):
            for _ in range(rounds):
                clients, pids = at_once(server, count)
                shares = collections.Counter(pids)
                assert shares.keys() == set(server.workers())
                most = max(shares.values())
                assert most == 2 if count == 4 else most <= 34
                for client in clients:
                    client.leave()
        clients = []
        for number in range(1, 7):  # one after another
            clients.append(Client(server))
            shares = collections.Counter(client.who() for client in clients)
            assert max(shares.values()) == (number + 1) // 2
        for client in clients:
            client.leave()


def test_four_workers(programs, tmp_path):
    with balancing(programs, tmp_path, workers=4) as server:
        for _ in range(10):
            clients, pids = at_once(server, 8)
            assert sorted(collections.Counter(pids).values()) == [2, 2, 2, 2]
            for client in clients:
                client.leave()


def test_a_killed_worker_is_waited_for_by_nobody_and_its_replacement_gets_its_share(programs, tmp_path):
    slow = tmp_path / "slow"
    with balancing(programs, tmp_path, SLOW=str(slow)) as server:
        kept, pids = at_once(server, 4)
        slow.touch()  # so that the other worker is alone for two seconds
        victim, survivor = pids[0], next(pid for pid in pids if pid != pids[0])
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: f"(pid {victim}) died" in server.text())
        started = time.monotonic()
        more = [Client(server) for _ in range(4)]
        assert {client.who() for client in more} == {survivor}
        assert time.monotonic() - started < 1.5
        assert sorted(loads(server)) == [6, NOBODY, NOBODY]  # one number is spare
        wait_until(lambda: server.text().count("is ready") == 3, what="the replacement")
        (replacement,) = set(server.workers()) - {survivor}
        newest, answered_by = at_once(server, 6)
        assert collections.Counter(answered_by)[replacement] >= 3  # all, if the survivor's count as used
        for client in (*kept, *more, *newest):
            client.sock.close()


def test_new_clients_do_not_wait_for_a_worker_whose_loop_is_blocked(programs, tmp_path):
    with balancing(programs, tmp_path) as server:
        blocking = Client(server)
        stuck = blocking.who()
        blocking.ask("blocks", 4)
        waited = []
        clients = []
        for _ in range(12):  # all but the first one while the stuck worker has fewer
            started = time.monotonic()
            clients.append(Client(server))
            assert clients[-1].who() != stuck
            waited.append(time.monotonic() - started)
        assert max(waited) < 1  # 50 ms, on a quiet machine
        assert sum(waited) < 2.5
        assert blocking.answer() == stuck

        def is_back():
            clients.append(Client(server))
            return clients[-1].who() == stuck

        wait_until(is_back, what="a connection of the worker that has the fewest")
        for client in (blocking, *clients):
            client.leave()


def test_a_stopped_process_costs_one_client_a_second_a_short_while(programs, tmp_path):
    with balancing(programs, tmp_path) as server:
        kept, pids = at_once(server, 2)
        os.kill(pids[0], signal.SIGSTOP)
        wait_until(lambda: stat(pids[0])[0] == "T", what="the process stopped")
        try:
            more = [Client(server) for _ in range(20)]
            started = time.monotonic()
            assert {client.who() for client in more} == {pids[1]}
            assert time.monotonic() - started < 2
        finally:
            os.kill(pids[0], signal.SIGCONT)
        for client in (*kept, *more):
            client.leave()


def test_a_worker_that_is_told_to_stop_leaves_new_connections_to_the_others(programs, tmp_path):
    with balancing(programs, tmp_path) as server:
        kept, pids = at_once(server, 8)
        stopping = pids[0]
        next(client for client, pid in zip(kept, pids, strict=True) if pid == stopping).leave()
        os.kill(stopping, signal.SIGTERM)  # it has the fewest
        wait_until(lambda: "Stopping: " in server.text())
        clients, answered = at_once(server, 4)
        assert stopping not in answered
        wait_until(lambda: server.text().count("is ready") == 3, what="the replacement")
        for client in (*kept, *clients):
            client.sock.close()


def cpu_s(pid):
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_workers_without_descriptors_wait_quietly_until_there_are_some(programs, tmp_path):
    with balancing(programs, tmp_path) as server:
        workers = server.workers()
        for pid in workers:
            used = max(int(link.name) for link in Path(f"/proc/{pid}/fd").iterdir())
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 6, used + 6))
        clients = [Client(server) for _ in range(30)]
        wait_until(lambda: server.text().count("cannot be accepted") == 2, what="both are full")
        before = sum(map(cpu_s, workers))
        time.sleep(1)  # what is measured is what they do meanwhile
        assert sum(map(cpu_s, workers)) - before < 0.3
        assert server.text().count("cannot be accepted") == 2
        for client in clients:
            client.sock.close()

        wait_until(lambda: server.predict({"instances": [0]}, "who").status == 200, what="room again")


def test_sigterm_loses_no_connection_that_was_accepted(programs, tmp_path):
    """Clients connect anew for every request, while the server stops.

    One worker: with several, one answers while the last one closes, and its client's next connection may come
    in the microseconds between the last accept and the close, which no program can tell apart.
    """
    with balancing(programs, tmp_path, workers=1) as server:
        answered = []

        def client():
            while True:
                try:
                    each = Client(server)
                except ConnectionRefusedError:
                    return
                answered.append(each.who())
                each.sock.close()

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            clients = [pool.submit(client) for _ in range(6)]
            wait_until(lambda: len(answered) > 100)
            assert server.stop() == 0
            for done in clients:
                done.result()  # raises if one was reset


def test_connections_that_nobody_uses_are_no_load(programs, tmp_path):
    with balancing(programs, tmp_path) as server:
        idle, _ = at_once(server, 6)
        for client in idle[::2]:
            client.leave()
        wait_until(lambda: not any(loads(server)[:2]), 20, "the idle ones counted out")
        used, answered_by = at_once(server, 4)
        assert sorted(collections.Counter(answered_by).values()) == [2, 2]
        for client in [*used, *idle[1::2]]:
            client.leave()
