//! Places of each kind of call; none leaves another without.
//!
//! A call takes its places when its request is whole: what a client has not sent keeps no other's out.
//!
//! Where there is no place, calls of the same kind that wait for their clients end, those first that have waited for the
//! longest: for an answer to be read, or because they only watch health. So calls that their client does not go on with
//! keep nobody out (`crowd`). Of the places for streams of appends, health, reflection and the operator, one connection has
//! a share only, so that calls begun anew each time, and streams that go on, do not take them all either.
//!
//! What does keep others out: watches of contexts whose entries are read. They are what the port is for, and nobody
//! ends them in favour of others, so that clients with `grpc.watches` of them in all, on as few connections as
//! `grpc.streams` lets them, leave no place for another watch. They leave those for appends, reads and all else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Settings;
use super::call::Call;
use super::connection::Watching;
use super::crowd::{Crowd, Entered, Rule};

/// Snapshots being made or loaded at once. Each may hold a whole blob, which is
/// why their number is small, and why further ones are shed. Of those, one is unpacked at a time.
const BULK_AT_ONCE: usize = 4;
/// Streams of appends at once; one that is silent goes when others want its place.
pub(super) const APPEND_STREAMS_AT_ONCE: usize = 256;
/// Health checks at once, and as many watches of health, which stay open through a drain.
const HEALTH_AT_ONCE: usize = 1024;
/// Calls of reflection, and for what is not served, at once.
const OTHERS_AT_ONCE: usize = 256;
/// Calls of the operator at once.
const ADMIN_AT_ONCE: usize = 64;
/// Of such places, one connection has one in so many at most.
const SHARE_PART: usize = 8;
/// Of all connections, one in so many is kept for those without a watch: a watch stays as long as its client likes.
const WATCHLESS_PART: usize = 4;
/// The places for calls.
pub(super) struct AllPlaces {
    pub(super) appends: Arc<Pool>,
    pub(super) append_streams: Arc<Pool>,
    pub(super) reads: Arc<Pool>,
    pub(super) watches: Arc<Pool>,
    /// Of connections that have any.
    pub(super) watching: Arc<Semaphore>,
    pub(super) bulk: Arc<Pool>,
    pub(super) admin: Arc<Pool>,
    pub(super) health: Arc<Pool>,
    pub(super) health_watches: Arc<Pool>,
    pub(super) others: Arc<Pool>,
    /// Appends, reads and the like whose requests are not whole.
    arriving: Arc<AtomicUsize>,
}

impl AllPlaces {
    pub(super) fn new(settings: &Settings) -> Self {
        let watchless = settings.connections.div_ceil(WATCHLESS_PART);
        AllPlaces {
            appends: Pool::new(settings.requests),
            append_streams: Pool::shared(APPEND_STREAMS_AT_ONCE),
            reads: Pool::new(settings.requests),
            watches: Pool::new(settings.watches),
            watching: Arc::new(Semaphore::new((settings.connections - watchless).max(1))),
            bulk: Pool::new(BULK_AT_ONCE),
            admin: Pool::shared(ADMIN_AT_ONCE),
            health: Pool::shared(HEALTH_AT_ONCE),
            health_watches: Pool::shared(HEALTH_AT_ONCE),
            others: Pool::shared(OTHERS_AT_ONCE),
            arriving: Arc::default(),
        }
    }

    /// One call whose request is not whole, until that is dropped.
    pub(super) fn arrives(&self) -> Arriving {
        self.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving(self.arriving.clone())
    }

    /// Calls that have something to lose: an append its answer, a read its time. A watch goes on elsewhere.
    pub(super) fn open_calls(&self) -> usize {
        self.appends.count() + self.append_streams.count() + self.reads.count() + self.arriving.load(Ordering::Relaxed)
    }
}

/// See [`AllPlaces::arrives`].
pub(super) struct Arriving(Arc<AtomicUsize>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Places for calls that are open at once.
pub(super) struct Pool {
    places: Arc<Semaphore>,
    /// So many are for one connection at most.
    each: usize,
    open: Arc<Crowd>,
}

impl Pool {
    pub(super) fn new(places: usize) -> Arc<Pool> {
        Self::bounded(places, usize::MAX)
    }

    /// One of which no connection has more than its share.
    pub(super) fn shared(places: usize) -> Arc<Pool> {
        Self::bounded(places, places.div_ceil(SHARE_PART))
    }

    fn bounded(places: usize, each: usize) -> Arc<Pool> {
        Arc::new(Pool { places: Arc::new(Semaphore::new(places)), each, open: Crowd::new(Rule::Still) })
    }

    /// Calls that are open.
    pub(super) fn count(&self) -> usize {
        self.open.count()
    }

    /// How many this call's connection may have, where it has them.
    pub(super) fn share_taken(&self, call: &Call) -> Option<usize> {
        self.open.has_beside(call, self.each).then_some(self.each)
    }

    /// Whether there would be a place for this call; where there is none, there may be soon.
    pub(super) fn has_room(&self, call: &Call) -> bool {
        if self.share_taken(call).is_some() {
            return false;
        }
        if self.places.available_permits() == 0 {
            self.make_room();
            return false;
        }
        true
    }

    /// A place for this call; none where there is none, but then there may be soon.
    pub(super) fn take(&self, call: &Arc<Call>) -> Option<Place> {
        let place = self.spare(call);
        if place.is_none() && self.share_taken(call).is_none() {
            self.make_room();
        }
        place
    }

    /// A place for this call, if there is one to spare: nobody goes for it.
    pub(super) fn spare(&self, call: &Arc<Call>) -> Option<Place> {
        if self.share_taken(call).is_some() {
            return None;
        }
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(Place { _open: self.open.enter(call), _permit: permit })
    }

    /// Ends some of the calls that wait for their clients.
    pub(super) fn make_room(&self) {
        self.open.make_room();
    }
}

/// A place in a pool, until it is dropped.
pub(super) struct Place {
    _open: Entered,
    _permit: OwnedSemaphorePermit,
}

/// A call's places among the open ones.
#[allow(dead_code, reason = "held for their drop")]
pub(super) struct Places {
    pub(super) place: Place,
    pub(super) bulk: Option<Place>,
    pub(super) watching: Option<Watching>,
}

/// Where a call's places are from when it has any until its answer has them.
#[derive(Clone, Default)]
pub(super) struct Seat(Arc<Mutex<Option<Places>>>);

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Option<Places>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, places: Places) {
        *self.lock() = Some(places);
    }

    pub(super) fn take(&self) -> Option<Places> {
        self.lock().take()
    }
}
