//! The bytes of a file, in pages that copies share.
//!
//! A copy costs a pointer per page, and a write copies only the pages it touches and that another
//! copy still has. Holes are kept apart from zeros that were written: only these take room.

use std::sync::{Arc, OnceLock};

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    len: u64,
    /// As many as `len` needs; none is a hole.
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
}

/// The one page of written zeros, for preallocated files.
fn zero() -> Arc<[u8; PAGE]> {
    static ZERO: OnceLock<Arc<[u8; PAGE]>> = OnceLock::new();
    Arc::clone(ZERO.get_or_init(|| Arc::new([0; PAGE])))
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file fits memory") / PAGE
}

fn pages_for(len: u64) -> usize {
    usize::try_from(len).expect("a simulated file fits memory").div_ceil(PAGE)
}

/// The pieces of `offset..offset + len` by page: page, offset in it, length.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut at = usize::try_from(offset).expect("a simulated file fits memory");
    let end = at + len;
    std::iter::from_fn(move || {
        let (page, within) = (at / PAGE, at % PAGE);
        let step = (PAGE - within).min(end - at);
        at += step;
        (step > 0).then_some((page, within, step))
    })
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of all pages that are no holes.
    pub(super) fn allocated(&self) -> u64 {
        (self.pages.iter().flatten().count() * PAGE) as u64
    }

    /// How many pages of a range are holes, or behind the end.
    pub(super) fn holes(&self, offset: u64, len: usize) -> u64 {
        pieces(offset, len).filter(|(page, ..)| self.pages.get(*page).is_none_or(Option::is_none)).count() as u64
    }

    /// Fills the buffer; says no when the file ends before.
    pub(super) fn read(&self, offset: u64, mut into: &mut [u8]) -> bool {
        if offset + into.len() as u64 > self.len {
            return false;
        }
        for (page, within, step) in pieces(offset, into.len()) {
            let (here, rest) = std::mem::take(&mut into).split_at_mut(step);
            match &self.pages[page] {
                Some(bytes) => here.copy_from_slice(&bytes[within..within + step]),
                None => here.fill(0),
            }
            into = rest;
        }
        true
    }

    pub(super) fn write(&mut self, offset: u64, mut data: &[u8]) {
        let end = offset + data.len() as u64;
        if !data.is_empty() && end > self.len {
            self.set_len(end);
        }
        for (page, within, step) in pieces(offset, data.len()) {
            let (here, rest) = data.split_at(step);
            data = rest;
            if step == PAGE && here.iter().all(|byte| *byte == 0) {
                self.pages[page] = Some(zero());
                continue;
            }
            let bytes = self.pages[page].get_or_insert_with(zero);
            Arc::make_mut(bytes)[within..within + step].copy_from_slice(here);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.pages.resize(pages_for(len), None);
        let within = index_within(len);
        if len < self.len
            && within > 0
            && let Some(Some(last)) = self.pages.last_mut()
        {
            Arc::make_mut(last)[within..].fill(0);
        }
        self.len = len;
    }

    /// Takes the pages of a range from another copy; those it does not have are passed over.
    pub(super) fn take(&mut self, from: &Pages, offset: u64, len: usize) {
        let end = (offset + len as u64).min(from.len);
        if end <= offset {
            return;
        }
        if end > self.len {
            self.set_len(end);
        }
        let pages = index(offset)..pages_for(end);
        self.pages[pages.clone()].clone_from_slice(&from.pages[pages]);
    }

    /// Turns one bit over.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) {
        if offset < self.len {
            let bytes = self.pages[index(offset)].get_or_insert_with(zero);
            let within = index_within(offset);
            Arc::make_mut(bytes)[within] ^= 1 << (bit % 8);
        }
    }
}

fn index_within(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file fits memory") % PAGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use converge_ledger_core::chance::Dice;

    /// The same as plain bytes, whatever is done to it, and copies do not see each other's writes.
    #[test]
    fn pages_are_bytes() {
        let mut dice = Dice(1);
        let (mut pages, mut plain) = (Pages::default(), Vec::new());
        let mut copies: Vec<(Pages, Vec<u8>)> = Vec::new();
        for _ in 0..4000 {
            let (offset, len) = (dice.below(20_000), dice.below(9000) as usize);
            match dice.below(8) {
                0 => {
                    pages.set_len(offset);
                    plain.resize(offset as usize, 0);
                }
                1 if copies.len() < 50 => copies.push((pages.clone(), plain.clone())),
                2 if offset < plain.len() as u64 => {
                    pages.flip(offset, 3);
                    plain[offset as usize] ^= 8;
                }
                _ => {
                    let data = if dice.one_in(3) { vec![0; len] } else { dice.bytes(len) };
                    pages.write(offset, &data);
                    let end = if len == 0 { 0 } else { offset as usize + len };
                    plain.resize(plain.len().max(end), 0);
                    plain[end - len..end].copy_from_slice(&data);
                }
            }
            assert_eq!(content(&pages), plain);
        }
        for (pages, plain) in copies {
            assert_eq!(content(&pages), plain);
        }
    }

    fn content(pages: &Pages) -> Vec<u8> {
        let mut bytes = vec![1; pages.len() as usize];
        assert!(pages.read(0, &mut bytes));
        assert!(!pages.read(1, &mut bytes) || bytes.is_empty());
        bytes
    }

    #[test]
    fn only_what_was_written_takes_room() {
        let mut pages = Pages::default();
        pages.set_len(100 * PAGE as u64);
        assert_eq!((pages.allocated(), pages.holes(0, 3 * PAGE)), (0, 3));
        pages.write(PAGE as u64, &[0; PAGE]);
        assert_eq!((pages.allocated(), pages.holes(0, 3 * PAGE)), (PAGE as u64, 2));
        assert_eq!(pages.holes(100 * PAGE as u64 - 1, 2), 2);
    }
}
