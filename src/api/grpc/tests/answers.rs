//! What answers hold, and what becomes of those that are not read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use converge_actors::storage::Ordinal;
use http_body::{Body, Frame};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};

use super::super::body::{Fed, ResponseBody, Source};
use super::super::budget::{Budget, STEP_BYTES};
use super::super::call::{Call, CallKind};
use super::super::connection::Connection;
use super::super::context::Context;
use super::super::crowd::{Crowd, Rule};
use super::super::pb::context::context_service_server::ContextService as _;
use super::super::pb::context::{GetRequest, GetResponse, LoadRequest};
use super::super::pb::ledger::ReadStreamResponse;
use super::super::watch::{Feed, Feeding};
use super::super::{Settings, names};
use super::{PATIENCE, call, is_over, node, node_in, settings};
use crate::environment::Environment;
use crate::{Direction, Position, StreamFrom, StreamOptions, WatchOptions};

#[tokio::test]
async fn a_budget_is_waited_for_in_line_and_by_nobody_who_holds_some() {
    let (node, _directory) = node().await;
    let budget = Budget::new("a test", 10 << 10, Rule::Read, &node.ledger());
    let mut held = budget.hold(6 << 10).unwrap();
    assert!(budget.hold(5 << 10).is_none(), "a refusal takes nothing");
    assert!(held.grow_to(&budget, 10 << 10) && !held.grow_to(&budget, (10 << 10) + 1));
    held.shrink(6 << 10);
    assert!(budget.hold(4 << 10).is_some() && budget.hold(5 << 10).is_none(), "what is not needed is given back");
    let (mut whole, mut part) = (Box::pin(budget.wait(usize::MAX)), Box::pin(budget.wait(1)));
    let mut poll = Poller::from_waker(Waker::noop());
    assert!(whole.as_mut().poll(&mut poll).is_pending() && budget.is_contended());
    assert!(part.as_mut().poll(&mut poll).is_pending(), "who came first is first, also for more");
    assert!(!held.grow_to(&budget, 7 << 10), "and before those who hold some");
    drop(held);
    drop(tokio::time::timeout(PATIENCE, whole).await.unwrap());
    drop(tokio::time::timeout(PATIENCE, part).await.unwrap());
    assert!(!budget.is_contended());
    assert!(node.ledger().status().alarms.iter().any(|alarm| alarm.contains("a test")), "a refusal is an alarm");
    node.stop(PATIENCE).await.unwrap();
}

/// Keys and metadata take room as payloads do: here the answer has nothing else.
#[tokio::test]
async fn what_is_being_sent_is_bounded_whatever_it_is_made_of() {
    let (node, _directory) = node().await;
    let metadata: std::collections::BTreeMap<_, _> = [("name".to_owned(), "v".repeat(60 << 10))].into();
    for _ in 0..16 {
        let metadata = metadata.clone();
        let entry = crate::NewEntry { context_id: "c".into(), metadata, ..crate::NewEntry::default() };
        node.ledger().append(entry, crate::AppendOptions::default()).await.unwrap();
    }
    // Two thirds are for reads: room for the most that one can need, and for some answers of 960 KiB.
    let settings = Settings { response_bytes: 4 << 20, answer_bytes: 30 << 20, ..settings() };
    let service = Context::new(node.ledger(), settings, Default::default());
    let get = || {
        let mut request = Request::new(GetRequest { context_id: "c".into(), ..GetRequest::default() });
        request.metadata_mut().insert("grpc-timeout", MetadataValue::from_static("1S"));
        service.get(request)
    };
    let mut sent = Vec::new();
    let refused = loop {
        match get().await {
            Ok(answer) => sent.push(answer),
            Err(status) => break status,
        }
        assert!(sent.len() <= 20, "nothing bounds what is being sent");
    };
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert_eq!(refused.metadata().get(names::OUTCOME).unwrap(), names::REFUSED);
    assert!(sent.len() > 8, "{} answers", sent.len());
    sent.truncate(8);
    assert!(get().await.is_ok(), "what was sent makes room");
    node.stop(PATIENCE).await.unwrap();
}

/// It has an entry of 4 MiB, room for two answers with it that are not taken, and not for the reading of a third.
async fn with_little_room(node: &crate::Node) -> Context {
    put(node, 4 << 20).await;
    let settings = Settings { answer_bytes: 1, response_bytes: 1, ..settings() };
    Context::new(node.ledger(), settings, Default::default())
}

fn get<'a>(
    context: &'a Context,
    call: &Arc<Call>,
) -> Pin<Box<dyn Future<Output = Result<Response<GetResponse>, Status>> + Send + 'a>> {
    let mut request = Request::new(GetRequest { context_id: "c".into(), ..Default::default() });
    request.extensions_mut().insert(call.clone());
    context.get(request)
}

