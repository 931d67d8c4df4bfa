//! HTTP/2 by hand, for clients that no library would be.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use prost::Message;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

/// The preface, and settings that let the other side send so many bytes of each answer.
pub(crate) fn hello(window: u32) -> Vec<u8> {
    let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    settings.extend(window.to_be_bytes());
    [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()
}

/// The other side's settings hold.
pub(crate) fn agreed() -> Vec<u8> {
    const ACK: u8 = 1;
    frame(SETTINGS, ACK, 0, &[])
}

fn text(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() < 127, "a length of one byte");
    out.push(u8::try_from(text.len()).unwrap());
    out.extend(text.as_bytes());
}

pub(crate) fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

/// A part of a request's body.
pub(crate) fn data(stream: u32, body: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, body)
}

/// The beginning of a frame of a request's body, of which 1,000 bytes are to come.
pub(crate) fn data_head(stream: u32) -> Vec<u8> {
    data(stream, &[0; 1000])[..9].to_vec()
}

/// Headers of a call, but for their last value: 1,024 bytes, which are to come in a frame that has begun.
pub(crate) fn endless_headers(stream: u32, path: &str) -> Vec<u8> {
    let mut block = block(path);
    block.push(0);
    text(&mut block, "x-slow");
    // The length, as HPACK writes it.
    block.extend([0x7f, 0x81, 0x07]);
    [&frame(HEADERS, 0, stream, &block), &frame(CONTINUATION, END_HEADERS, stream, &[0; 1024])[..9]].concat()
}

/// The headers of a call; its body is still to come.
pub(crate) fn headers(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(path))
}

/// The headers of a call that has as much time as it may.
pub(crate) fn patient_headers(stream: u32, path: &str) -> Vec<u8> {
    let mut block = block(path);
    block.push(0);
    text(&mut block, "grpc-timeout");
    text(&mut block, "9H");
    frame(HEADERS, END_HEADERS, stream, &block)
}

fn block(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04];
    text(&mut block, path);
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// A whole call.
pub(crate) fn call(stream: u32, path: &str, message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    [headers(stream, path), frame(DATA, END_STREAM, stream, &body)].concat()
}

/// Whether the other side has closed the connection. Takes what it sent until then.
fn is_closed(socket: &mut TcpStream, received: &mut Vec<u8>) -> bool {
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(count) => received.extend(&bytes[..count]),
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Whether the other side has closed the connection, seen by who reads nothing of it: writing fails.
pub(crate) fn is_gone(socket: &mut TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    match socket.write_all(&ping()) {
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Whether the other side has ended the connection or the call on it, by an answer too. Takes what it sent until then.
pub(crate) fn is_over(socket: &mut TcpStream, received: &mut Vec<u8>) -> bool {
    let closed = is_closed(socket, received);
    let mut rest = &received[..];
    while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
        if [HEADERS, RST_STREAM, GOAWAY].contains(kind) {
            return true;
        }
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(next) = after.get(length..) else { break };
        rest = next;
    }
    closed
}

/// Whether the first call of a connection was answered with headers or reset: the kind of the first such frame, of which
/// the other side has sent any.
pub(crate) fn first_of_call(socket: &mut TcpStream) -> Option<u8> {
    let mut received = Vec::new();
    is_over(socket, &mut received);
    let mut rest = &received[..];
    while let [a, b, c, kind, _, _, _, _, stream, after @ ..] = rest {
        if [HEADERS, RST_STREAM].contains(kind) && *stream == 1 {
            return Some(*kind);
        }
        rest = after.get(u32::from_be_bytes([0, *a, *b, *c]) as usize..)?;
    }
    None
}

/// Gives these frames, all of one call, to another call.
pub(crate) fn set_stream(mut frames: &mut [u8], stream: u32) {
    while frames.len() >= 9 {
        let length = u32::from_be_bytes([0, frames[0], frames[1], frames[2]]) as usize;
        frames[5..9].copy_from_slice(&stream.to_be_bytes());
        frames = &mut frames[9 + length..];
    }
}

/// A connection that says this, and then nothing. `None` where the other side does not take it in time.
pub(crate) fn silent_after(address: &str, said: &[u8]) -> Option<TcpStream> {
    let address = address.parse().unwrap();
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    match socket.write_all(said) {
        Ok(()) => Some(socket),
        // It was closed at once, as it may be.
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Some(socket),
        Err(_) => None,
    }
}
