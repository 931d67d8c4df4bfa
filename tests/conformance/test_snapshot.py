"""Snapshot and Load: every state of the target context, and blobs that are not what they were."""

import os
import random
import time

import pytest
from grpc import StatusCode

from ledger import assert_gapless, refused, take

# A fixed seed: the same flips in every run.
FLIPS, SEED = 200, 7


@pytest.fixture
def other(other_node):
    client = other_node.client()
    yield client
    client.channel.close()


@pytest.fixture
def taken(ledger, context):
    """Five entries in a context, and their snapshot."""
    for number in range(5):
        ledger.append(context, b"payload %d" % number, f"k{number}", {"n": str(number)})
    return ledger.get(context).entries, ledger.snapshot(context).snapshot


def test_a_snapshot_says_what_is_in_it(ledger, context):
    before = time.time_ns()
    for _ in range(3):
        ledger.append(context, b"x")
    taken = ledger.snapshot(context)
    assert taken.sequence == 3 and taken.metadata.entry_count == 3 and taken.metadata.version >= 1
    assert before <= taken.metadata.created_at_ns <= time.time_ns()
    assert taken.snapshot


def test_the_snapshot_of_an_unknown_context_is_empty_and_loads_as_nothing(ledger, other, context):
    taken = ledger.snapshot(context)
    assert taken.sequence == 0 and taken.metadata.entry_count == 0
    loaded = other.load(context, taken.snapshot, fail_if_exists=True)
    assert (loaded.entries_restored, loaded.latest_sequence) == (0, 0)
    assert other.append(context).entry.sequence == 1


def test_an_empty_context_id_is_refused(ledger, taken):
    with refused(StatusCode.INVALID_ARGUMENT):
        ledger.snapshot("")
    with refused(StatusCode.INVALID_ARGUMENT):
        ledger.load("", taken[1])


@pytest.mark.parametrize("fail_if_exists", [False, True])
def test_into_an_empty_context_it_restores_everything_as_it_was(other, context, taken, fail_if_exists):
    entries, blob = taken
    loaded = other.load(context, blob, fail_if_exists)
    assert (loaded.entries_restored, loaded.latest_sequence) == (5, 5)
    assert other.get(context).entries == entries
    assert other.append(context).entry.sequence == 6


def test_into_the_same_context_it_changes_nothing(ledger, context, taken):
    entries, blob = taken
    loaded = ledger.load(context, blob)
    assert (loaded.entries_restored, loaded.latest_sequence) == (0, 5)
    assert ledger.get(context).entries == entries


def test_twice_is_as_good_as_once(other, context, taken):
    entries, blob = taken
    other.load(context, blob)
    assert other.load(context, blob).entries_restored == 0
    assert other.get(context).entries == entries


def test_into_a_prefix_it_appends_the_missing_tail(ledger, other, context, taken):
    _, blob = taken
    other.load(context, blob)
    for number in range(3):
        ledger.append(context, b"tail %d" % number)
    loaded = other.load(context, ledger.snapshot(context).snapshot)
    assert (loaded.entries_restored, loaded.latest_sequence) == (3, 8)
    assert other.get(context).entries == ledger.get(context).entries


def test_into_anything_else_it_is_refused_and_nothing_written(other, context, taken):
    _, blob = taken
    other.append(context, b"payload 0", "k0", {"n": "0"})  # the same content, but another entry
    before = other.get(context)
    with refused(StatusCode.FAILED_PRECONDITION):
        other.load(context, blob)
    assert other.get(context) == before


def test_a_snapshot_that_misses_the_contexts_tail_is_refused(ledger, context, taken):
    _, blob = taken
    ledger.append(context, b"later")
    before = ledger.get(context)
    with refused(StatusCode.FAILED_PRECONDITION):
        ledger.load(context, blob)
    assert ledger.get(context) == before


def test_fail_if_exists_refuses_a_context_with_entries_even_the_same(ledger, other, context, taken):
    _, blob = taken
    for client in (ledger, other):
        if client is other:
            other.append(context, b"other")
        before = client.get(context)
        with refused(StatusCode.ALREADY_EXISTS):
            client.load(context, blob, fail_if_exists=True)
        assert client.get(context) == before


@pytest.mark.parametrize("garbage", [b"", b"\x00", b"garbage", bytes(4096), os.urandom(65536)], ids=lambda blob: f"{len(blob)} bytes")
def test_garbage_is_refused(other, context, garbage):
    with refused(StatusCode.INVALID_ARGUMENT):
        other.load(context, garbage)
    assert other.get(context).latest_sequence == 0


def test_every_truncation_and_a_longer_blob_are_refused(other, context, taken):
    _, blob = taken
    for length in range(len(blob)):
        with refused(StatusCode.INVALID_ARGUMENT):
            other.load(context, blob[:length])
    with refused(StatusCode.INVALID_ARGUMENT):
        other.load(context, blob + b"\x00")
    assert other.get(context).latest_sequence == 0


def test_every_flipped_bit_is_refused(other, context, taken):
    _, blob = taken
    dice = random.Random(SEED)
    for bit in dice.sample(range(8 * len(blob)), min(FLIPS, 8 * len(blob))):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        with refused(StatusCode.INVALID_ARGUMENT):
            other.load(context, bytes(flipped))
        assert other.get(context).latest_sequence == 0, f"bit {bit} of {len(blob)} bytes"


def test_larger_than_one_replicated_entry_it_is_still_all_or_nothing(ledger, other, context):
    dice = random.Random(SEED)
    for _ in range(40):
        ledger.append(context, dice.randbytes(512 * 1024))  # 20 MiB that do not compress
    taken = ledger.snapshot(context)
    assert len(taken.snapshot) > 20 * 1024 * 1024
    flipped = bytearray(taken.snapshot)
    flipped[-len(flipped) // 4] ^= 1
    with refused(StatusCode.INVALID_ARGUMENT):
        other.load(context, bytes(flipped))
    assert other.get(context).latest_sequence == 0
    loaded = other.load(context, taken.snapshot)
    assert (loaded.entries_restored, loaded.latest_sequence) == (40, 40)
    assert other.pages(context, 8) == ledger.pages(context, 8)


def test_it_may_be_loaded_under_another_name(ledger, context, taken):
    entries, blob = taken
    assert ledger.load(context + "-copy", blob).entries_restored == 5
    assert ledger.get(context + "-copy").entries == entries


def test_a_snapshot_is_not_bounded_by_what_one_read_may_answer(ledger, other, context):
    for _ in range(20):
        ledger.append(context, bytes(4 << 20))  # 80 MiB, which compress well
    taken = ledger.snapshot(context)
    assert taken.metadata.entry_count == 20
    assert other.load(context, taken.snapshot).entries_restored == 20
    assert len(other.pages(context, 4)) == 20


def test_watchers_see_loaded_entries(other, context, taken):
    entries, blob = taken
    stream = other.watch(context)
    other.load(context, blob)
    assert take(stream, 5) == list(entries)
    stream.cancel()


def test_a_load_on_one_of_three_nodes_is_on_all(trio, ledger, context, taken):
    entries, blob = taken
    trio.followers()[0].client().load(context, blob)
    for node in trio.nodes:
        read = node.client().get(context).entries
        assert read == entries
        assert_gapless(read)


def test_the_blob_of_a_cluster_loads_into_a_node_alone(trio, other, context):
    client = trio.nodes[0].client()
    for _ in range(4):
        client.append(context, b"from three")
    assert other.load(context, client.snapshot(context).snapshot).entries_restored == 4
    assert other.get(context).entries == client.get(context).entries