/// Else unread answers would take all the room, and the reads that wait for it all the connections.
#[tokio::test]
async fn a_read_that_waits_for_room_keeps_no_place_from_others() {
    let (node, _directory) = node().await;
    let context = with_little_room(&node).await;
    let [served, more, waits] = [CallKind::Read; 3].map(|kind| call(kind, &Connection::new(false)));
    let unread = [get(&context, &served).await.unwrap(), get(&context, &more).await.unwrap()];
    let mut waiting = get(&context, &waits);
    tokio::select! {
        _ = &mut waiting => panic!("it counted as the node's work until it ended, or there was room for it"),
        () = is_waiting(&waits) => {}
        () = tokio::time::sleep(PATIENCE) => panic!("it counts as the node's work"),
    }
    drop(unread);
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(waits.waits_ms(), None, "there is something to do for it");
    node.stop(PATIENCE).await.unwrap();
}

/// An answer of which nothing more comes.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Pending
    }
}

#[test]
fn a_watch_of_health_that_makes_room_for_others_is_told_so() {
    let call = call(CallKind::HealthWatch, &Connection::new(false));
    let mut body = ResponseBody::new(Source::Tonic(tonic::body::Body::new(Never)), call.clone(), None, None);
    let mut poll = Poller::from_waker(Waker::noop());
    assert!(Pin::new(&mut body).poll_frame(&mut poll).is_pending() && !body.is_end_stream());
    call.crowd_out();
    let Poll::Ready(Some(Ok(end))) = Pin::new(&mut body).poll_frame(&mut poll) else { panic!("no end") };
    let trailers = end.into_trailers().ok().expect("nothing but an end");
    assert_eq!(trailers["grpc-status"], "8");
    assert!(trailers.contains_key(names::RETRY_AFTER_MS) && body.is_end_stream());
}

/// A piece of a watch, and what says that it was taken.
async fn piece(fed: &mut mpsc::Receiver<Fed>) -> (Bytes, oneshot::Sender<()>) {
    match tokio::time::timeout(PATIENCE, fed.recv()).await.unwrap() {
        Some(Fed::Bytes(bytes, taken)) => (bytes, taken),
        _ => panic!("the watch ended"),
    }
}

#[tokio::test]
async fn a_watch_that_is_read_slowly_is_not_read_for_anew_with_each_piece() {
    let (node, _directory) = node().await;
    put(&node, 1 << 20).await;
    let budget = Budget::new("a test", STEP_BYTES, Rule::Read, &node.ledger());
    let watch = node.ledger().watch("c", WatchOptions::default());
    let feed = Feed::new(Feeding::Context(watch), Ordinal(0), budget.clone(), Default::default(), None);
    let (sender, mut fed) = mpsc::channel(1);
    let feed = tokio::spawn(feed.run(sender));
    let all_the_room = || tokio::time::timeout(PATIENCE, budget.wait(usize::MAX));
    let (first, taken) = piece(&mut fed).await;
    drop(all_the_room().await.expect("nobody reads on, and others get the room"));
    let start = Instant::now();
    drop(taken);
    let (second, taken) = piece(&mut fed).await;
    assert!(first.len() == second.len() && first.len() < 1 << 16, "{}, {}", first.len(), second.len());
    drop(all_the_room().await.expect("nobody reads on, and others get the room again"));
    assert!(start.elapsed() >= Duration::from_millis(900), "but not so soon: {:?}", start.elapsed());
    drop(taken);
    feed.abort();
    node.stop(PATIENCE).await.unwrap();
}

