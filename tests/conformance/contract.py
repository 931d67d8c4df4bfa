"""The generated client, made from the project's .proto into a temporary folder at import."""

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parents[2] / "proto"
PROTOS = ["converge/context/v1/context.proto", "converge/ledger/v1/ledger.proto"]

_out = tempfile.TemporaryDirectory(prefix="converge-proto-")
if protoc.main(["protoc", f"-I{PROTO_ROOT}", f"--python_out={_out.name}", f"--grpc_python_out={_out.name}", *PROTOS]):
    raise SystemExit(f"grpcio-tools cannot compile {PROTOS} in {PROTO_ROOT}")
sys.path.insert(0, _out.name)

from converge.context.v1 import context_pb2 as pb  # noqa: E402
from converge.context.v1 import context_pb2_grpc as rpc  # noqa: E402
from converge.ledger.v1 import ledger_pb2 as stream_pb  # noqa: E402
from converge.ledger.v1 import ledger_pb2_grpc as stream_rpc  # noqa: E402

SERVICE = "converge.context.v1.ContextService"
PAYLOAD_MAX = 4 * 1024 * 1024
NAME_MAX = 1024
METADATA_PAIRS_MAX = 64
METADATA_BYTES_MAX = 64 * 1024
U64_MAX = 2**64 - 1
