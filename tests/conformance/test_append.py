"""Append: what comes back, the limits, idempotency, expected sequence."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from grpc import RpcError, StatusCode

from contract import METADATA_BYTES_MAX, METADATA_PAIRS_MAX, NAME_MAX, PAYLOAD_MAX, U64_MAX
from ledger import assert_gapless, refused


def test_an_entry_comes_back_as_it_was_given_with_what_the_ledger_assigns(ledger, context):
    before = time.time_ns()
    entry = ledger.append(context, b"\x00\xffpayload", "facts", {"who": "me", "why": "ü"}).entry
    assert re.fullmatch("[0-9a-f]{32}", entry.id)
    assert (entry.key, entry.payload, dict(entry.metadata)) == ("facts", b"\x00\xffpayload", {"who": "me", "why": "ü"})
    assert entry.sequence == 1
    assert before <= entry.appended_at_ns <= time.time_ns()
    assert list(ledger.get(context).entries) == [entry]


def test_sequences_count_within_a_context_and_positions_over_the_ledger(ledger, context):
    first, other, second = (ledger.append(name) for name in (context, context + "b", context))
    assert [first.entry.sequence, other.entry.sequence, second.entry.sequence] == [1, 1, 2]
    assert first.position < other.position < second.position
    assert len({first.entry.id, other.entry.id, second.entry.id}) == 3
    assert int(first.metadata["x-ledger-term"]) >= 1
    assert not first.deduplicated


def test_an_empty_key_and_an_empty_payload_are_accepted(ledger, context):
    entry = ledger.append(context, b"", "").entry
    assert (entry.key, entry.payload, entry.sequence) == ("", b"", 1)


def test_an_empty_context_is_refused(ledger):
    with refused(StatusCode.INVALID_ARGUMENT):
        ledger.append("", b"x")


def test_a_payload_of_exactly_4_mib_is_accepted_and_one_byte_more_is_not(ledger, context):
    payload = bytes(range(256)) * (PAYLOAD_MAX // 256)
    assert ledger.append(context, payload).entry.payload == payload
    with refused(StatusCode.RESOURCE_EXHAUSTED):
        ledger.append(context, payload + b"!")
    read = ledger.get(context)
    assert read.latest_sequence == 1 and read.entries[0].payload == payload


@pytest.mark.parametrize("unit", ["x", "ü", "\x00"], ids=["ascii", "two bytes", "nul"])
def test_names_have_1024_bytes_at_most(ledger, context, unit):
    fits = context + "!" * (NAME_MAX % len(unit.encode()))
    fits += unit * ((NAME_MAX - len(fits.encode())) // len(unit.encode()))
    fits += "!" * (NAME_MAX - len(fits.encode()))
    assert ledger.append(fits, b"1", fits).entry.key == fits
    assert ledger.get(fits).entries[0].key == fits
    for arguments in [(fits + "!", b"", "k"), (context, b"", fits + "!")]:
        with refused(StatusCode.INVALID_ARGUMENT):
            ledger.append(*arguments)
    assert ledger.get(context).latest_sequence == 0


def test_metadata_has_64_pairs_at_most(ledger, context):
    pairs = {f"k{number}": "v" for number in range(METADATA_PAIRS_MAX)}
    assert dict(ledger.append(context, metadata=pairs).entry.metadata) == pairs
    with refused(StatusCode.INVALID_ARGUMENT):
        ledger.append(context, metadata={**pairs, "one": "more"})
    assert ledger.get(context).latest_sequence == 1


def test_metadata_has_64_kib_at_most(ledger, context):
    fits = {"k": "v" * (METADATA_BYTES_MAX - 1)}
    assert dict(ledger.append(context, metadata=fits).entry.metadata) == fits
    with refused(StatusCode.INVALID_ARGUMENT):
        ledger.append(context, metadata={"k": fits["k"] + "v"})
    assert ledger.get(context).latest_sequence == 1


def test_everything_at_its_limit_at_once_is_legal(ledger, context):
    name = context + "x" * (NAME_MAX - len(context))
    pairs = {f"{number:02}": "v" * (METADATA_BYTES_MAX // METADATA_PAIRS_MAX - 2) for number in range(METADATA_PAIRS_MAX)}
    entry = ledger.append(name, b"p" * PAYLOAD_MAX, name, pairs, x_idempotency_key="i" * NAME_MAX).entry
    assert list(ledger.get(name).entries) == [entry] and dict(entry.metadata) == pairs


# Idempotency


def test_the_same_key_and_content_give_the_first_entry_again(ledger, context):
    first = ledger.append(context, b"a", "k", {"m": "1"}, x_idempotency_key="once")
    ledger.append(context, b"between")
    again = ledger.append(context, b"a", "k", {"m": "1"}, x_idempotency_key="once")
    assert again.entry == first.entry and again.position == first.position
    assert again.deduplicated and not first.deduplicated
    assert ledger.get(context).latest_sequence == 2


@pytest.mark.parametrize("other", [(b"b", "k", {}), (b"a", "l", {}), (b"a", "k", {"m": "1"})], ids=["payload", "key", "metadata"])
def test_the_same_key_with_other_content_is_refused(ledger, context, other):
    ledger.append(context, b"a", "k", x_idempotency_key="once")
    with refused(StatusCode.ALREADY_EXISTS):
        ledger.append(context, *other, x_idempotency_key="once")
    assert ledger.get(context).latest_sequence == 1


def test_a_key_counts_within_its_context(ledger, context):
    first = ledger.append(context, b"a", x_idempotency_key="once")
    other = ledger.append(context + "b", b"other", x_idempotency_key="once")
    assert not other.deduplicated and other.entry.id != first.entry.id


def test_a_key_survives_sigkill(nodes, context):
    node = nodes().start()
    first = node.client().append(context, b"a", x_idempotency_key="once")
    node.kill()
    node.start()
    ledger = node.client()
    again = ledger.append(context, b"a", x_idempotency_key="once")
    assert again.deduplicated and again.entry == first.entry
    with refused(StatusCode.ALREADY_EXISTS):
        ledger.append(context, b"b", x_idempotency_key="once")


def test_twenty_at_once_with_one_key_write_one_entry(ledger, context):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ledger.append(context, b"a", x_idempotency_key="once"), range(20)))
    assert len({answer.entry.id for answer in answers}) == 1
    assert sum(not answer.deduplicated for answer in answers) == 1
    assert ledger.get(context).latest_sequence == 1


def test_an_idempotency_key_has_1024_bytes_at_most(ledger, context):
    ledger.append(context, x_idempotency_key="i" * NAME_MAX)
    with refused(StatusCode.INVALID_ARGUMENT):
        ledger.append(context, x_idempotency_key="i" * (NAME_MAX + 1))
    assert ledger.get(context).latest_sequence == 1


# Expected sequence


def test_an_append_at_the_expected_sequence_is_written(ledger, context):
    for expected in range(3):
        assert ledger.append(context, x_expected_sequence=expected).entry.sequence == expected + 1


@pytest.mark.parametrize("expected", [0, 1, 3, U64_MAX])
def test_another_sequence_than_the_expected_is_refused_with_the_actual_one(ledger, context, expected):
    ledger.append(context)
    ledger.append(context)
    with refused(StatusCode.FAILED_PRECONDITION) as caught:
        ledger.append(context, x_expected_sequence=expected)
    assert re.search(r"\b2\b", caught.value.details()), caught.value.details()
    assert ledger.get(context).latest_sequence == 2


@pytest.mark.parametrize("header", ["", "one", "-1", "1.0", str(U64_MAX + 1)])
def test_an_expected_sequence_that_is_no_number_is_refused(ledger, context, header):
    with refused(StatusCode.INVALID_ARGUMENT):
        ledger.append(context, x_expected_sequence=header)
    assert ledger.get(context).latest_sequence == 0


def test_one_of_ten_at_the_same_expected_sequence_wins(ledger, context):
    def attempt(number):
        try:
            return ledger.append(context, str(number).encode(), x_expected_sequence=0).entry
        except RpcError as error:
            assert error.code() == StatusCode.FAILED_PRECONDITION, error
            return None

    with ThreadPoolExecutor(10) as pool:
        won = [entry for entry in pool.map(attempt, range(10)) if entry]
    assert len(won) == 1 and list(ledger.get(context).entries) == won


def test_a_retry_with_its_key_wins_over_an_expected_sequence_that_has_passed(ledger, context):
    first = ledger.append(context, b"a", x_idempotency_key="once", x_expected_sequence=0)
    again = ledger.append(context, b"a", x_idempotency_key="once", x_expected_sequence=0)
    assert again.deduplicated and again.entry == first.entry


def test_a_refused_attempt_does_not_use_up_its_key(ledger, context):
    ledger.append(context)
    with refused(StatusCode.FAILED_PRECONDITION):
        ledger.append(context, b"a", x_idempotency_key="later", x_expected_sequence=0)
    written = ledger.append(context, b"a", x_idempotency_key="later", x_expected_sequence=1)
    assert written.entry.sequence == 2 and not written.deduplicated


# Many


def test_a_hundred_at_once_to_one_context_get_1_to_100(ledger, context):
    with ThreadPoolExecutor(100) as pool:
        entries = list(pool.map(lambda number: ledger.append(context, str(number).encode()).entry, range(100)))
    assert sorted(entry.sequence for entry in entries) == list(range(1, 101))
    read = ledger.get(context).entries
    assert_gapless(read)
    assert list(read) == sorted(entries, key=lambda entry: entry.sequence)


def test_ten_writers_to_a_hundred_contexts(ledger, context):
    def write(writer):
        return [ledger.append(f"{context}-{number}", b"%d" % writer) for number in range(100)]

    with ThreadPoolExecutor(10) as pool:
        answers = [answer for written in pool.map(write, range(10)) for answer in written]
    assert len({answer.position for answer in answers}) == 1000
    for number in range(100):
        entries = ledger.get(f"{context}-{number}").entries
        assert_gapless(entries)
        assert sorted(int(entry.payload) for entry in entries) == list(range(10))
