"""Three nodes: reads and writes anywhere, a lost majority, a lost leader, an overloaded node."""

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc import RpcError, StatusCode

from contract import pb
from ledger import Cluster, assert_gapless, refused, trailers, until

SEED = 11


def test_what_one_node_acknowledged_every_node_reads_at_once(trio, context):
    clients = [node.client() for node in trio.nodes]
    dice = random.Random(SEED)
    for number in range(1, 101):
        entry = dice.choice(clients).append(context, b"%d" % number).entry
        assert entry.sequence == number
        assert dice.choice(clients).get(context, after=number - 1).entries[0] == entry


def test_a_hundred_at_once_over_three_nodes_get_1_to_100(trio, context):
    clients = [node.client() for node in trio.nodes]
    with ThreadPoolExecutor(100) as pool:
        entries = list(pool.map(lambda n: clients[n % 3].append(context, b"%d" % n).entry, range(100)))
    assert sorted(entry.sequence for entry in entries) == list(range(1, 101))
    for client in clients:
        assert_gapless(client.get(context).entries)


def test_one_key_sent_to_every_node_at_once_writes_one_entry(trio, context):
    clients = [node.client() for node in trio.nodes]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: clients[n % 3].append(context, b"a", x_idempotency_key="once"), range(12)))
    assert len({answer.entry.id for answer in answers}) == 1
    assert sum(not answer.deduplicated for answer in answers) == 1


def test_status_tells_the_members_and_one_leader(trio):
    statuses = [node.status() for node in trio.nodes]
    assert [status["node_id"] for status in statuses] == [1, 2, 3]
    assert len({status["cluster_id"] for status in statuses}) == 1
    assert sorted(status["role"] for status in statuses) == ["follower", "follower", "leader"]
    leader = trio.leader()
    for status in statuses:
        assert status["leader_id"] == leader.id and status["term"] >= 1
        assert status["applied_index"] <= status["commit_index"] and status["last_position"] >= 0
        assert status["alarms"] == []
        assert {peer["id"] for peer in status["peers"]} >= {1, 2, 3} - {status["node_id"]}
        assert all(peer["connected"] for peer in status["peers"] if peer["id"] != status["node_id"])


def test_without_a_majority_appends_are_refused_and_stay_away_after_it_is_back(clusters, context):
    cluster = clusters()
    survivor = cluster.followers()[0]
    ledger = survivor.client()
    ledger.append(context, b"before")
    lost = [node for node in cluster.nodes if node is not survivor]
    for node in lost:
        node.kill()
    until("the survivor knows that it has no leader", lambda: not survivor.status()["leader_id"])
    begin = time.monotonic()
    with refused(StatusCode.UNAVAILABLE):
        ledger.append(context, b"refused", timeout=6)  # waits for a leader as long as the client does
    with refused(StatusCode.UNAVAILABLE):
        ledger.get(context, timeout=30)
    assert time.monotonic() - begin < 15, "a minority answers within a bounded time"
    assert [entry.payload for entry in ledger.get(context, x_consistency="stale").entries] == [b"before"]
    for node in lost:
        node.spawn()
    for node in lost:
        node.await_ready()
    cluster.leader()
    after = ledger.append(context, b"after", timeout=30).entry
    assert after.sequence == 2
    for node in cluster.nodes:
        assert [entry.payload for entry in node.client().get(context).entries] == [b"before", b"after"]


def test_a_node_that_waits_for_its_first_peers_refuses(tmp_path):
    cluster = Cluster(tmp_path)
    lonely = cluster.nodes[0].spawn()
    try:
        ledger = lonely.client()
        grpc.channel_ready_future(ledger.channel).result(timeout=30)
        with refused(StatusCode.UNAVAILABLE):
            ledger.append("early", timeout=6)
        with refused(StatusCode.UNAVAILABLE):
            ledger.get("early", timeout=30)
    finally:
        cluster.kill()


