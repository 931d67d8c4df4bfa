//! One client's way to a system: an append that is durable when it returns, and a linearizable read.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::{NoTls, Statement};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::etcd::PutRequest;
use crate::floor::{self, Group};
use crate::nats::Publisher;
use crate::{RunArguments, Speaks, etcd, wire};

/// gRPC clients that share a connection. The others have one each.
const CLIENTS_PER_CHANNEL: usize = 16;
/// A call that takes longer has failed.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) enum Session {
    Converge(Channel),
    Etcd(Channel),
    Echo(Channel),
    Postgres(tokio_postgres::Client, Statement),
    Nats(Publisher),
    Mnesia(TcpStream),
    Floor(Group),
}

/// A client's own context, and what it appends.
pub(crate) struct Work {
    pub(crate) context: String,
    pub(crate) payload: Vec<u8>,
}

/// One for each client.
pub(crate) async fn open(arguments: &RunArguments, work: &[Work]) -> anyhow::Result<Vec<Session>> {
    let mut all = Vec::with_capacity(work.len());
    if let Some(directory) = &arguments.data_dir {
        let group = match arguments.target {
            Speaks::File => Group::file(directory)?,
            Speaks::Redb => Group::redb(directory)?,
            _ => bail!("--data-dir is for `file` and `redb`; the others have servers"),
        };
        all.extend(work.iter().map(|_| Session::Floor(group.clone())));
        return Ok(all);
    }
    let address = arguments.endpoint.as_deref().context("--endpoint is needed")?;
    for sharing in work.chunks(CLIENTS_PER_CHANNEL) {
        let grpc: fn(Channel) -> Session = match arguments.target {
            Speaks::Converge => Session::Converge,
            Speaks::Etcd => Session::Etcd,
            Speaks::Echo => Session::Echo,
            other => {
                for work in sharing {
                    all.push(alone(other, address, work).await.with_context(|| format!("no connection to {address}"))?);
                }
                continue;
            }
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).timeout(CALL_DEADLINE);
        let channel = endpoint.connect().await.with_context(|| format!("no connection to {address}"))?;
        all.extend(sharing.iter().map(|_| grpc(channel.clone())));
    }
    Ok(all)
}

/// A connection that one client has for itself.
async fn alone(target: Speaks, address: &str, work: &Work) -> anyhow::Result<Session> {
    match target {
        Speaks::Postgres => {
            let (host, port) = address.rsplit_once(':').context("an address is host:port")?;
            let (client, connection) =
                tokio_postgres::connect(&format!("host={host} port={port} user=postgres"), NoTls).await?;
            // Its end shows in the calls.
            tokio::spawn(connection);
            let insert = "INSERT INTO ledger (context, payload) VALUES ($1, $2) RETURNING sequence";
            let insert = client.prepare(insert).await?;
            Ok(Session::Postgres(client, insert))
        }
        Speaks::Nats => Ok(Session::Nats(Publisher::connect(address, &work.context).await?)),
        Speaks::Mnesia => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Session::Mnesia(stream))
        }
        _ => bail!("it has no server: give it --data-dir"),
    }
}

impl Session {
    /// The `number`th append of this client, from 0.
    pub(crate) async fn append(&mut self, work: &Work, number: u64) -> anyhow::Result<()> {
        let payload = work.payload.clone();
        let sequence = match self {
            Session::Converge(channel) => {
                let request = wire::AppendRequest {
                    context_id: work.context.clone(),
                    key: format!("{number:010}"),
                    payload,
                    metadata: Default::default(),
                };
                let response = wire::append(channel, Request::new(request)).await?.into_inner();
                let sequence = response.entry.map_or(0, |entry| entry.sequence);
                ensure!(sequence == number + 1, "expected sequence {}, got {sequence}", number + 1);
                sequence
            }
            Session::Etcd(channel) => u64::try_from(etcd::put(channel, work.key(number), payload).await?)?,
            Session::Echo(channel) => {
                let request = Request::new(PutRequest { key: work.key(number), value: payload });
                let echoed: PutRequest = wire::unary(channel, floor::ECHO, request).await?.into_inner();
                ensure!(echoed.value == work.payload, "it is no echo");
                1
            }
            Session::Postgres(client, insert) => {
                u64::try_from(client.query_one(insert, &[&work.context, &payload]).await?.get::<_, i64>(0))?
            }
            Session::Nats(publisher) => publisher.publish(&format!("ledger.{}", work.context), &work.payload).await?,
            Session::Mnesia(stream) => {
                let sequence = mnesia(stream, work).await?;
                ensure!(sequence == number + 1, "expected sequence {}, got {sequence}", number + 1);
                sequence
            }
            Session::Floor(group) => {
                group.append(payload).await?;
                1
            }
        };
        ensure!(sequence > 0, "it gave no sequence");
        Ok(())
    }

    /// Reads the client's first entry.
    pub(crate) async fn read(&mut self, work: &Work) -> anyhow::Result<()> {
        let found = match self {
            Session::Converge(channel) => {
                let request = wire::GetRequest { context_id: work.context.clone(), limit: 1, ..Default::default() };
                wire::get(channel, Request::new(request)).await?.into_inner().entries.len() == 1
            }
            Session::Etcd(channel) => etcd::range(channel, work.key(0)).await? == 1,
            _ => bail!("reads are measured of `converge` and `etcd` alone"),
        };
        ensure!(found, "the entry is not there");
        Ok(())
    }
}

impl Work {
    /// A new one for each append.
    fn key(&self, number: u64) -> Vec<u8> {
        format!("{}/{number:010}", self.context).into_bytes()
    }
}

/// A frame is its length in four bytes; it holds the context with its length in one byte, then the payload.
async fn mnesia(stream: &mut TcpStream, work: &Work) -> anyhow::Result<u64> {
    let (context, payload) = (work.context.as_bytes(), &work.payload);
    let length = u32::try_from(1 + context.len() + payload.len())?;
    let mut frame = Vec::with_capacity(4 + length as usize);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(u8::try_from(context.len())?);
    frame.extend_from_slice(context);
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    ensure!(stream.read_u32().await? == 8, "an answer is a sequence");
    Ok(stream.read_u64().await?)
}
