"""What no honest client sends: a typed status, nothing applied, bounded memory, and the node goes on."""

import contextlib
import gzip
import random
import socket
import threading
import time
import zlib

import grpc
import pytest
from grpc import StatusCode

from contract import PAYLOAD_MAX, U64_MAX, pb
from ledger import assert_gapless, refused
from raw import Raw, message

SEED = 5
SPARE = 128 << 20
# 10,000 streams: HPACK state, tasks and buffers of each, with room to spare.
STREAMS, STREAMS_SPARE = 10_000, 768 << 20


@pytest.fixture
def unharmed(node, ledger, context):
    """Nothing was written by the test, little memory was used, and the node still works."""
    with node.peak_memory_below(SPARE):
        yield
    assert ledger.get(context).latest_sequence == 0, "bad input was applied"
    assert ledger.append(context, b"still here").entry.sequence == 1


def request(context, payload=b"x"):
    return pb.AppendRequest(context_id=context, payload=payload).SerializeToString()


def codes(*names):
    return {getattr(StatusCode, name).value[0] for name in names}


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 1 << 30])
def test_a_huge_length_prefix(node, context, unharmed, length):
    with Raw(node.grpc) as raw:
        answer = raw.call(message(request(context), length=length))
        assert answer.code in codes("RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "INVALID_ARGUMENT", "INTERNAL"), answer.headers


def test_a_message_that_ends_too_early(node, context, unharmed):
    with Raw(node.grpc) as raw:
        whole = message(request(context))
        for length in (0, 1, 4, 5, len(whole) - 1):
            answer = raw.call(whole[:length])
            assert answer.code not in (None, 0), (length, answer.headers)


def test_bytes_that_are_no_message(node, context, unharmed):
    dice = random.Random(SEED)
    with Raw(node.grpc) as raw:
        for _ in range(100):
            answer = raw.call(message(b"\xff" + dice.randbytes(dice.randrange(1, 200))))
            assert answer.code in codes("INTERNAL", "INVALID_ARGUMENT"), answer.headers


def test_a_name_that_is_not_utf_8(node, context, unharmed):
    body = request(context).replace(context.encode(), b"\xff" * len(context))
    with Raw(node.grpc) as raw:
        assert raw.call(message(body)).code in codes("INTERNAL", "INVALID_ARGUMENT")


@pytest.mark.parametrize("compressed, encoding", [(1, None), (1, "identity"), (1, "snappy"), (2, None), (255, "gzip")])
def test_a_compression_that_is_not_agreed(node, context, unharmed, compressed, encoding):
    headers = [("grpc-encoding", encoding)] if encoding else []
    with Raw(node.grpc) as raw:
        answer = raw.call(message(request(context), compressed), headers=headers)
        assert answer.code in codes("UNIMPLEMENTED", "INTERNAL", "INVALID_ARGUMENT"), answer.headers


def test_a_compressed_bomb(node, context, unharmed):
    # 1 GiB of zeros as one field of a message, about 1 MiB when compressed.
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(b"\x1a\x80\x80\x80\x80\x04")
    zeros = bytes(1 << 20)
    bomb += b"".join(packer.compress(zeros) for _ in range(1024)) + packer.flush()
    with Raw(node.grpc) as raw:
        answer = raw.call(message(bomb, 1), headers=[("grpc-encoding", "gzip")])
        assert answer.code in codes("RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL"), answer.headers


def test_gzip_that_is_broken(node, context, unharmed):
    data = bytearray(gzip.compress(request(context)))
    data[len(data) // 2] ^= 0xFF
    with Raw(node.grpc) as raw:
        answer = raw.call(message(bytes(data), 1), headers=[("grpc-encoding", "gzip")])
        assert answer.code not in (None, 0), answer.headers


@pytest.mark.parametrize("method", ["Append", "Get", "Snapshot", "Load"])
def test_two_messages_in_a_unary_call(node, context, unharmed, method):
    """Either answered for the first message or refused; never both applied."""
    with Raw(node.grpc) as raw:
        answer = raw.call(message(request("")) * 2, method)
        assert answer.code is not None and answer.code != 0, answer.headers


@pytest.mark.parametrize("timeout", ["1n", "0m", "0S"])
def test_a_deadline_that_has_passed(node, context, unharmed, timeout):
    with Raw(node.grpc) as raw:
        for _ in range(20):
            answer = raw.call(message(request(context)), headers=[("grpc-timeout", timeout)])
            assert answer.code in codes("DEADLINE_EXCEEDED", "CANCELLED"), answer.headers
    # Nothing arrives late either: a linearizable read after all of them sees nothing.


@pytest.mark.parametrize("timeout", ["", "1", "abc", "-1S", "123456789S", "1X"])
def test_a_deadline_that_is_none_gets_a_typed_answer(node, timeout):
    with Raw(node.grpc) as raw:
        answer = raw.call(message(request("bad-timeout")), headers=[("grpc-timeout", timeout)])
        assert answer.code is not None, answer.headers


def test_a_huge_header_list(node, context, unharmed):
    """2 MB of headers: an error on the stream, or the end of the connection."""
    with Raw(node.grpc) as raw, contextlib.suppress(ConnectionError, socket.timeout):
        stream = raw.open(headers=[(f"x-{number}", "v" * 1000) for number in range(2000)])
        answer = raw.answer(stream, raw.send(stream, message(request(context))))
        assert answer.code != 0, answer.headers


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(1 << 16), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096],
    ids=["http 1", "tls", "zeros", "a broken frame"],
)
def test_what_is_not_http_2_ends_the_connection(node, context, unharmed, data):
    host, _, port = node.grpc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            while connection.recv(1 << 16):
                pass


