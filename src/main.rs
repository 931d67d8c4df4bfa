//! The `converge-ledger` command: arguments, a command, an exit code.

#![forbid(unsafe_code)]

/// The allocator of the process; the library leaves that choice to its host.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    converge_ledger::cli::main()
}
