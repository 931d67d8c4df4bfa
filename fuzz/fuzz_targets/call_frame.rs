#![no_main]

converge_ledger_fuzz::target!("call_frame");
