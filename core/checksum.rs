//! CRC-32C, the checksum of every record that is not covered by a hash.
//!
//! It finds flipped bits and torn writes, not forgers.

/// Bytes of a checksum on disk and wire, little-endian.
pub const BYTES: usize = 4;

/// A checksum under way, over pieces that need not lie together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum(u32);

impl Checksum {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With these bytes behind what it has.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }

    /// The value.
    #[must_use]
    pub fn value(self) -> u32 {
        self.0
    }

    /// The value as it is written.
    #[must_use]
    pub fn to_bytes(self) -> [u8; BYTES] {
        self.0.to_le_bytes()
    }
}

/// CRC-32C of these bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    Checksum::new().with(bytes).value()
}
