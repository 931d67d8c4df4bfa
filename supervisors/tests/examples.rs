//! The examples run to their end. Each checks what it shows.
#![allow(missing_docs, unreachable_pub, clippy::print_stdout)]

#[path = "../examples/hello.rs"]
mod hello;
#[path = "../examples/pool.rs"]
mod pool;
#[path = "../examples/server.rs"]
mod server;

#[test]
fn hello_is_said_again_after_a_kill() {
    hello::main().unwrap();
}

#[test]
fn the_pool_survives_a_bad_job() {
    pool::main().unwrap();
}

#[test]
fn the_server_survives_a_bad_line() {
    server::main().unwrap();
}
