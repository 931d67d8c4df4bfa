//! Who is registered on this node, under which name.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use converge_ledger_core::NodeId;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::error::{NotSent, RegisterError};
use super::wire::CallAnswer;
use super::{NAME_BYTES_MAX, NAMES_MAX};
use crate::distribution::lock::lock;

/// Who calls, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallContext {
    /// The node that calls; it may be this one.
    pub from: NodeId,
    /// The caller waits until then. The handler's future is dropped at this time.
    pub deadline: Instant,
}

/// An answer that is on its way.
pub type Answering = Pin<Box<dyn Future<Output = CallAnswer> + Send>>;

/// What runs when a name is called. It may panic, which fails that call alone.
pub type Handler = Arc<dyn Fn(CallContext, Bytes) -> Answering + Send + Sync>;

/// A handler, and where it runs.
#[derive(Clone)]
pub(super) struct Registered {
    tag: Arc<str>,
    pub(super) handler: Handler,
    pub(super) runtime: Handle,
}

/// The names of one node; `None` once it has stopped.
pub(super) struct Registry(Mutex<Option<BTreeMap<String, Registered>>>);

impl Default for Registry {
    fn default() -> Registry {
        Registry(Mutex::new(Some(BTreeMap::new())))
    }
}

/// A name that is registered, until this is dropped. Calls that are under way then go on.
#[must_use = "the name is free again when this is dropped"]
pub struct Registration {
    registry: Weak<Registry>,
    name: String,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registration").field(&self.name).finish()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            let removed = lock(&registry.0).as_mut().and_then(|names| names.remove(&self.name));
            // What the handler owns goes without the lock: it may be another registration.
            drop(removed);
        }
    }
}

impl Registry {
    pub(super) fn register(
        self: &Arc<Self>,
        name: &str,
        tag: &str,
        handler: Handler,
    ) -> Result<Registration, RegisterError> {
        if name.len().max(tag.len()) > NAME_BYTES_MAX {
            return Err(RegisterError::TooLong);
        }
        let runtime = Handle::try_current().map_err(|_| RegisterError::NoRuntime)?;
        let mut names = lock(&self.0);
        let names = names.as_mut().ok_or(RegisterError::Stopped)?;
        if names.contains_key(name) {
            return Err(RegisterError::Taken);
        }
        if names.len() >= NAMES_MAX {
            return Err(RegisterError::Full);
        }
        names.insert(name.to_owned(), Registered { tag: tag.into(), handler, runtime });
        Ok(Registration { registry: Arc::downgrade(self), name: name.to_owned() })
    }

    /// Lets go of all handlers: what they own may be a handle of the node, which would keep itself alive.
    pub(super) fn stop(&self) {
        let names = lock(&self.0).take();
        drop(names);
    }

    /// Who takes messages of that tag under that name.
    pub(super) fn find(&self, name: &str, tag: &str) -> Result<Registered, NotSent> {
        let names = lock(&self.0);
        let registered = names.as_ref().and_then(|names| names.get(name)).ok_or(NotSent::NoSuchName)?;
        if *registered.tag == *tag { Ok(registered.clone()) } else { Err(NotSent::WrongType) }
    }
}
