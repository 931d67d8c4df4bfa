//! The wire facts of `converge.context.v1`, written by hand from the contract.
//!
//! Job: a client that shares nothing with the server's generated code, so that a
//! wrong field number on the server's side shows up as a failing test instead of
//! being copied to both ends. Deliberately does not: retry, time out or interpret.
#![allow(missing_docs, dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// Above every legal response, so that only the server's bounds are tested.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    #[prost(uint64, tag = "5")]
    pub appended_at_ns: u64,
    #[prost(btree_map = "string, string", tag = "6")]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AppendRequest {
    #[prost(string, tag = "1")]
    pub context_id: String,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AppendResponse {
    #[prost(message, optional, tag = "1")]
    pub entry: Option<Entry>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GetRequest {
    #[prost(string, tag = "1")]
    pub context_id: String,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(uint64, tag = "3")]
    pub after_sequence: u64,
    #[prost(uint32, tag = "4")]
    pub limit: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GetResponse {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    #[prost(uint64, tag = "2")]
    pub latest_sequence: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchRequest {
    #[prost(string, tag = "1")]
    pub context_id: String,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(uint64, tag = "3")]
    pub from_sequence: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchEvent {
    #[prost(message, optional, tag = "1")]
    pub entry: Option<Entry>,
}

fn grpc(channel: &Channel) -> Grpc<Channel> {
    Grpc::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// One unary call of any service.
pub async fn unary<Q, R>(channel: &Channel, path: &'static str, request: Request<Q>) -> Result<Response<R>, Status>
where
    Q: prost::Message + 'static,
    R: prost::Message + Default + 'static,
{
    let mut grpc = grpc(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(format!("no connection: {error}")))?;
    grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::default()).await
}

pub async fn append(channel: &Channel, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
    unary(channel, "/converge.context.v1.ContextService/Append", request).await
}

pub async fn get(channel: &Channel, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
    unary(channel, "/converge.context.v1.ContextService/Get", request).await
}

pub async fn watch(channel: &Channel, request: WatchRequest) -> Result<Streaming<WatchEvent>, Status> {
    let mut grpc = grpc(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(format!("no connection: {error}")))?;
    let path = PathAndQuery::from_static("/converge.context.v1.ContextService/Watch");
    let stream = grpc.server_streaming(Request::new(request), path, ProstCodec::default()).await?;
    Ok(stream.into_inner())
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotRequest {
    #[prost(string, tag = "1")]
    pub context_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub snapshot: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
}

/// A request that no method has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Misfit {
    #[prost(uint64, tag = "1")]
    pub context_id: u64,
}
