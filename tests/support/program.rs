//! The program that tests start as a process: the one that is shipped.
//!
//! What cargo builds beside the tests has the features of all of them: traps for actors, planted bugs, a clock that can
//! be stopped. So the program is built once more, by itself; or it is the one that `CONVERGE_BIN` names.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// A program, and what stands before its arguments.
static PROGRAM: OnceLock<Vec<String>> = OnceLock::new();

/// Names another program for this process, before the first use.
pub fn instead(words: &[&str]) {
    let set = PROGRAM.get_or_init(|| words.iter().map(|&word| word.to_owned()).collect());
    assert_eq!(set, words, "another program was used before");
}

/// What starts a command `converge-ledger`.
pub fn program() -> &'static [String] {
    PROGRAM.get_or_init(|| vec![std::env::var("CONVERGE_BIN").unwrap_or_else(|_| built())])
}

/// Its path, where it is all that stands before the arguments.
pub fn binary() -> &'static str {
    let [path] = program() else { panic!("{:?} is started with arguments of its own", program()) };
    path
}

fn built() -> String {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo
        .args(["build", "--locked", "--quiet", "-p", "converge-ledger", "--bin", "converge-ledger"])
        .args(["--message-format", "json-render-diagnostics"])
        .args((!cfg!(debug_assertions)).then_some("--release"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = cargo.output().expect("cargo is there to build the program");
    assert!(output.status.success(), "the program cannot be built: {}", output.status);
    let messages = String::from_utf8(output.stdout).unwrap();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(str::to_owned));
    let built = executables.next_back().expect("cargo names what it built");
    // Cargo gives that name to what it builds beside the tests, too: a link of our own stays what it is.
    let made = std::fs::metadata(&built).and_then(|file| file.modified()).expect("the program is there");
    let made = made.duration_since(std::time::UNIX_EPOCH).expect("it was built after 1970").as_nanos();
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("converge-ledger-{made}"));
    match std::fs::hard_link(&built, &own) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            panic!("cannot link {}: {error}", own.display())
        }
        _ => {}
    }
    forget_old_links(&own);
    own.into_os_string().into_string().expect("cargo's names are text")
}

/// Each build leaves a link of tens of megabytes. Those of a day ago no test uses any more.
fn forget_old_links(own: &Path) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let links = std::fs::read_dir(env!("CARGO_TARGET_TMPDIR")).expect("cargo made it").filter_map(Result::ok);
    for link in links.filter(|link| link.file_name().to_string_lossy().starts_with("converge-ledger-")) {
        let age = link.metadata().and_then(|file| file.modified()).ok().and_then(|made| made.elapsed().ok());
        if link.path() != own && age.is_some_and(|age| age > DAY) {
            // Another test may have been faster.
            let _ = std::fs::remove_file(link.path());
        }
    }
}
