"""A flipped bit on the disk: DATA_LOSS or a refusal to start, never other bytes and never fewer."""

from grpc import RpcError, StatusCode

INTEGRITY = 5  # the exit code


def flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def occurrences(node, needle):
    """Every place on the disk where the bytes stand."""
    for path in sorted(node.data.rglob("*")):
        if path.is_file():
            data, at = path.read_bytes(), -1
            while (at := data.find(needle, at + 1)) >= 0:
                yield path, at


def test_a_flipped_bit_in_a_payload_is_data_loss(nodes, context):
    node = nodes().start()
    ledger = node.client()
    for number in range(20):
        ledger.append(context, b"needle-%03d-" % number + bytes(1000))
    assert node.terminate() == 0
    places = list(occurrences(node, b"needle-010-"))
    assert places, "the payload is nowhere on the disk"
    print(f"flipping a bit at {places}")
    for path, at in places:
        flip(path, at + 20)
    node.spawn()
    try:
        node.await_ready()
    except AssertionError:
        assert node.process.wait() == INTEGRITY, node.log_tail()
        assert "checksum" in node.log_tail() or "corrupt" in node.log_tail() or "data loss" in node.log_tail().lower()
        return
    try:
        entries = node.client().get(context, x_consistency="stale", timeout=10).entries
    except RpcError as error:
        assert error.code() == StatusCode.DATA_LOSS, error
    else:
        raise AssertionError(f"{len(entries)} entries were served from damaged storage")
    assert node.status()["alarms"], "a node that found damage raises an alarm"


def test_a_second_process_on_one_data_directory_is_refused(nodes):
    node = nodes().start()
    second = nodes()
    second.directory = node.directory  # the same data directory, other ports
    second.spawn()
    code = second.process.wait(timeout=30)
    assert code not in (0, None)
    log = second.log_tail()
    assert str(node.data) in log, log
    assert node.client().append("unharmed").entry.sequence == 1
