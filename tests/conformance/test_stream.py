"""`LedgerService/AppendStream`: many appends over one call."""

import queue

import grpc
import pytest

from contract import pb, stream_pb, stream_rpc


def entry(context, number, **more):
    return stream_pb.AppendStreamRequest(context_id=context, key="k", payload=b"%d" % number, **more)


def answers(stream):
    """The first answer's window, all places, and the status at the end."""
    window, places = next(stream).window, []
    try:
        for answer in stream:
            places += answer.places
            assert answer.acknowledged == len(places)
    except grpc.RpcError as error:
        return window, places, error
    return window, places, None


def payloads(ledger, context):
    return [found.payload for found in ledger.stub.Get(pb.GetRequest(context_id=context)).entries]


def trailers(error):
    return dict(error.trailing_metadata())


@pytest.fixture
def stub(ledger):
    return stream_rpc.LedgerServiceStub(ledger.channel)


def test_entries_are_acknowledged_in_order_with_their_places(stub, ledger, context):
    other = context + "-other"
    entries = [entry(other if number % 2 else context, number) for number in range(3000)]
    window, places, error = answers(stub.AppendStream(iter(entries)))
    assert error is None
    assert window.entries > 1 and window.bytes > 1
    assert [place.sequence for place in places] == [number // 2 + 1 for number in range(3000)]
    positions = [place.position for place in places]
    assert positions == sorted(set(positions))
    assert payloads(ledger, context) == [b"%d" % number for number in range(0, 3000, 2)]


def test_what_is_not_acknowledged_is_sent_again_under_its_key(stub, ledger, context):
    entries = [entry(context, number, idempotency_key=f"key {number}") for number in range(10)]
    assert answers(stub.AppendStream(iter(entries[:6])))[2] is None
    _, places, error = answers(stub.AppendStream(iter(entries)))
    assert error is None
    assert [place.deduplicated for place in places] == [True] * 6 + [False] * 4
    assert [place.sequence for place in places] == list(range(1, 11))
    assert len(payloads(ledger, context)) == 10


def test_an_expected_sequence_counts_what_came_before_it_on_the_stream(stub, context):
    entries = [entry(context, number, expected_sequence=number) for number in range(5)]
    assert answers(stub.AppendStream(iter(entries)))[2] is None


@pytest.mark.parametrize(
    "bad, code",
    [
        (dict(expected_sequence=9), grpc.StatusCode.FAILED_PRECONDITION),
        (dict(idempotency_key="k" * 1025), grpc.StatusCode.INVALID_ARGUMENT),
        (dict(idempotency_key="taken"), grpc.StatusCode.ALREADY_EXISTS),
    ],
)
def test_the_first_refused_entry_ends_the_stream(stub, ledger, context, bad, code):
    entries = [entry(context, 0, idempotency_key="taken"), entry(context, 1, **bad), entry(context, 2)]
    _, places, error = answers(stub.AppendStream(iter(entries)))
    assert error.code() == code
    said = trailers(error)
    assert said["x-ledger-stream-position"] == "2"
    assert said["x-ledger-acknowledged"] == "1"
    assert said["x-ledger-outcome"] == "refused"
    assert len(places) == 1
    assert payloads(ledger, context) == [b"0"]


def test_an_entry_is_acknowledged_while_the_stream_stays_open(stub, context):
    sent = queue.Queue()
    stream = stub.AppendStream(iter(sent.get, None))
    assert next(stream).acknowledged == 0
    for number in range(1, 4):
        sent.put(entry(context, number))
        assert next(stream).acknowledged == number
    sent.put(None)
    assert list(stream) == []
    assert stream.code() == grpc.StatusCode.OK


def test_a_stream_without_entries_ends_well(stub):
    assert answers(stub.AppendStream(iter([])))[1:] == ([], None)
