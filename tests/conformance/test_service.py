"""The wire facts, health, reflection, and how a node says that it is ready and that it goes."""

import os
import re
import subprocess
import time

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from contract import SERVICE, pb
from ledger import BINARY

# From the client contract: message -> {field: (number, type)}.
FIELDS = {
    "Entry": {"id": (1, "string"), "key": (2, "string"), "payload": (3, "bytes"), "sequence": (4, "uint64"), "appended_at_ns": (5, "uint64"), "metadata": (6, "map")},
    "AppendRequest": {"context_id": (1, "string"), "key": (2, "string"), "payload": (3, "bytes"), "metadata": (4, "map")},
    "AppendResponse": {"entry": (1, "message")},
    "GetRequest": {"context_id": (1, "string"), "key": (2, "string"), "after_sequence": (3, "uint64"), "limit": (4, "uint32")},
    "GetResponse": {"entries": (1, "repeated message"), "latest_sequence": (2, "uint64")},
    "SnapshotRequest": {"context_id": (1, "string")},
    "SnapshotResponse": {"snapshot": (1, "bytes"), "sequence": (2, "uint64"), "metadata": (3, "message")},
    "SnapshotMetadata": {"created_at_ns": (1, "uint64"), "entry_count": (2, "uint64"), "version": (3, "uint32")},
    "LoadRequest": {"context_id": (1, "string"), "snapshot": (2, "bytes"), "fail_if_exists": (3, "bool")},
    "LoadResponse": {"entries_restored": (1, "uint64"), "latest_sequence": (2, "uint64")},
    "WatchRequest": {"context_id": (1, "string"), "key": (2, "string"), "from_sequence": (3, "uint64")},
    "WatchEvent": {"entry": (1, "message")},
}
METHODS = ["Append", "Get", "Snapshot", "Load", "Watch"]
TYPES = {9: "string", 12: "bytes", 4: "uint64", 13: "uint32", 8: "bool", 11: "message"}


def facts(file):
    """Message -> {field: (number, type)} of a file descriptor, map entries left out."""
    found = {}
    for message in file.message_type:
        maps = {nested.name for nested in message.nested_type if nested.options.map_entry}
        found[message.name] = {}
        for field in message.field:
            kind = TYPES[field.type]
            if field.label == field.LABEL_REPEATED:
                kind = "map" if field.type_name.rpartition(".")[2] in maps else f"repeated {kind}"
            found[message.name][field.name] = (field.number, kind)
    return found


def test_the_proto_has_the_wire_facts_of_the_contract_and_no_foreign_option():
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    assert file.package == "converge.context.v1"
    assert facts(file) == FIELDS
    assert [(m.name, m.client_streaming, m.server_streaming) for m in file.service[0].method] == [
        (name, False, name == "Watch") for name in METHODS
    ]
    assert "elixir" not in str(file).lower()


def test_an_unknown_method_is_unimplemented(ledger):
    call = ledger.channel.unary_unary(f"/{SERVICE}/Delete", lambda _: b"", lambda data: data)
    with pytest.raises(grpc.RpcError) as caught:
        call(None, timeout=10)
    assert caught.value.code() == StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", ["", SERVICE])
def test_health_is_serving(ledger, name):
    health = health_pb2_grpc.HealthStub(ledger.channel)
    request = health_pb2.HealthCheckRequest(service=name)
    # The node is looked at a moment after it is ready.
    deadline = time.monotonic() + 10
    while health.Check(request, timeout=10).status != health_pb2.HealthCheckResponse.SERVING:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stream = health.Watch(request, timeout=10)
    assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
    stream.cancel()


def test_the_health_of_an_unknown_service_is_not_found(ledger):
    health = health_pb2_grpc.HealthStub(ledger.channel)
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert caught.value.code() == StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_the_service(ledger, version):
    """The messages of both versions are the same on the wire."""
    ask = ledger.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )

    def answer(**request):
        return next(ask(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=10))

    names = {service.name for service in answer(list_services="").list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health", f"grpc.reflection.{version}.ServerReflection"} <= names
    files = answer(file_containing_symbol=SERVICE).file_descriptor_response.file_descriptor_proto
    parsed = [descriptor_pb2.FileDescriptorProto.FromString(data) for data in files]
    assert FIELDS in [facts(file) for file in parsed if file.package == "converge.context.v1"]
    # Either kind of "not found" is in use among servers: in the answer, or as the stream's end.
    try:
        code = answer(file_containing_symbol="no.such.Thing").error_response.error_code
    except grpc.RpcError as error:
        code = error.code().value[0]
    assert code == StatusCode.NOT_FOUND.value[0]


def test_the_ready_line_is_one_line_with_the_address(nodes):
    node = nodes().start()
    assert node.grpc in node.ready, node.ready
    assert node.terminate() == 0


def test_grpc_port_is_honoured(nodes):
    node = nodes()
    port = node.grpc.rpartition(":")[2]
    # Without --grpc, which spawn() would pass.
    command = [BINARY, "start", "--data-dir", str(node.data), "--peer", node.peer]
    log = open(node.directory / "node1.log", "ab")
    node.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "GRPC_PORT": port})
    node.await_ready()
    assert re.search(rf":{port}\b", node.ready), node.ready
    assert node.client().append("port").entry.sequence == 1


def test_sigterm_drains_and_what_was_acknowledged_is_there_afterwards(nodes, context):
    node = nodes().start()
    ledger = node.client()
    request = pb.AppendRequest(context_id=context, payload=bytes(100_000))
    calls = [ledger.stub.Append.future(request, timeout=20) for _ in range(50)]
    calls[0].result()
    assert node.terminate() == 0
    acknowledged = {call.result().entry.id for call in calls if not call.exception()}
    for call in calls:
        error = call.exception()
        assert error is None or error.code() == StatusCode.UNAVAILABLE, error
    node.start()
    entries = node.client().get(context).entries
    assert acknowledged <= {entry.id for entry in entries}
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))


def test_health_stops_serving_while_the_node_drains(nodes):
    node = nodes().start()
    stream = health_pb2_grpc.HealthStub(node.channel()).Watch(health_pb2.HealthCheckRequest(), timeout=30)
    assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
    assert node.terminate() == 0
    with pytest.raises(grpc.RpcError):
        assert next(stream).status == health_pb2.HealthCheckResponse.NOT_SERVING
        next(stream)


def test_a_watch_does_not_hold_up_the_drain(nodes, context):
    node = nodes().start()
    stream = node.client().watch(context)
    node.client().append(context)
    next(stream)
    assert node.terminate(seconds=20) == 0
