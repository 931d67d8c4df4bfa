//! Panics of the nodes: kept for the verdict instead of printed.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    static CAUGHT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    static INSTEAD: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// How the standard library calls a panic in a destructor that runs because of a panic. It aborts the process.
const ABORT: &str = "panic in a destructor during cleanup";

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

/// The panics of this thread's run so far that no fault explains.
pub(super) fn so_far() -> Vec<String> {
    CAUGHT.with(|caught| caught.borrow().clone()).unwrap_or_default()
}

/// Whether redb panicked there.
pub(super) fn is_of_redb(panic: &str) -> bool {
    panic.contains("/redb-")
}

/// Where this thread's next panics would abort the process, this is done instead, and the thread stands still for ever.
/// It stands in the hook, so from then on nobody in the process can set another one.
pub(super) fn instead_of_abort(last: impl FnOnce() + 'static) {
    INSTEAD.with(|instead| *instead.borrow_mut() = Some(Box::new(last)));
}

/// Never comes back where it is about to abort the process, and something else is to be done.
fn stand_still(info: &PanicHookInfo<'_>) {
    if info.payload_as_str() != Some(ABORT) {
        return;
    }
    if let Some(last) = INSTEAD.with(|instead| instead.take()) {
        last();
        loop {
            std::thread::park();
        }
    }
}

fn catch(info: &PanicHookInfo<'_>) -> bool {
    stand_still(info);
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    struct PanicsToo;

    impl Drop for PanicsToo {
        fn drop(&mut self) {
            panic!("on the way out");
        }
    }

    const CHILD: &str = "CONVERGE_TEST_STANDS_STILL";

    #[test]
    fn a_panic_on_the_way_out_of_a_panic_ends_the_run_and_not_the_process() {
        if std::env::var_os(CHILD).is_none() {
            let name = "a_panic_on_the_way_out_of_a_panic_ends_the_run_and_not_the_process";
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args([name, "--nocapture"]).env(CHILD, "1").output().unwrap();
            assert_eq!(output.status.code(), Some(17), "{output:?}");
            return;
        }
        let (tell, told) = channel();
        std::thread::spawn(move || {
            instead_of_abort(move || tell.send(()).unwrap());
            watching(|| {
                let _last = PanicsToo;
                panic!("first");
            })
        });
        told.recv_timeout(Duration::from_secs(60)).unwrap();
        std::process::exit(17);
    }
}