/// What a stream let go of it reads again, and sends no entry twice, nor a part of one, nor more than were asked for.
#[tokio::test]
async fn a_stream_goes_on_where_it_let_go() {
    const ENTRIES: u64 = 20;
    let (node, _directory) = node().await;
    for _ in 0..ENTRIES {
        put(&node, 5_000).await;
    }
    let budget = Budget::new("a test", STEP_BYTES, Rule::Read, &node.ledger());
    let options = StreamOptions { direction: Direction::Backwards, limit: ENTRIES - 2, ..StreamOptions::default() };
    let stream = node.ledger().stream(StreamFrom::All(Position(0)), options).await.unwrap();
    let (before, feeding) = (stream.before(), Feeding::Stream(Box::new(stream)));
    let feed = Feed::new(feeding, before, budget.clone(), Default::default(), None);
    let (sender, mut fed) = mpsc::channel(1);
    let feed = tokio::spawn(feed.run(sender));
    let mut bytes = Vec::new();
    let status = loop {
        match tokio::time::timeout(PATIENCE, fed.recv()).await.unwrap().expect("it says how it ends") {
            Fed::Bytes(piece, taken) => {
                bytes.extend_from_slice(&piece);
                // Twice others take all the room while it waits.
                if bytes.len() > 20_000 && bytes.len() < 60_000 {
                    drop(tokio::time::timeout(PATIENCE, budget.wait(usize::MAX)).await.expect("it lets go"));
                }
                drop(taken);
            }
            Fed::End(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Ok);
    let (mut rest, mut messages) = (&bytes[..], Vec::new());
    while let Some((head, more)) = rest.split_first_chunk::<5>() {
        let (message, behind) = more.split_at(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize);
        messages.push(ReadStreamResponse::decode(message).unwrap());
        rest = behind;
    }
    let first = messages.remove(0);
    assert_eq!((first.last, first.position, first.entries.len()), (ENTRIES, ENTRIES, 0));
    let end = messages.pop().unwrap();
    assert_eq!((end.end, end.next, end.entries.len()), (true, 2, 0));
    let entries: Vec<_> = messages.iter().flat_map(|message| &message.entries).collect();
    assert!(entries.iter().map(|entry| entry.position).eq((3..=ENTRIES).rev()));
    assert!(entries.iter().all(|entry| entry.payload.len() == 5_000 && entry.context_id == "c"));
    assert!(messages.iter().map(|message| message.next).eq((2..ENTRIES).rev()));
    feed.await.unwrap();
    node.stop(PATIENCE).await.unwrap();
}

/// A fenced node applies nothing: whoever watched it on would never be told of what other nodes commit.
#[tokio::test]
async fn a_watch_that_waits_is_told_when_storage_is_fenced() {
    let (node, _directory) = node().await;
    put(&node, 1).await;
    let ledger = node.ledger();
    let budget = Budget::new("a test", STEP_BYTES, Rule::Read, &ledger);
    let watch = ledger.watch("c", WatchOptions::default());
    let (sender, mut fed) = mpsc::channel(1);
    let feed = Feed::new(Feeding::Context(watch), Ordinal(0), budget, Default::default(), None);
    let feed = tokio::spawn(feed.run(sender));
    drop(piece(&mut fed).await);
    ledger.inner.storage.fence("a test");
    let end = tokio::time::timeout(PATIENCE, fed.recv()).await.expect("the watch ends");
    let Some(Fed::End(status)) = end else { panic!("no end is told") };
    assert_eq!(status.code(), tonic::Code::DataLoss, "{status:?}");
    assert_eq!(status.metadata().get(names::LAST_SEQUENCE).unwrap(), "1");
    feed.await.unwrap();
    node.stop(PATIENCE).await.unwrap();
}

/// What an append has to say is said, whoever wants its place: that it was written is never taken back.
#[test]
fn an_answer_that_is_there_is_not_replaced_by_a_refusal() {
    for kind in [
        CallKind::Append,
        CallKind::Transact,
        CallKind::Read,
        CallKind::Snapshot,
        CallKind::Load,
        CallKind::Watch,
        CallKind::Health,
        CallKind::Admin,
    ] {
        let call = call(kind, &Connection::new(false));
        let parts = [Bytes::from_static(b"all of it")].into();
        let mut body = ResponseBody::new(Source::Encoded(parts), call.clone(), None, None);
        let mut poll = Poller::from_waker(Waker::noop());
        let mut next = || match Pin::new(&mut body).poll_frame(&mut poll) {
            Poll::Ready(Some(Ok(frame))) => frame,
            _ => panic!("{kind:?}: no frame"),
        };
        // Its client was waited for, and begins to read just now.
        call.set_at_work(false);
        call.crowd_out();
        let piece = next().into_data().ok().expect("the answer");
        drop(piece);
        call.set_at_work(false);
        let trailers = next().into_trailers().ok().expect("its end");
        assert!(trailers["grpc-status"] == "0" && !trailers.contains_key(names::OUTCOME), "{kind:?}: {trailers:?}");
    }
}

/// Each piece in time, and all of it never: so a few clients would have all the room that there is for answers.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_read_piece_by_piece_goes_after_a_while_when_others_want_its_room() {
    const EACH: Duration = Duration::from_secs(4);
    let room = Crowd::new(Rule::Read);
    let [slow, fast, works] =
        [CallKind::Append, CallKind::Read, CallKind::Append].map(|kind| call(kind, &Connection::new(false)));
    let _in = [&slow, &fast, &works].map(|call| room.enter(call));
    // The answer to this one was long in coming.
    let step = async |calls: &[&Arc<Call>]| {
        calls.iter().for_each(|call| call.piece_waits());
        tokio::time::advance(EACH).await;
        room.make_room();
        let gone = is_over(&slow).await;
        calls.iter().for_each(|call| call.piece_taken());
        gone
    };
    assert!(!step(&[&slow]).await && !step(&[&slow]).await);
    assert!(step(&[&slow, &fast]).await, "it was there to be read for 12 s");
    assert!(!is_over(&fast).await && !is_over(&works).await);
}

/// A context with one entry of so many bytes.
async fn put(node: &crate::Node, bytes: usize) {
    let entry = crate::NewEntry { context_id: "c".into(), payload: vec![7; bytes].into(), ..Default::default() };
    node.ledger().append(entry, crate::AppendOptions::default()).await.unwrap();
}

/// Returns when the call waits for its client, or for others.
async fn is_waiting(call: &Call) {
    while call.waits_ms().is_none() {
        tokio::task::yield_now().await;
    }
}

/// Few bytes can unpack to as much as a snapshot may be, four times over.
#[tokio::test]
async fn a_snapshot_is_unpacked_when_no_other_is() {
    let (node, _directory) = node().await;
    put(&node, 10).await;
    let snapshot = node.ledger().snapshot("c", None).await.unwrap().bytes;
    let context = Context::new(node.ledger(), settings(), Default::default());
    let [first, second] = [CallKind::Load; 2].map(|kind| call(kind, &Connection::new(false)));
    let load = |call: &Arc<Call>, to: &str| {
        let message = LoadRequest { context_id: to.into(), snapshot: snapshot.clone(), fail_if_exists: true };
        let mut request = Request::new(message);
        request.extensions_mut().insert(call.clone());
        context.load(request)
    };
    let mut one = load(&first, "one");
    assert!(one.as_mut().poll(&mut Poller::from_waker(Waker::noop())).is_pending());
    assert!(first.waits_ms().is_none(), "it has the room");
    let mut other = load(&second, "other");
    tokio::select! {
        _ = &mut other => panic!("both were unpacked at once"),
        () = is_waiting(&second) => {}
        () = tokio::time::sleep(PATIENCE) => panic!("it counts as the node's work"),
    }
    let both = tokio::time::timeout(PATIENCE, async { tokio::join!(one, other) }).await.unwrap();
    assert_eq!(both.0.unwrap().into_inner().entries_restored, 1);
    assert_eq!(both.1.unwrap().into_inner().entries_restored, 1);
    node.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_read_that_waits_for_room_is_told_when_it_makes_room_for_others() {
    let (node, _directory) = node().await;
    let context = with_little_room(&node).await;
    let [served, more] = [CallKind::Read; 2].map(|kind| call(kind, &Connection::new(false)));
    let _unread = [get(&context, &served).await.unwrap(), get(&context, &more).await.unwrap()];
    for place_is_wanted in [true, false] {
        let connection = Connection::new(false);
        let call = call(CallKind::Read, &connection);
        let mut waiting = get(&context, &call);
        tokio::select! {
            _ = &mut waiting => panic!("there was room"),
            () = is_waiting(&call) => {}
        }
        if place_is_wanted {
            call.crowd_out()
        } else {
            connection.leave.cancel()
        }
        let told = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap_err();
        assert_eq!(told.code(), Code::ResourceExhausted);
        assert_eq!(told.metadata().get(names::OUTCOME).unwrap(), names::REFUSED);
        assert!(told.metadata().contains_key(names::RETRY_AFTER_MS));
        assert!(!is_over(&call).await, "its answer goes out");
    }
    node.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn reads_that_are_shed_before_they_are_confirmed_are_an_alarm() {
    let mut environment = Environment::default();
    environment.raft.reads_waiting_max = 0;
    let (node, _directory) = node_in(environment).await;
    let shed = node.ledger().read("c", crate::ReadOptions::default()).await;
    assert!(matches!(shed, Err(crate::Error::Overloaded { .. })), "{shed:?}");
    let alarms = node.ledger().status().alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("linearizable reads that wait")), "{alarms:?}");
    node.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn appends_that_a_leader_refuses_for_what_is_not_committed_are_an_alarm() {
    let mut environment = Environment::default();
    environment.raft.uncommitted_bytes_max = 2;
    environment.raft.message_bytes_max = 1;
    let (node, _directory) = node_in(environment).await;
    let append = async || {
        let entry = crate::NewEntry { context_id: "c".into(), ..Default::default() };
        node.ledger().append(entry, Default::default()).await.unwrap();
    };
    let is_told = || node.ledger().status().alarms.iter().any(|alarm| alarm.contains("log that are not committed"));
    let crowd = async {
        while !is_told() {
            // The second is a batch of its own, and is asked for again after an election time-out.
            tokio::join!(append(), append());
        }
    };
    tokio::time::timeout(PATIENCE, crowd).await.expect("all are acknowledged, and an alarm tells why they waited");
    node.stop(PATIENCE).await.unwrap();
}
