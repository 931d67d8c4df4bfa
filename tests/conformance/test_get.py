"""Get: unknown context, exclusive bounds, key filter before limit, paging, consistency."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from grpc import StatusCode

from contract import PAYLOAD_MAX, U64_MAX
from ledger import assert_gapless, refused


@pytest.fixture
def nine(ledger, context):
    """Entries 1..9 with keys a b c a b c a b c."""
    return [ledger.append(context, b"%d" % number, "abc"[number % 3]).entry for number in range(9)]


def sequences(page):
    return [entry.sequence for entry in page.entries]


def test_an_unknown_context_is_empty_and_no_error(ledger, context):
    read = ledger.get(context)
    assert list(read.entries) == [] and read.latest_sequence == 0


def test_an_empty_context_id_is_refused(ledger):
    with refused(StatusCode.INVALID_ARGUMENT):
        ledger.get("")


def test_reading_does_not_create_a_context(ledger, context):
    ledger.get(context)
    assert ledger.append(context, x_expected_sequence=0).entry.sequence == 1


def test_everything_is_read_without_bounds(ledger, context, nine):
    read = ledger.get(context)
    assert list(read.entries) == nine and read.latest_sequence == 9


@pytest.mark.parametrize("after, expected", [(0, 9), (1, 8), (8, 1), (9, 0), (10, 0), (U64_MAX, 0)])
def test_after_sequence_is_exclusive(ledger, context, nine, after, expected):
    read = ledger.get(context, after=after)
    assert sequences(read) == list(range(10 - expected, 10)) and read.latest_sequence == 9


@pytest.mark.parametrize("limit, expected", [(0, 9), (1, 1), (8, 8), (9, 9), (10, 9), (2**32 - 1, 9)])
def test_limit_bounds_the_page_and_0_does_not(ledger, context, nine, limit, expected):
    assert sequences(ledger.get(context, limit=limit)) == list(range(1, expected + 1))


def test_the_key_filter_applies_before_the_limit(ledger, context, nine):
    assert sequences(ledger.get(context, key="c", limit=2)) == [3, 6]
    assert sequences(ledger.get(context, key="c", after=3, limit=2)) == [6, 9]
    assert sequences(ledger.get(context, key="c")) == [3, 6, 9]


def test_latest_sequence_is_the_contexts_and_not_the_pages(ledger, context, nine):
    for read in (ledger.get(context, limit=2), ledger.get(context, key="a"), ledger.get(context, key="nowhere")):
        assert read.latest_sequence == 9
    assert sequences(ledger.get(context, key="nowhere")) == []


def test_the_key_filter_is_exact(ledger, context):
    for key in ("", "a", "ab", "A"):
        ledger.append(context, key=key)
    assert sequences(ledger.get(context, key="a")) == [2]
    assert sequences(ledger.get(context, key="")) == [1, 2, 3, 4]


@pytest.mark.parametrize("level", ["linearizable", "lease", "stale"])
def test_each_consistency_reads_what_was_acknowledged_here(ledger, context, nine, level):
    assert sequences(ledger.get(context, x_consistency=level)) == list(range(1, 10))


def test_an_unknown_consistency_is_refused(ledger, context):
    with refused(StatusCode.INVALID_ARGUMENT):
        ledger.get(context, x_consistency="eventual")


def test_ten_thousand_entries_in_one_context_page_without_gap(node, context):
    clients = [node.client() for _ in range(4)]

    def write(part):
        for number in range(part, 10_000, 64):
            clients[part % 4].append(context, b"%d" % number, "even" if number % 2 == 0 else "odd")

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(write, range(64)))
    ledger = clients[0]
    whole = ledger.get(context)
    assert whole.latest_sequence == 10_000
    assert_gapless(whole.entries)
    assert sorted(int(entry.payload) for entry in whole.entries) == list(range(10_000))
    for limit in (1000, 333):
        assert ledger.pages(context, limit) == list(whole.entries)
    even = ledger.pages(context, 999, "even")
    assert even == [entry for entry in whole.entries if int(entry.payload) % 2 == 0]
    assert list(ledger.get(context, after=9_998).entries) == list(whole.entries[-2:])


def test_a_response_past_the_bound_says_to_page(nodes, context):
    node = nodes(env={"CONVERGE_LEDGER__LIMITS__RESPONSE_BYTES": str(4 * PAYLOAD_MAX)}).start()
    ledger = node.client()
    for _ in range(5):
        ledger.append(context, b"x" * PAYLOAD_MAX)
    with refused(StatusCode.RESOURCE_EXHAUSTED, StatusCode.OUT_OF_RANGE, marked=False) as caught:
        ledger.get(context)
    assert "limit" in caught.value.details() or "page" in caught.value.details(), caught.value.details()
    assert len(ledger.pages(context, 2)) == 5
