"""Watch: history then what comes, each entry once and in order, on every node."""

import threading

import pytest
from grpc import RpcError, StatusCode

from contract import U64_MAX
from ledger import assert_gapless, refused, take


def test_from_0_it_sends_all_history_and_then_what_comes(ledger, context):
    written = [ledger.append(context, b"%d" % number).entry for number in range(3)]
    stream = ledger.watch(context)
    assert take(stream, 3) == written
    written = [ledger.append(context, b"live").entry for _ in range(2)]
    assert take(stream, 2) == written
    stream.cancel()


def test_from_sequence_is_exclusive(ledger, context):
    for _ in range(4):
        ledger.append(context)
    stream = ledger.watch(context, from_sequence=2)
    assert [entry.sequence for entry in take(stream, 2)] == [3, 4]
    stream.cancel()


def test_a_context_may_be_watched_before_it_exists(ledger, context):
    stream = ledger.watch(context)
    entry = ledger.append(context, b"first").entry
    assert take(stream, 1) == [entry]
    stream.cancel()


def test_from_a_sequence_that_is_yet_to_come_it_waits_for_it(ledger, context):
    stream = ledger.watch(context, from_sequence=3)
    for _ in range(5):
        ledger.append(context)
    assert [entry.sequence for entry in take(stream, 2)] == [4, 5]
    stream.cancel()


def test_from_the_highest_number_it_neither_wraps_nor_fails(ledger, context):
    ledger.append(context)
    stream = ledger.watch(context, from_sequence=U64_MAX, timeout=1)
    with pytest.raises(RpcError) as caught:
        next(stream)
    assert caught.value.code() == StatusCode.DEADLINE_EXCEEDED
    assert ledger.append(context).entry.sequence == 2


def test_the_key_filter_holds_for_history_and_for_what_comes(ledger, context):
    for key in "abab":
        ledger.append(context, key=key)
    stream = ledger.watch(context, key="b")
    for key in "abab":
        ledger.append(context, key=key)
    assert [entry.sequence for entry in take(stream, 4)] == [2, 4, 6, 8]
    stream.cancel()


def test_an_empty_context_id_is_refused(ledger):
    with refused(StatusCode.INVALID_ARGUMENT):
        next(ledger.watch(""))


def test_between_history_and_live_there_is_neither_gap_nor_repeat(node, context):
    writer = node.client()
    total = 1500

    def write():
        for number in range(total):
            writer.append(context, b"%d" % number)

    thread = threading.Thread(target=write)
    thread.start()
    # Each one begins at another moment of the writing: most change from history to live in the middle.
    streams = []
    while thread.is_alive() and len(streams) < 20:
        begin = writer.get(context, after=U64_MAX).latest_sequence
        streams.append((begin, node.client().watch(context, from_sequence=begin // 2)))
    thread.join()
    assert len(streams) == 20
    for begin, stream in streams:
        assert_gapless(take(stream, total - begin // 2), first=begin // 2 + 1)
        stream.cancel()


def test_every_node_sends_the_same(trio, context):
    streams = [node.client().watch(context) for node in trio.nodes]
    clients = [node.client() for node in trio.nodes]
    written = [clients[number % 3].append(context, b"%d" % number).entry for number in range(60)]
    for stream in streams:
        assert take(stream, 60) == written
        stream.cancel()


def test_a_watcher_that_does_not_read_costs_no_memory_and_misses_nothing(nodes, context):
    node = nodes().start()
    ledger = node.client()
    ledger.append(context, b"x")
    streams = [node.client().watch(context) for _ in range(20)]
    for stream in streams:
        take(stream, 1)
    # 20 watchers × 48 MiB would be 960 MiB if each had a buffer of its own.
    with node.peak_memory_below(512 << 20):
        for _ in range(48):
            ledger.append(context, bytes(1 << 20))
    for stream in streams[:3]:
        assert_gapless(take(stream, 48), first=2)
    for stream in streams:
        stream.cancel()


def test_sigterm_ends_a_watch_with_unavailable(nodes, context):
    node = nodes().start()
    stream = node.client().watch(context)
    node.client().append(context)
    take(stream, 1)
    assert node.terminate() == 0
    with pytest.raises(RpcError) as caught:
        next(stream)
    assert caught.value.code() == StatusCode.UNAVAILABLE
