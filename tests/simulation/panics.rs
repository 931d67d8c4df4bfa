//! Panics of the nodes: kept for the verdict instead of printed.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    static CAUGHT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Panics that faults are expected to cause. An actor that finds its elder gone dies, and recovers from the disk.
const EXPECTED: [&str; 2] = ["injected fault", "the log cannot be read"];

/// Runs `body`; gives what it returns, unless it panics, and the panics of this thread that no fault explains.
pub(super) fn watching<R>(body: impl FnOnce() -> R) -> (Option<R>, Vec<String>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !catch(info) {
                before(info);
            }
        }));
    });
    CAUGHT.with(|caught| *caught.borrow_mut() = Some(Vec::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(body)).ok();
    let caught = CAUGHT.with(|caught| caught.borrow_mut().take()).unwrap_or_default();
    (result, caught)
}

fn catch(info: &PanicHookInfo<'_>) -> bool {
    CAUGHT.with(|caught| {
        let Ok(mut caught) = caught.try_borrow_mut() else { return false };
        let Some(caught) = caught.as_mut() else { return false };
        let text = info.payload_as_str().unwrap_or("a panic without words");
        if !EXPECTED.iter().any(|expected| text.contains(expected)) {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            caught.push(format!("panic at {place}: {text}"));
        }
        true
    })
}
