#![no_main]

converge_ledger_fuzz::target!("append_stream");
