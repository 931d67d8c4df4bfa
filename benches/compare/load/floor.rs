//! The floors of the machine: what no durable service can be faster than.

use std::fs::{self, File};
use std::future::{Future, ready};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use anyhow::{Context as _, ensure};
use redb::{Database, TableDefinition};
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::etcd::PutRequest;

/// What waits is one batch, up to so many.
const BATCH_MAX: usize = 1024;
const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");

pub(crate) const ECHO: &str = "/floor.Echo/Echo";

struct Unsynced {
    payload: Vec<u8>,
    done: oneshot::Sender<()>,
}

/// A thread that takes what waits as one batch, makes it durable, and answers each.
#[derive(Clone)]
pub(crate) struct Group(mpsc::Sender<Unsynced>);

impl Group {
    fn start(mut store: impl FnMut(&[Unsynced]) -> anyhow::Result<()> + Send + 'static) -> Group {
        let (sender, mut receiver) = mpsc::channel(BATCH_MAX);
        thread::spawn(move || {
            let mut batch = Vec::with_capacity(BATCH_MAX);
            while receiver.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
                // Nobody is answered any more, so every client fails, and with them the run.
                store(&batch).expect("the disk took a batch");
                for waiting in batch.drain(..) {
                    let _ = waiting.done.send(());
                }
            }
        });
        Group(sender)
    }

    /// A plain file: one write and one `fdatasync` for each batch.
    pub(crate) fn file(directory: &Path) -> anyhow::Result<Group> {
        let mut file = File::create_new(new(directory)?)?;
        let mut bytes = Vec::new();
        Ok(Group::start(move |batch| {
            bytes.clear();
            batch.iter().for_each(|waiting| bytes.extend_from_slice(&waiting.payload));
            file.write_all(&bytes)?;
            Ok(file.sync_data()?)
        }))
    }

    /// redb with its defaults: one row for each append, one durable commit for each batch.
    pub(crate) fn redb(directory: &Path) -> anyhow::Result<Group> {
        let database = Database::create(new(directory)?)?;
        let mut next = 0u64;
        Ok(Group::start(move |batch| {
            let transaction = database.begin_write()?;
            {
                let mut rows = transaction.open_table(ROWS)?;
                for waiting in batch {
                    rows.insert(next, waiting.payload.as_slice())?;
                    next += 1;
                }
            }
            Ok(transaction.commit()?)
        }))
    }

    /// Durable when this returns.
    pub(crate) async fn append(&self, payload: Vec<u8>) -> anyhow::Result<()> {
        let (done, waits) = oneshot::channel();
        self.0.send(Unsynced { payload, done }).await.context("the thread has ended")?;
        waits.await.context("the thread has ended")
    }
}

/// The file of a floor, which is not there yet.
fn new(directory: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let path = directory.join("floor");
    ensure!(!path.exists(), "{} must be new", path.display());
    Ok(path)
}

/// A gRPC server whose only method answers with its request.
#[derive(Clone)]
struct Echo(Option<Group>);

pub(crate) fn echo(listen: SocketAddr, data_dir: Option<&Path>) -> anyhow::Result<()> {
    let group = data_dir.map(Group::file).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(Server::builder().tcp_nodelay(true).add_service(Echo(group)).serve(listen))?;
    Ok(())
}

type Answer<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl UnaryService<PutRequest> for Echo {
    type Response = PutRequest;
    type Future = Answer<Response<PutRequest>, Status>;

    fn call(&mut self, request: Request<PutRequest>) -> Self::Future {
        let request = request.into_inner();
        let Some(group) = self.0.clone() else { return Box::pin(ready(Ok(Response::new(request)))) };
        Box::pin(async move {
            let stored = group.append(request.value.clone()).await;
            stored.map_err(|error| Status::internal(error.to_string()))?;
            Ok(Response::new(request))
        })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Answer<http::Response<Body>, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(echo, request).await) })
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "floor.Echo";
}