@pytest.mark.parametrize("header", ["x-idempotency-key", "x-expected-sequence"])
def test_a_header_that_is_no_text(node, context, unharmed, header):
    with Raw(node.grpc) as raw:
        answer = raw.call(message(request(context)), headers=[(header, b"\xff\xfe\x80")])
        assert answer.code in codes("INVALID_ARGUMENT"), answer.headers


@pytest.mark.parametrize("number", [0, 1, U64_MAX - 1, U64_MAX])
def test_sequence_0_and_max_in_every_field_that_takes_one(ledger, context, number):
    for _ in range(2):
        ledger.append(context)
    read = ledger.get(context, after=number)
    assert read.latest_sequence == 2 and len(read.entries) == max(2 - number, 0)
    stream = ledger.watch(context, from_sequence=number, timeout=0.5)
    seen = []
    with pytest.raises(grpc.RpcError):
        for event in stream:
            seen.append(event.entry.sequence)
    assert seen == [sequence for sequence in (1, 2) if sequence > number]
    with refused(StatusCode.FAILED_PRECONDITION):
        ledger.append(context, x_expected_sequence=number)


def test_cancelled_in_the_middle_it_is_written_once_or_not_at_all(node, context):
    clients = [node.client() for _ in range(4)]
    dice = random.Random(SEED)
    calls = []
    for number in range(1000):
        message = pb.AppendRequest(context_id=context, payload=b"%d" % number)
        call = clients[number % 4].stub.Append.future(message, timeout=20)
        threading.Timer(dice.random() / 200, call.cancel).start()
        calls.append(call)
    acknowledged = []
    for call in calls:
        with contextlib.suppress(grpc.FutureCancelledError, grpc.RpcError):
            acknowledged.append(call.result().entry)
    print(f"{len(acknowledged)} of {len(calls)} were acknowledged before they were cancelled")
    fence = clients[0].append(context, b"fence").entry
    entries = list(clients[0].get(context).entries)
    assert_gapless(entries)
    assert entries[fence.sequence - 1] == fence
    assert len({entry.payload for entry in entries}) == len(entries)
    assert all(entries[entry.sequence - 1] == entry for entry in acknowledged)


def test_a_connection_cut_in_the_middle_of_a_message(node, context, unharmed):
    body = message(request(context, bytes(PAYLOAD_MAX)))
    for part in (1, 5, 100, len(body) // 2):
        with Raw(node.grpc) as raw:
            raw.send(raw.open(), body[:part], end=False)


def test_ten_thousand_streams(node, ledger, context):
    channels = [node.client() for _ in range(20)]
    with node.peak_memory_below(STREAMS_SPARE):
        streams = [channels[n % 20].watch(context, timeout=120) for n in range(STREAMS)]
        # However many of them the server lets run at once, others are served meanwhile.
        begin = time.monotonic()
        assert ledger.append(context, b"seen by many").entry.sequence == 1
        assert time.monotonic() - begin < 10
        assert next(streams[0]).entry.sequence == 1
        for stream in streams:
            stream.cancel()
    assert ledger.append(context, b"and after").entry.sequence == 2
    for client in channels:
        client.channel.close()


def test_streams_that_are_opened_and_reset_at_once(node, context, unharmed):
    """The rapid reset attack: the server may end the connection, and works on."""
    with Raw(node.grpc) as raw, contextlib.suppress(ConnectionError, BrokenPipeError, socket.timeout):
        for _ in range(10_000):
            stream = raw.open("Watch")
            raw.http.reset_stream(stream)
            raw._flush()


def test_a_thousand_connections_that_say_nothing(node, context, unharmed):
    host, _, port = node.grpc.rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        assert node.client().get(context).latest_sequence == 0