def test_an_append_that_no_majority_answers_ends_as_unknown_after_10_seconds(clusters, context):
    cluster = clusters(env={"CONVERGE_LEDGER__RAFT__ELECTION_MS": "3000"})
    leader = cluster.leader()
    ledger = leader.client()
    ledger.append(context, b"before")
    followers = cluster.followers()
    for node in followers:
        node.pause()
    begin = time.monotonic()
    # No deadline from the client: the server has its own.
    with pytest.raises(RpcError) as caught:
        ledger.append(context, b"unknown", timeout=None, x_idempotency_key="retry")
    waited = time.monotonic() - begin
    for node in followers:
        node.resume()
    assert caught.value.code() == StatusCode.DEADLINE_EXCEEDED, caught.value
    assert "x-ledger-outcome" not in trailers(caught.value) or trailers(caught.value)["x-ledger-outcome"] != "refused"
    assert 9 <= waited < 15, f"{waited:.1f} s"
    # A retry with the key finds out, and writes at most once.
    entry = until("an append after the majority is back", lambda: retried(ledger, context, b"unknown", "retry"))
    assert entry.sequence == 2
    assert [e.payload for e in ledger.get(context).entries] == [b"before", b"unknown"]


def test_a_clients_own_deadline_is_kept_by_the_server(clusters, context):
    cluster = clusters(env={"CONVERGE_LEDGER__RAFT__ELECTION_MS": "3000"})
    ledger = cluster.leader().client()
    ledger.append(context, b"before")
    followers = cluster.followers()
    for node in followers:
        node.pause()
    begin = time.monotonic()
    with pytest.raises(RpcError) as caught:
        ledger.append(context, b"unknown", timeout=1)
    assert caught.value.code() == StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 3
    for node in followers:
        node.resume()


def test_an_overloaded_node_refuses_with_a_hint_and_takes_no_more_memory(clusters, context):
    settings = {"CONVERGE_LEDGER__RAFT__ELECTION_MS": "3000", "CONVERGE_LEDGER__LIMITS__INFLIGHT_BYTES": str(16 << 20)}
    cluster = clusters(env=settings)
    leader = cluster.leader()
    followers = cluster.followers()
    channels = [leader.client() for _ in range(4)]
    channels[0].append(context, b"before")
    for node in followers:
        node.pause()
    request = pb.AppendRequest(context_id=context, payload=bytes(1 << 20))
    with leader.peak_memory_below(512 << 20):
        calls = [channels[n % 4].stub.Append.future(request, timeout=20) for n in range(200)]
        errors = [call.exception() for call in calls]
    for node in followers:
        node.resume()
    overloaded = [error for error in errors if error and error.code() == StatusCode.RESOURCE_EXHAUSTED]
    assert overloaded, {error and error.code() for error in errors}
    for error in overloaded:
        assert trailers(error).get("x-ledger-outcome") == "refused"
        assert any("retry" in name for name in trailers(error)), trailers(error)
    until("an append after the overload", lambda: retried(channels[0], context, b"after", "after"))
    written = len(channels[0].pages(context, 4)) - 2
    assert written <= len(errors) - len(overloaded), "a refused append was written"


def retried(ledger, context, payload, key):
    """The entry, or None when the node cannot write at present."""
    try:
        return ledger.append(context, payload, timeout=5, x_idempotency_key=key).entry
    except RpcError as error:
        assert error.code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED), error
        return None


def test_a_node_that_was_away_gets_exactly_the_missing_tail(clusters, context):
    cluster = clusters()
    away = cluster.followers()[0]
    clients = [node.client() for node in cluster.nodes if node is not away]
    clients[0].append(context, b"before")
    away.kill()

    def write(part):
        for _ in range(125):
            clients[part % 2].append(context, bytes(4096))

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(write, range(32)))
    away.start()
    cluster.converged()
    expected = clients[0].pages(context, 1000)
    assert len(expected) == 4001
    assert away.client().pages(context, 1000) == expected
    assert len({status["digest"] for status in cluster.converged()}) == 1


def test_payloads_of_4_mib_through_every_node_at_once(clusters, context):
    cluster = clusters()
    clients = [node.client() for node in cluster.nodes]
    payloads = [bytes([number]) * (4 << 20) for number in range(24)]
    with ThreadPoolExecutor(6) as pool:
        entries = list(pool.map(lambda n: clients[n % 3].append(context, payloads[n], timeout=60).entry, range(24)))
    assert sorted(entry.sequence for entry in entries) == list(range(1, 25))
    cluster.converged()
    for client in clients:
        assert sorted(entry.payload[0] for entry in client.pages(context, 4)) == list(range(24))


