//! `etcdserverpb.KV`, as much of it as an append and a read need. Field numbers from etcd's `rpc.proto`.

use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::wire;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// One key, linearizable unless told otherwise.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
}

/// The revision that the put got.
pub(crate) async fn put(channel: &Channel, key: Vec<u8>, value: Vec<u8>) -> Result<i64, Status> {
    let request = Request::new(PutRequest { key, value });
    let response: PutResponse = wire::unary(channel, "/etcdserverpb.KV/Put", request).await?.into_inner();
    response.header.map(|header| header.revision).ok_or_else(|| Status::internal("etcd answered without a header"))
}

/// How many values the key has: one or none.
pub(crate) async fn range(channel: &Channel, key: Vec<u8>) -> Result<i64, Status> {
    let request = Request::new(RangeRequest { key });
    let response: RangeResponse = wire::unary(channel, "/etcdserverpb.KV/Range", request).await?.into_inner();
    Ok(response.count)
}
