"""`LedgerService`: streams of one context and of all, watches of all, lists and heads of contexts; and `min_position`."""

import threading

import pytest
from grpc import StatusCode

from contract import stream_pb, stream_rpc
from ledger import refused, take

STALE = stream_pb.CONSISTENCY_STALE
BACKWARDS = stream_pb.DIRECTION_BACKWARDS
ALL = stream_pb.All()


@pytest.fixture
def stub(ledger):
    return stream_rpc.LedgerServiceStub(ledger.channel)


@pytest.fixture
def six(ledger, context):
    """Entries of two contexts by turns; the positions of others may be between them."""
    return [ledger.append(context + ["-a", "-b"][number % 2], b"%d" % number) for number in range(6)]


def read(stub, **request):
    """Entries, the first message and the last one."""
    messages = list(stub.ReadStream(stream_pb.ReadStreamRequest(**request), timeout=10))
    assert messages[-1].end and not any(message.end for message in messages[:-1])
    return [entry for message in messages for entry in message.entries], messages[0], messages[-1]


def test_a_context_is_read_in_both_directions(stub, context, six):
    entries, first, last = read(stub, context_id=context + "-a")
    assert [entry.payload for entry in entries] == [b"0", b"2", b"4"]
    assert [entry.sequence for entry in entries] == [1, 2, 3]
    assert [entry.position for entry in entries] == [append.position for append in six[::2]]
    assert (first.last, last.next) == (3, 0) and first.position >= six[-1].position and first.term > 0
    entries, _, last = read(stub, context_id=context + "-a", direction=BACKWARDS, limit=2)
    assert [entry.sequence for entry in entries] == [3, 2] and last.next == 1
    entries, _, last = read(stub, context_id=context + "-a", direction=BACKWARDS, **{"from": last.next})
    assert [entry.sequence for entry in entries] == [1] and last.next == 0
    assert read(stub, context_id=context)[0] == []


def test_all_contexts_are_read_by_position(stub, context, six):
    begin = six[0].position
    entries, first, _ = read(stub, all=ALL, **{"from": begin})
    assert [entry.position for entry in entries] == list(range(begin, first.last + 1))
    assert [entry.payload for entry in entries if entry.context_id.startswith(context)] == [b"%d" % n for n in range(6)]
    back, _, _ = read(stub, all=ALL, direction=BACKWARDS, limit=len(entries), **{"from": first.last})
    assert back == entries[::-1]
    few, _, last = read(stub, all=ALL, max_bytes=1, **{"from": begin})
    assert few == entries[:1] and last.next == begin + 1


def test_a_stream_names_what_it_reads(stub, context):
    for request in [{}, {"context_id": ""}, {"all": ALL, "direction": 7}, {"all": ALL, "consistency": 7}]:
        with refused(StatusCode.INVALID_ARGUMENT):
            read(stub, **request)


def test_a_watch_of_all_goes_on_from_a_position(stub, ledger, context, six):
    begin = six[0].position - 1
    stream = stub.WatchAll(stream_pb.WatchAllRequest(from_position=begin), timeout=30)
    seen = [entry.position for entry in take(stream, 6)]
    assert seen == list(range(begin + 1, begin + 7))
    threading.Timer(0.1, lambda: ledger.append(context, b"late")).start()
    while True:
        entry = next(stream).entry
        assert entry.position == seen[-1] + 1
        seen.append(entry.position)
        if entry.context_id == context:
            break
    stream.cancel()


def test_contexts_are_listed_by_name(stub, context, six):
    names, after = [], ""
    while True:
        request = stream_pb.ListContextsRequest(prefix=context, after=after, limit=1)
        answer = stub.ListContexts(request, timeout=10)
        names += [(head.context_id, head.latest_sequence, len(head.chain)) for head in answer.contexts]
        assert answer.position >= six[-1].position and answer.term > 0
        after = answer.next
        if not after:
            break
    assert names == [(context + "-a", 3, 32), (context + "-b", 3, 32)]


def test_a_head_is_where_a_context_and_the_ledger_end(stub, context, six):
    answer = stub.GetHead(stream_pb.GetHeadRequest(context_id=context + "-b"), timeout=10)
    assert answer.context.latest_sequence == 3
    assert answer.ledger.position >= six[-1].position and len(answer.ledger.digest) == 64
    assert not stub.GetHead(stream_pb.GetHeadRequest(context_id=context), timeout=10).HasField("context")
    assert stub.GetHead(stream_pb.GetHeadRequest(), timeout=10).ledger.cluster_id == answer.ledger.cluster_id


def test_who_names_a_position_reads_what_it_wrote_on_another_node(trio, context):
    clients = [node.client() for node in trio.nodes]
    stubs = [stream_rpc.LedgerServiceStub(client.channel) for client in clients]
    for number in range(10):
        position = clients[number % 3].append(context, b"%d" % number).position
        for client, stub in zip(clients, stubs):
            headers = {"x_consistency": "stale", "x_min_position": position}
            assert client.get(context, **headers).latest_sequence == number + 1
            assert len(read(stub, context_id=context, consistency=STALE, min_position=position)[0]) == number + 1
    with refused(StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
        clients[0].get(context, timeout=1, x_consistency="stale", x_min_position=position + 1_000_000)
    with refused(StatusCode.INVALID_ARGUMENT):
        clients[0].get(context, x_min_position="-1")
    for client in clients:
        client.channel.close()