def say_to(host, port, data):
    """Sends, and waits until the other side has closed the connection."""
    with socket.create_connection((host, port), timeout=10) as peer:
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
        except TimeoutError:
            raise AssertionError(f"the connection stays open after {data[:16]}…") from None
        except OSError:
            pass  # closed in the middle of it


def test_garbage_on_the_peer_port_ends_the_connection_and_nothing_else(clusters, context):
    cluster = clusters()
    dice = random.Random(SEED)
    term = cluster.leader().status()["term"]
    garbage = [b"\xff" * 64, bytes(4096), b"GET / HTTP/1.1\r\n\r\n", dice.randbytes(65536)]
    garbage += [(1 << 30).to_bytes(4, order) + b"x" * 1000 for order in ("little", "big")]
    for node in cluster.nodes:
        host, _, port = node.peer.rpartition(":")
        with node.peak_memory_below(64 << 20):
            for data in garbage * 20:
                say_to(host, int(port), data)
    assert {node.status()["term"] for node in cluster.nodes} == {term}, "garbage forced an election"
    for node in cluster.nodes:
        node.client().append(context)
    assert_gapless(cluster.nodes[0].client().get(context).entries)


class Writer(threading.Thread):
    """Appends until it is told to stop, over all nodes in turn, each payload under its own key."""

    def __init__(self, nodes, context, name):
        super().__init__(daemon=True)
        self.clients = [node.client() for node in nodes]
        self.context, self.label = context, name
        self.acknowledged = []
        self.stopping = threading.Event()

    def run(self):
        turn = 0
        while not self.stopping.is_set():
            payload = f"{self.label}-{len(self.acknowledged)}".encode()
            entry = None
            while entry is None:
                entry = retried(self.clients[turn % len(self.clients)], self.context, payload, payload.decode())
                turn += entry is None
            self.acknowledged.append(entry)

    def finish(self):
        self.stopping.set()
        self.join(60)
        assert not self.is_alive(), "a writer does not come to an end"
        return self.acknowledged


class Watcher(threading.Thread):
    """Watches one node, and resumes on the next one when the stream breaks."""

    def __init__(self, nodes, context):
        super().__init__(daemon=True)
        self.clients = [node.client() for node in nodes]
        self.context = context
        self.entries = []
        self.breaks = 0
        self.stopping = threading.Event()

    def run(self):
        turn = 0
        while not self.stopping.is_set():
            last = self.entries[-1].sequence if self.entries else 0
            try:
                for event in self.clients[turn % len(self.clients)].watch(self.context, last, timeout=120):
                    self.entries.append(event.entry)
                    if self.stopping.is_set():
                        return
            except RpcError:
                self.breaks += 1
                turn += 1


def test_watch_and_append_across_a_leader_change(clusters, context):
    cluster = clusters()
    leader = cluster.leader()
    followers = cluster.followers()
    # Two watch a survivor and must see no break; one watches the node that dies and resumes elsewhere.
    watchers = [Watcher([node], context) for node in followers] + [Watcher([leader, *followers], context)]
    writers = [Writer(cluster.nodes, context, name) for name in "abcd"]
    for thread in watchers + writers:
        thread.start()
    until("some entries before the kill", lambda: all(len(w.entries) > 100 for w in watchers))
    leader.kill()
    seen = len(watchers[0].entries)
    until("entries after the kill", lambda: len(watchers[0].entries) > seen + 200)
    acknowledged = [entry for writer in writers for entry in writer.finish()]
    cluster.leader()
    total = followers[0].client().get(context).latest_sequence
    until("watchers to see everything", lambda: all(len(w.entries) >= total for w in watchers))
    read = list(followers[0].client().get(context).entries)
    assert_gapless(read)
    assert len({entry.payload for entry in read}) == len(read), "an entry was written twice"
    by_sequence = {entry.sequence: entry for entry in read}
    assert all(by_sequence[entry.sequence] == entry for entry in acknowledged), "an acknowledged entry is missing"
    for watcher in watchers:
        assert watcher.entries == read
        watcher.stopping.set()
    assert [watcher.breaks for watcher in watchers[:2]] == [0, 0]
    assert watchers[2].breaks >= 1
    leader.start()
    cluster.converged()
    assert list(leader.client().get(context).entries) == read
    digests = {status.get("digest") for status in cluster.converged()}
    assert len(digests) == 1 and digests != {None}
