"""HTTP/2 by hand, for what no gRPC library lets a client send."""

import socket
import struct
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from contract import SERVICE


class Raw:
    """One connection; one stream at a time unless the caller opens more."""

    def __init__(self, address, seconds=20):
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=seconds)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.http.increment_flow_control_window(1 << 24)
        self.deadline = time.monotonic() + seconds
        self._flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _flush(self):
        self.socket.sendall(self.http.data_to_send())

    def _events(self):
        self.socket.settimeout(max(self.deadline - time.monotonic(), 0.001))
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        events = self.http.receive_data(data)
        self._flush()
        return events

    def open(self, method="Append", headers=(), path=None):
        stream = self.http.get_next_available_stream_id()
        base = [(":method", "POST"), (":scheme", "http"), (":path", path or f"/{SERVICE}/{method}")]
        base += [(":authority", "test"), ("content-type", "application/grpc"), ("te", "trailers")]
        replaced = {name for name, _ in headers}
        self.http.send_headers(stream, [pair for pair in base if pair[0] not in replaced] + list(headers))
        self._flush()
        return stream

    def send(self, stream, body, end=True):
        """Sends with flow control; stops early when the server has already answered."""
        answer = Answer()
        body = memoryview(body)
        while body and not answer.ended:
            room = min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size, len(body))
            if room:
                self.http.send_data(stream, bytes(body[:room]))
                self._flush()
                body = body[room:]
            else:
                self._take(stream, answer)
        if end and not answer.ended:
            self.http.send_data(stream, b"", end_stream=True)
            self._flush()
        return answer

    def _take(self, stream, answer):
        for event in self._events():
            if getattr(event, "stream_id", None) == stream:
                answer.take(event)
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise ConnectionResetError(f"GOAWAY {event.error_code}")

    def answer(self, stream, answer=None):
        answer = answer or Answer()
        while not answer.ended:
            self._take(stream, answer)
        return answer

    def call(self, body, method="Append", headers=(), end=True):
        stream = self.open(method, headers)
        return self.answer(stream, self.send(stream, body, end))


class Answer:
    """What came on a stream."""

    def __init__(self):
        self.headers, self.data, self.reset, self.ended = {}, b"", None, False

    def take(self, event):
        if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            self.headers.update(dict(event.headers))
            self.ended |= event.stream_ended is not None
        elif isinstance(event, h2.events.DataReceived):
            self.data += event.data
        elif isinstance(event, h2.events.StreamReset):
            self.reset, self.ended = event.error_code, True
        elif isinstance(event, h2.events.StreamEnded):
            self.ended = True

    @property
    def code(self):
        """The gRPC status number, or None when the answer is not typed."""
        status = self.headers.get("grpc-status")
        return None if status is None else int(status)


def message(data, compressed=0, length=None):
    """gRPC's frame around a message; `length` may lie."""
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data
