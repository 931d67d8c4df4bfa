//! A way out that can neither fail nor hold up whoever writes to it.
//!
//! For a process that serves: its log may be a pipe whose reader is dead or does not read, a terminal that is gone or
//! was told to wait, a file on a full disk. What is written goes into a bounded queue, and a thread of its own writes it
//! out. What does not fit, or cannot be written, is counted, and the count is an alarm of the node. Deliberately does
//! not retry what failed: the next line may fare better.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use converge_ledger_core::planted::{self, Bug};

/// Lines that wait to be written take at most so many bytes.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// Before a descriptor that somebody made non-blocking is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// See the module. Clones write to the same place.
#[derive(Clone)]
pub(crate) struct Outlet(Arc<OutletState>);

struct OutletState {
    name: &'static str,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whole lines.
    queue: Vec<u8>,
    /// Lines that left the queue are being written.
    writing: bool,
    lost: u64,
    why: String,
}

impl Outlet {
    /// The process's stdout.
    pub(crate) fn stdout() -> io::Result<Outlet> {
        Outlet::start("stdout", io::stdout().as_fd().try_clone_to_owned()?.into(), None)
    }

    /// The process's stderr; a gap in it is told in it.
    pub(crate) fn stderr() -> io::Result<Outlet> {
        Outlet::start("stderr", io::stderr().as_fd().try_clone_to_owned()?.into(), Some("of this log "))
    }

    /// The descriptor is one of our own: whoever holds the lock of the standard library's may wait for ever.
    fn start(name: &'static str, file: File, gaps: Option<&'static str>) -> io::Result<Outlet> {
        let shared = Arc::new(OutletState { name, state: Mutex::default(), changed: Condvar::new() });
        let outlet = Outlet(shared.clone());
        thread::Builder::new().name(format!("to-{name}")).spawn(move || shared.write_out(file, gaps))?;
        Ok(outlet)
    }

    /// Queues whole lines.
    pub(crate) fn push(&self, lines: &[u8]) {
        let mut state = self.0.lock();
        if state.queue.len() + lines.len() > QUEUE_BYTES_MAX {
            state.lose(lines, "they are not read fast enough");
        } else {
            state.queue.extend_from_slice(lines);
            self.0.changed.notify_all();
        }
    }

    /// Waits until everything is written, or lost, or the time is over.
    pub(crate) fn flush(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut state = self.0.lock();
        while state.writing || !state.queue.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What an operator should know, where there is something.
    pub(crate) fn alarm(&self) -> Option<String> {
        let State { lost, why, .. } = &*self.0.lock();
        let name = self.0.name;
        (*lost > 0).then(|| format!("{lost} lines could not be written to {name}: {why}; look after what reads it"))
    }
}

/// Never fails, so that nobody has to report it.
impl Write for Outlet {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    fn lose(&mut self, lines: &[u8], why: impl ToString) {
        self.lost += count(lines).max(1);
        self.why = why.to_string();
    }
}

impl OutletState {
    /// Nothing panics while it holds this lock but for want of memory.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes what is queued, for as long as the process lives.
    fn write_out(&self, mut file: File, gaps: Option<&str>) {
        let (mut told, mut torn) = (0, false);
        loop {
            let (lines, lost, why) = self.next();
            if let Some(of) = gaps.filter(|_| lost > told) {
                let end = if torn { "\n" } else { "" };
                let gap = format!("{end}… {} lines {of}could not be written: {why}\n", lost - told);
                if write(&mut file, gap.as_bytes()).is_ok() {
                    (told, torn) = (lost, false);
                }
            }
            let written = write(&mut file, &lines);
            let mut state = self.lock();
            if let Err((at, error)) = written {
                if planted::is(Bug::LogKills) {
                    std::process::exit(1);
                }
                torn = at > 0 && lines[at - 1] != b'\n';
                state.lose(&lines[at..], error);
            }
            state.writing = false;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits for lines; also gives how many were lost so far, and why the last of them.
    fn next(&self) -> (Vec<u8>, u64, String) {
        let mut state = self.lock();
        while state.queue.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.writing = true;
        (std::mem::take(&mut state.queue), state.lost, state.why.clone())
    }
}

/// Writes all; says how far it came where it cannot.
fn write(file: &mut impl Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut at = 0;
    while at < bytes.len() {
        match file.write(&bytes[at..]) {
            Ok(0) => return Err((at, ErrorKind::WriteZero.into())),
            Ok(written) => at += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err((at, error)),
        }
    }
    Ok(())
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    const TIME: Duration = Duration::from_secs(20);

    fn outlet(file: File) -> Outlet {
        Outlet::start("stderr", file, Some("of this log ")).unwrap()
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_and_hears_of_the_gap() {
        let (mut reader, writer) = io::pipe().unwrap();
        let outlet = outlet(File::from(std::os::fd::OwnedFd::from(writer)));
        let line = [&[b'x'; 999][..], b"\n"].concat();
        while outlet.alarm().is_none() {
            outlet.push(&line);
        }
        let alarm = outlet.alarm().unwrap();
        assert!(alarm.contains("1 lines could not be written to stderr"), "{alarm}");
        let begun = Instant::now();
        outlet.flush(Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50), "it waited, and not for ever");
        let reads = thread::spawn(move || {
            let mut text = Vec::new();
            let mut chunk = [0; 4096];
            while !text.ends_with(b"last\n") {
                let read = reader.read(&mut chunk).unwrap();
                text.extend_from_slice(&chunk[..read]);
            }
            String::from_utf8(text).unwrap()
        });
        outlet.flush(TIME);
        outlet.push(b"last\n");
        let text = reads.join().unwrap();
        // Before what was still queued when the line was lost.
        assert!(text.contains("… 1 lines of this log could not be written: they are not read fast enough\n"));
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let outlet = outlet(File::options().write(true).open("/dev/full").unwrap());
        outlet.push(b"one\ntwo\n");
        outlet.flush(TIME);
        outlet.push(b"three\n");
        outlet.flush(TIME);
        let alarm = outlet.alarm().unwrap();
        assert!(alarm.contains("3 lines") && alarm.contains("No space left"), "{alarm}");
    }

    /// Takes some bytes, fails, and works again.
    struct Flaky(Vec<u8>, u32);

    impl Write for Flaky {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 {
                1 => Err(ErrorKind::Interrupted.into()),
                2 => Err(ErrorKind::WouldBlock.into()),
                4 => Err(ErrorKind::StorageFull.into()),
                _ => {
                    let taken = bytes.len().min(3);
                    self.0.extend_from_slice(&bytes[..taken]);
                    Ok(taken)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_write_goes_on_after_what_passes_and_says_how_far_it_came() {
        let mut flaky = Flaky(Vec::new(), 0);
        let (at, error) = write(&mut flaky, b"abcdef").unwrap_err();
        assert_eq!((at, error.kind()), (3, ErrorKind::StorageFull));
        write(&mut flaky, b"ghij").unwrap();
        assert_eq!(flaky.0, b"abcghij");
    }
}
