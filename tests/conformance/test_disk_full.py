"""A full disk: the node says so and takes nothing more, the cluster goes on, and with room it is back by itself."""

import subprocess

import grpc
import pytest
from grpc import StatusCode

from ledger import Cluster, Node

ROOM_MIB = 250
MIB = 1 << 20


class OnSmallDisk(Node):
    @property
    def data(self):
        return self.directory / "small" / "data"


@pytest.fixture
def small_disk(tmp_path):
    """A file system with little room; needs the right to mount one."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}m", "tmpfs", mount], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)


def test_a_full_disk_stops_one_node_and_nobody_else(tmp_path, small_disk, context):
    cluster = Cluster(tmp_path)
    small = cluster.nodes[0]
    small.__class__ = OnSmallDisk
    # By default a node asks for more room than this disk has in all.
    small.env["CONVERGE_LEDGER__STORAGE__FREE_BYTES_MIN"] = str(32 * MIB)
    try:
        cluster.start()
        clients = [node.client() for node in cluster.nodes]
        acknowledged = [append(clients, context, number) for number in range(ROOM_MIB // 2)]
        status = small.status()
        assert "room" in " ".join(status["alarms"]), status
        for node in cluster.nodes[1:]:
            # A node whose answers wait for room is one that the leader does not hear of.
            missed = f"voter {small.id} has not been heard of"
            assert [alarm for alarm in node.status()["alarms"] if not alarm.startswith(missed)] == []
            entries = node.client().pages(context, 16)
            assert [entry.id for entry in entries] == acknowledged
        # What the full node still reads is a prefix, and not a byte of it is other.
        stale = clients[0].get(context, limit=16, x_consistency="stale").entries
        assert list(stale) == entries[: len(stale)]
        subprocess.run(["mount", "-o", f"remount,size={4 * ROOM_MIB}m", small_disk], check=True)
        cluster.converged()
        assert small.client().pages(context, 16) == entries
    finally:
        cluster.kill()


def append(clients, context, number):
    """One MiB through the first node that takes it; its id."""
    for client in clients:
        try:
            return client.append(context, payload(number), x_idempotency_key=f"entry-{number}").entry.id
        except grpc.RpcError as error:
            assert error.code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED), error
    raise AssertionError(f"no node took entry {number}")


def payload(number):
    """The same bytes at every attempt, and no others'."""
    return number.to_bytes(4, "big") * (MIB // 4)
