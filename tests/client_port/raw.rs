//! HTTP/2 by hand, for clients that no library would be.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use prost::Message;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
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

fn text(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() < 127, "a length of one byte");
    out.push(u8::try_from(text.len()).unwrap());
    out.extend(text.as_bytes());
}

/// The headers of a call; its body is still to come.
pub(crate) fn headers(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04];
    text(&mut block, path);
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A whole call.
pub(crate) fn call(stream: u32, path: &str, message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    [headers(stream, path), frame(DATA, END_STREAM, stream, &body)].concat()
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
