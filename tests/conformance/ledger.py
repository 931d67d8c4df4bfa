"""Real nodes as processes, and a thin client that keeps the response metadata in sight."""

import contextlib
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

import grpc
import pytest

from contract import pb, rpc

BINARY = os.environ.get("CONVERGE_BIN", "converge-ledger")
READY_SECONDS = 30
CALL_SECONDS = 15
# Unlimited on the client's side, so that only the server's bounds are tested.
UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# Below the kernel's range for outgoing connections: no connection takes a node's port while it is down.
PORTS = range(20000, 32000)
ADDRESS = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}:\d+")
_dice = random.SystemRandom()
_taken = set()


def free_port():
    for _ in range(1000):
        port = _dice.choice(PORTS)
        if port in _taken:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _taken.add(port)
            return port
    raise AssertionError("no free port between 20000 and 32000")


def until(what, probe, seconds=READY_SECONDS):
    """Asks until the answer is true; for states that nothing announces."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Node:
    """One process on one data directory; the ports stay the same over restarts."""

    def __init__(self, directory, node_id=1, peers=None, env=None, peer_port=None):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.id = node_id
        self.grpc = f"127.0.0.1:{free_port()}"
        self.peer = f"127.0.0.1:{peer_port or free_port()}"
        self.peers = peers
        self.env = env or {}
        self.process = None
        self.ready = None

    @property
    def data(self):
        return self.directory / f"data{self.id}"

    def spawn(self):
        assert self.process is None
        command = [BINARY, "start", "--node-id", str(self.id), "--data-dir", str(self.data)]
        command += ["--grpc", self.grpc, "--peer", self.peer]
        if self.peers:
            command += ["--peers", self.peers]
        log = open(self.directory / f"node{self.id}.log", "ab")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **self.env}
        )
        log.close()
        return self

    def await_ready(self, seconds=READY_SECONDS):
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self.process.stdout], [], [], max(left, 0))
            assert readable, f"node {self.id} printed no ready line within {seconds} s\n{self.log_tail()}"
            part = os.read(self.process.stdout.fileno(), 1)
            assert part, f"node {self.id} ended with {self.process.wait()} before it was ready\n{self.log_tail()}"
            line += part
        self.ready = line.decode()
        return self

    def start(self):
        return self.spawn().await_ready()

    def log_tail(self):
        text = (self.directory / f"node{self.id}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-20:])

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def terminate(self, seconds=30):
        """SIGTERM; the exit code."""
        self.process.terminate()
        code = self.process.wait(timeout=seconds)
        self.process.stdout.close()
        self.process = None
        return code

    def pause(self):
        """SIGSTOP; returns when no thread of it runs any more. On a busy machine that takes a moment, in which it answers."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self):
        self.signal(signal.SIGCONT)

    def channel(self, **options):
        arguments = UNBOUNDED + [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        # Channels of one process share connections by default; each of ours is its own.
        arguments += [("grpc.use_local_subchannel_pool", 1)] + list(options.items())
        return grpc.insecure_channel(self.grpc, arguments)

    def client(self):
        return Client(self.channel())

    def status(self):
        """What the command line says, or None when the node does not answer."""
        command = [BINARY, "status", "--endpoint", f"http://{self.grpc}", "--output", "json"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=10)
        except subprocess.TimeoutExpired:
            return None
        return json.loads(done.stdout) if done.returncode == 0 else None

    def memory(self, field="VmRSS"):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M).group(1)) * 1024

    @contextlib.contextmanager
    def peak_memory_below(self, growth):
        """The highest resident size inside the block exceeds the size before it by less than `growth`."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # 5: reset the peak
        before = self.memory()
        yield
        peak = self.memory("VmHWM")
        assert peak - before < growth, f"resident size rose from {before >> 20} to {peak >> 20} MiB"


class Cluster:
    def __init__(self, directory, size=3, env=None):
        ports = [free_port() for _ in range(size)]
        peers = ",".join(f"{i}=127.0.0.1:{port}" for i, port in enumerate(ports, 1))
        settings = {"CONVERGE_LEDGER__RAFT__HEARTBEAT_MS": "50", "CONVERGE_LEDGER__RAFT__ELECTION_MS": "500"}
        settings.update(env or {})
        self.nodes = [Node(directory, i, peers, settings, port) for i, port in enumerate(ports, 1)]

    def start(self):
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.await_ready()
        self.leader()
        return self

    def leader(self, among=None):
        def find():
            found = [n for n in among or self.nodes if n.process and (n.status() or {}).get("role") == "leader"]
            return found[0] if len(found) == 1 else None

        return until("one leader", find)

    def followers(self):
        leader = self.leader()
        return [node for node in self.nodes if node is not leader]

    def converged(self):
        """Waits until every node has applied the same; the statuses."""

        def same():
            statuses = [node.status() for node in self.nodes]
            if all(statuses) and len({s["applied_index"] for s in statuses}) == 1:
                return statuses
            return None

        return until("equal applied_index on every node", same)

    def kill(self):
        for node in self.nodes:
            node.kill()


class Appended:
    """An entry with the metadata of the response that brought it."""

    def __init__(self, response, call):
        self.entry = response.entry
        self.metadata = dict(list(call.initial_metadata() or []) + list(call.trailing_metadata() or []))

    @property
    def position(self):
        return int(self.metadata["x-ledger-position"])

    @property
    def deduplicated(self):
        return self.metadata.get("x-ledger-deduplicated") == "true"


class Client:
    def __init__(self, channel):
        self.channel = channel
        self.stub = rpc.ContextServiceStub(channel)

    def append(self, context, payload=b"", key="", metadata=None, timeout=CALL_SECONDS, **headers):
        request = pb.AppendRequest(context_id=context, key=key, payload=payload, metadata=metadata or {})
        response, call = self.stub.Append.with_call(request, timeout=timeout, metadata=as_headers(headers))
        return Appended(response, call)

    def get(self, context, after=0, limit=0, key="", timeout=CALL_SECONDS, **headers):
        request = pb.GetRequest(context_id=context, key=key, after_sequence=after, limit=limit)
        return self.stub.Get(request, timeout=timeout, metadata=as_headers(headers))

    def pages(self, context, limit, key=""):
        """All entries, a page at a time."""
        after, entries = 0, []
        while True:
            page = self.get(context, after, limit, key).entries
            assert len(page) <= limit
            if not page:
                return entries
            entries += page
            after = page[-1].sequence

    def watch(self, context, from_sequence=0, key="", timeout=60):
        return self.stub.Watch(pb.WatchRequest(context_id=context, key=key, from_sequence=from_sequence), timeout=timeout)

    def snapshot(self, context, timeout=60):
        return self.stub.Snapshot(pb.SnapshotRequest(context_id=context), timeout=timeout)

    def load(self, context, blob, fail_if_exists=False, timeout=60):
        request = pb.LoadRequest(context_id=context, snapshot=blob, fail_if_exists=fail_if_exists)
        return self.stub.Load(request, timeout=timeout)


def as_headers(headers):
    """x_idempotency_key="a" becomes ("x-idempotency-key", "a")."""
    return [(name.replace("_", "-"), str(value)) for name, value in headers.items()]


def trailers(error):
    return dict(error.trailing_metadata() or [])


@contextlib.contextmanager
def refused(*codes, marked=True):
    """The block fails with one of the codes, and says that nothing was written."""
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    error = caught.value
    assert error.code() in codes, f"{error.code()}: {error.details()}"
    assert error.details(), f"{error.code()} without a message"
    if marked:
        assert trailers(error).get("x-ledger-outcome") == "refused", f"{error.code()} lacks the trailer: {trailers(error)}"


def take(stream, count):
    """The next entries of a watch."""
    entries = []
    for event in stream:
        entries.append(event.entry)
        if len(entries) == count:
            return entries
    raise AssertionError(f"the stream ended after {len(entries)} of {count} entries")


def assert_gapless(entries, first=1):
    found = [entry.sequence for entry in entries]
    assert found == list(range(first, first + len(found))), f"not gapless from {first}: {found[:20]}…"
