//! Sector seals: each 512 bytes of a record say whether they are as they were written, and for which record. Pure.
//!
//! ```text
//! sector  payload 500 │ lsn 8 │ crc32c 4
//! ```
//!
//! A disk writes a sector as a whole or not at all. So where a write was cut short, each sector is what it was before or
//! what it was to be, and either is zero or sealed. A sector that is neither was damaged later. That tells a torn record
//! from one that rots.
//!
//! The checksum covers payload and LSN, and the place in the file and the store besides. Not the life of the file: what
//! an earlier one left is as sound as what this one wrote, and its LSN says that it is older. The seal is the same in
//! every version.

use converge_ledger_core::{Lsn, StoreId};

use super::record::BLOCK;

/// What a disk writes as a whole or not at all.
pub(crate) const SECTOR: usize = 512;
/// Bytes of a record in a sector; the rest is the seal.
pub(crate) const PAYLOAD: usize = SECTOR - 8 - 4;

const BLOCK_PAYLOAD: u64 = BLOCK / SECTOR as u64 * PAYLOAD as u64;

/// What a sector is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sector<'a> {
    /// Nobody wrote to it since the file was filled.
    Zero,
    /// It is as it was written for this record.
    Sealed { lsn: Lsn, payload: &'a [u8] },
    /// It was damaged.
    Unsound,
}

/// What so many bytes of a record take in a file: whole blocks, so that no write needs to read a block first.
pub(crate) fn sealed_len(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_PAYLOAD) * BLOCK
}

/// Writes the bytes of a record that begins at an offset as sealed sectors. What they do not fill is padded with zeros, and
/// sealed as well.
pub(crate) fn seal(record: &[u8], store_id: StoreId, offset: u64, lsn: Lsn, into: &mut [u8]) {
    let mut parts = record.chunks(PAYLOAD);
    for (sector, at) in into.chunks_exact_mut(SECTOR).zip((offset..).step_by(SECTOR)) {
        let part = parts.next().unwrap_or_default();
        sector[..part.len()].copy_from_slice(part);
        sector[part.len()..PAYLOAD].fill(0);
        sector[PAYLOAD..SECTOR - 4].copy_from_slice(&lsn.get().to_le_bytes());
        let sum = checksum(&sector[..SECTOR - 4], store_id, at);
        sector[SECTOR - 4..].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Looks at the sector at an offset.
pub(crate) fn judge(sector: &[u8], store_id: StoreId, offset: u64) -> Sector<'_> {
    let (content, sum) = sector.split_at(SECTOR - 4);
    if checksum(content, store_id, offset).to_le_bytes() == sum {
        Sector::Sealed { lsn: claimed_lsn(sector), payload: &content[..PAYLOAD] }
    } else if sector.iter().all(|byte| *byte == 0) {
        Sector::Zero
    } else {
        Sector::Unsound
    }
}

/// The record that a sector says it is of, sound or not.
pub(crate) fn claimed_lsn(sector: &[u8]) -> Lsn {
    let lsn = sector[PAYLOAD..].first_chunk().expect("a sector has a seal");
    Lsn(u64::from_le_bytes(*lsn))
}

/// The bytes of a record, and its padding, without the seals.
#[cfg(any(test, feature = "testing", feature = "fuzzing"))]
pub(crate) fn unsealed(sectors: &[u8]) -> Vec<u8> {
    sectors.chunks_exact(SECTOR).flat_map(|sector| &sector[..PAYLOAD]).copied().collect()
}

fn checksum(content: &[u8], store_id: StoreId, offset: u64) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&store_id.0), &offset.to_le_bytes());
    crc32c::crc32c_append(place, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId([3; 16]);

    fn sealed(record: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xff; usize::try_from(sealed_len(record.len() as u64)).unwrap()];
        seal(record, STORE, 8192, Lsn(7), &mut bytes);
        bytes
    }

    #[test]
    fn a_record_comes_back_from_its_sectors_and_the_padding_is_sealed() {
        for length in [1, PAYLOAD - 1, PAYLOAD, PAYLOAD + 1, 8 * PAYLOAD, 8 * PAYLOAD + 1] {
            let record: Vec<u8> = (0..length).map(|n| n as u8 | 1).collect();
            let bytes = sealed(&record);
            assert_eq!(bytes.len() as u64, BLOCK * (1 + u64::from(length > 8 * PAYLOAD)));
            for (sector, at) in bytes.chunks(SECTOR).zip((8192..).step_by(SECTOR)) {
                assert!(matches!(judge(sector, STORE, at), Sector::Sealed { lsn: Lsn(7), .. }), "{at} is not sealed");
            }
            let back = unsealed(&bytes);
            assert_eq!(&back[..length], record);
            assert!(back[length..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_sector_is_sound_in_its_place_of_its_store_alone() {
        let bytes = sealed(b"record");
        let sector = &bytes[SECTOR..2 * SECTOR];
        assert!(matches!(judge(sector, STORE, 8192 + 512), Sector::Sealed { .. }));
        assert_eq!(judge(sector, STORE, 8192), Sector::Unsound);
        assert_eq!(judge(sector, StoreId([4; 16]), 8192 + 512), Sector::Unsound);
        assert_eq!(judge(&[0; SECTOR], STORE, 8192), Sector::Zero);
    }

    #[test]
    fn every_flipped_bit_is_noticed_also_in_the_padding_and_in_zeros() {
        let bytes = sealed(b"record");
        for sound in [&bytes[..SECTOR], &bytes[7 * SECTOR..], &[0; SECTOR]] {
            let at = if sound.as_ptr() == bytes.as_ptr() { 8192 } else { 8192 + 7 * 512 };
            for bit in 0..SECTOR * 8 {
                let mut sector = sound.to_vec();
                sector[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(judge(&sector, STORE, at), Sector::Unsound, "bit {bit}");
            }
        }
    }
}
