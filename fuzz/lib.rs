//! What all targets share: each feeds one decoder of `converge_lab::fuzzing`, and weighs what that takes.

use peak_alloc::PeakAlloc;

pub use converge_lab::fuzzing::{Target, named};
pub use libfuzzer_sys;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The fuzzer's entry into the target of this name.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            static TARGET: std::sync::LazyLock<&$crate::Target> = std::sync::LazyLock::new(|| $crate::named($name));
            $crate::feed(&TARGET, data);
        });
    };
}

/// Feeds it.
///
/// # Panics
/// A promise of the target is broken, or it took more memory than its bound.
pub fn feed(target: &Target, data: &[u8]) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    (target.feed)(data);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    let bound = target.bytes_fixed + target.bytes_per_byte * data.len();
    assert!(taken <= bound, "{} bytes of input took {taken} bytes of memory, {bound} is the bound", data.len());
}
