//! Entries by their places in the ledger, where their contexts are known.
//!
//! Sequences and positions of a context rise together, so that an entry is searched for from the context's end: the newest
//! is found at once, any other in as many reads as its distance from the end has digits in binary.

use converge_ledger_core::{Entry, Position, Sequence};

use super::error::Error;
use super::shared::Shared;
use super::types::ReadQuery;

impl Shared {
    /// See [`super::Storage::entries_at`].
    pub(crate) fn read_entries_at(&self, places: &[(String, Position)]) -> Result<Vec<Entry>, Error> {
        places.iter().map(|(context, position)| self.read_entry_at(context, *position)).collect()
    }

    fn read_entry_at(&self, context: &str, position: Position) -> Result<Entry, Error> {
        let head = self.read_head(context)?;
        let (mut low, mut high) = (1, head.map_or(0, |head| head.latest.get()));
        let mut back = 0;
        while low <= high {
            let probe = high - (high - low).div_ceil(2).min(back);
            let entry = self.entry(context, Sequence(probe))?.ok_or(Error::Unavailable)?;
            match entry.position.cmp(&position) {
                std::cmp::Ordering::Equal => return Ok(entry),
                std::cmp::Ordering::Less => low = probe + 1,
                std::cmp::Ordering::Greater => high = probe - 1,
            }
            back = 2 * back + 1;
        }
        // Storage restarted, and has to apply again what was asked for.
        Err(Error::Unavailable)
    }

    /// See [`super::Storage::entry`].
    pub(crate) fn entry(&self, context: &str, sequence: Sequence) -> Result<Option<Entry>, Error> {
        let Some(before) = sequence.get().checked_sub(1) else {
            return Ok(None);
        };
        let query = ReadQuery { after: Sequence(before), limit: 1, key: None, max_bytes: usize::MAX };
        let page = self.read_page(context, &query)?;
        Ok(page.entries.into_iter().next())
    }
}
