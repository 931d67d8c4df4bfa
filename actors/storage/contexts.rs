//! A list of contexts by name: what the overlay had of them first, merged with the database.

use std::collections::BTreeMap;
use std::ops::Bound;

use converge_ledger_core::Head;
use redb::ReadTransaction;

use super::database::overlay::Overlay;
use super::database::tables::{CONTEXTS, head_from};
use super::database::trouble::Trouble;
use super::types::{AppliedMark, ContextsPage, ContextsQuery};

/// What the overlay has of a list: taken before the database is looked at. One more than are asked for, so that what is after
/// the last of them is known to be there.
pub(crate) struct NearContexts {
    applied: AppliedMark,
    heads: BTreeMap<String, Head>,
}

/// Where the names begin that are asked for.
fn start(query: &ContextsQuery) -> Bound<&str> {
    if query.after >= query.prefix && !query.after.is_empty() {
        Bound::Excluded(&query.after)
    } else {
        Bound::Included(&query.prefix)
    }
}

impl NearContexts {
    pub(crate) fn of(overlay: &Overlay, query: &ContextsQuery) -> NearContexts {
        let mut heads = BTreeMap::new();
        // The newer heads last: they stay.
        for generation in overlay.flushing.as_deref().into_iter().chain([&overlay.active]) {
            let names = generation.heads.range::<str, _>((start(query), Bound::Unbounded));
            let names = names.take_while(|(name, _)| name.starts_with(&query.prefix));
            heads.extend(names.take(query.limit + 1).map(|(name, head)| (name.clone(), *head)));
        }
        NearContexts { applied: overlay.applied, heads }
    }

    /// The list: from the database what the overlay does not have.
    pub(crate) fn page(self, txn: &ReadTransaction, query: &ContextsQuery) -> Result<ContextsPage, Trouble> {
        let NearContexts { applied, mut heads } = self;
        let table = txn.open_table(CONTEXTS)?;
        let rows = table.range::<&str>((start(query), Bound::Unbounded))?;
        for row in rows.take(query.limit + 1) {
            let (name, value) = row?;
            let name = name.value();
            if !name.starts_with(&query.prefix) {
                break;
            }
            if !heads.contains_key(name) {
                heads.insert(name.to_owned(), head_from(name, value.value()).map_err(Trouble::DataLoss)?);
            }
        }
        let truncated = heads.len() > query.limit;
        let contexts = heads.into_iter().take(query.limit).collect();
        Ok(ContextsPage { contexts, truncated, applied })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_after_the_one_that_was_last_or_with_the_prefix() {
        let query = |prefix: &str, after: &str| ContextsQuery { prefix: prefix.into(), after: after.into(), limit: 1 };
        assert_eq!(start(&query("", "")), Bound::Included(""));
        assert_eq!(start(&query("b", "a")), Bound::Included("b"));
        assert_eq!(start(&query("b", "b")), Bound::Excluded("b"));
        assert_eq!(start(&query("b", "bc")), Bound::Excluded("bc"));
    }
}
