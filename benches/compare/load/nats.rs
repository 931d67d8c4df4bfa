//! NATS' text protocol, as much of it as a publish needs that waits for its acknowledgement.
//!
//! By hand, for it is these two lines; a client library would bring TLS and keys that nobody here uses.

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

pub(crate) struct Publisher {
    stream: BufReader<TcpStream>,
    inbox: String,
}

#[derive(Deserialize)]
struct Acknowledged {
    #[serde(default)]
    seq: u64,
    error: Option<serde_json::Value>,
}

impl Publisher {
    pub(crate) async fn connect(address: &str, name: &str) -> anyhow::Result<Publisher> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut publisher = Publisher { stream: BufReader::new(stream), inbox: format!("_INBOX.{name}") };
        let hello = format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {} 1\r\n", publisher.inbox);
        publisher.stream.write_all(hello.as_bytes()).await?;
        Ok(publisher)
    }

    /// The sequence that the stream gave it.
    pub(crate) async fn publish(&mut self, subject: &str, payload: &[u8]) -> anyhow::Result<u64> {
        let mut message = format!("PUB {subject} {} {}\r\n", self.inbox, payload.len()).into_bytes();
        message.extend_from_slice(payload);
        message.extend_from_slice(b"\r\n");
        self.stream.write_all(&message).await?;
        let answer = self.message().await?;
        let answer: Acknowledged = serde_json::from_slice(&answer).context("an acknowledgement that is no JSON")?;
        match answer.error {
            Some(error) => bail!("JetStream refused it: {error}"),
            None => Ok(answer.seq),
        }
    }

    /// The body of the next message.
    async fn message(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line).await? > 0, "the server has closed the connection");
            match line.split_ascii_whitespace().next() {
                Some("PING") => self.stream.write_all(b"PONG\r\n").await?,
                Some("MSG") => {
                    let length: usize = line.split_ascii_whitespace().last().unwrap_or_default().parse()?;
                    let mut body = vec![0; length + 2];
                    self.stream.read_exact(&mut body).await?;
                    body.truncate(length);
                    return Ok(body);
                }
                Some("INFO" | "PONG" | "+OK") => {}
                _ => bail!("the server said: {}", line.trim_end()),
            }
        }
    }
}
