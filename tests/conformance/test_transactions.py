"""`LedgerService`: transactions, fences, appends after a time from elsewhere."""

import grpc
import pytest

from contract import pb, stream_pb, stream_rpc

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def entry(context, payload, **more):
    return stream_pb.NewEntry(context_id=context, key="k", payload=payload, **more)


def condition(context, **what):
    return stream_pb.Condition(context_id=context, **what)


def batch(entries, *conditions, key=""):
    return stream_pb.AppendBatchRequest(entries=entries, conditions=conditions, idempotency_key=key)


def payloads(ledger, context):
    return [found.payload for found in ledger.stub.Get(pb.GetRequest(context_id=context)).entries]


def refused(call, request):
    with pytest.raises(grpc.RpcError) as error:
        call(request)
    trailers = dict(error.value.trailing_metadata())
    return error.value.code(), {name: value for name, value in trailers.items() if name.startswith("x-ledger-")}


@pytest.fixture
def stub(ledger):
    return stream_rpc.LedgerServiceStub(ledger.channel)


def test_a_batch_is_appended_to_all_its_contexts_where_its_conditions_hold(stub, ledger, context):
    other = context + "-other"
    entries = [entry(context, b"1"), entry(other, b"2"), entry(context, b"3")]
    done = stub.AppendBatch(batch(entries, condition(other, sequence=0), condition(context, fence_epoch=0)))
    assert [(at.context_id, at.sequence) for at in done.placed] == [(context, 1), (other, 1), (context, 2)]
    first = done.placed[0].position
    assert [at.position for at in done.placed] == [first, first + 1, first + 2]
    assert len({at.id for at in done.placed}) == 3 and not done.deduplicated and done.term > 0
    assert payloads(ledger, context) == [b"1", b"3"] and payloads(ledger, other) == [b"2"]


def test_where_a_condition_does_not_hold_nothing_is_written_and_it_is_named(stub, ledger, context):
    stub.AppendBatch(batch([entry(context, b"1")]))
    stub.Fence(stream_pb.FenceRequest(context_id=context, epoch=7))
    elsewhere = context + "-elsewhere"
    request = batch([entry(elsewhere, b"1")], condition(elsewhere, sequence=0), condition(context, sequence=3))
    code, trailers = refused(stub.AppendBatch, request)
    assert code == PRECONDITION
    assert trailers == {
        "x-ledger-outcome": "condition",
        "x-ledger-condition": "2",
        "x-ledger-actual-sequence": "1",
        "x-ledger-fence-epoch": "7",
    }
    assert payloads(ledger, elsewhere) == []


def test_a_batch_is_there_once_under_its_key(stub, ledger, context):
    request = batch([entry(context, b"1"), entry(context, b"2")], condition(context, sequence=0), key=context)
    first, again = stub.AppendBatch(request), stub.AppendBatch(request)
    assert again.deduplicated and list(again.placed) == list(first.placed)
    assert payloads(ledger, context) == [b"1", b"2"]
    code, trailers = refused(stub.AppendBatch, batch([entry(context, b"3")], key=context))
    assert (code, trailers) == (grpc.StatusCode.ALREADY_EXISTS, {"x-ledger-outcome": "refused"})


@pytest.mark.parametrize(
    "bad",
    [
        lambda context: batch([]),
        lambda context: batch([entry("", b"1")]),
        lambda context: batch([entry(context, b"1")] * 1001),
        lambda context: batch([entry(context, b"1")], *[condition(context, sequence=0)] * 129),
        lambda context: batch([entry(context, b"1")], condition(context)),
        lambda context: batch([entry(context, bytes(3 << 19))] * 4),
    ],
    ids=["empty", "nameless", "entries", "conditions", "no condition", "bytes"],
)
def test_what_is_past_a_limit_is_refused(stub, ledger, context, bad):
    code, trailers = refused(stub.AppendBatch, bad(context))
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert trailers == {"x-ledger-outcome": "refused"}
    assert payloads(ledger, context) == []


def test_who_gives_an_older_epoch_is_refused(stub, ledger, context):
    def append(epoch):
        return stream_pb.AppendWithReceivedTimeRequest(entry=entry(context, b"1", received_lamport=1), fence_epoch=epoch)

    stub.AppendWithReceivedTime(append(0))
    fenced = stub.Fence(stream_pb.FenceRequest(context_id=context))
    assert (fenced.epoch, fenced.latest_sequence) == (1, 1) and fenced.term > 0
    stale = (PRECONDITION, {"x-ledger-outcome": "fence", "x-ledger-fence-epoch": "1"})
    assert refused(stub.AppendWithReceivedTime, append(0)) == stale
    assert refused(stub.Fence, stream_pb.FenceRequest(context_id=context, epoch=1)) == stale
    assert stub.AppendWithReceivedTime(append(1)).entry.sequence == 2
    assert payloads(ledger, context) == [b"1", b"1"]


def test_an_entry_is_past_the_time_that_was_received(stub, context):
    def append(**more):
        return stream_pb.AppendWithReceivedTimeRequest(entry=entry(context, b"1", **more))

    first = stub.AppendWithReceivedTime(append(received_lamport=41)).entry
    assert (first.context_id, first.sequence, first.lamport, first.payload) == (context, 1, 42, b"1")
    assert stub.AppendWithReceivedTime(append(received_lamport=7)).entry.lamport == 43
    code, trailers = refused(stub.AppendWithReceivedTime, append())
    assert (code, trailers) == (grpc.StatusCode.INVALID_ARGUMENT, {"x-ledger-outcome": "refused"})
