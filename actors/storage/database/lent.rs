//! The database while it is open: one worker owns it, readers borrow it for one read each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, ReadTransaction, ReadableDatabase};

use super::trouble::Trouble;

/// The database of the incarnation that runs; none between incarnations.
#[derive(Default)]
pub(crate) struct Lent(RwLock<Option<Database>>);

impl Lent {
    /// Readers find it from here on.
    pub(crate) fn put(&self, db: Database) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(db);
    }

    /// Waits until no reader has it.
    pub(crate) fn take(&self) -> Option<Database> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps it open as long as the answer lives.
    pub(crate) fn borrow(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows a snapshot for one read.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, Trouble>) -> Result<T, Trouble> {
        let db = self.borrow();
        let db = db.as_ref().ok_or(Trouble::Closed)?;
        guarded(|| read(&db.begin_read()?))
    }
}

/// A panic inside redb means that its pages are damaged: it trusts them.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    let read = catch_unwind(AssertUnwindSafe(read));
    read.unwrap_or_else(|_| Err(Trouble::DataLoss("the database: a page is damaged".into())))
}
