#![no_main]

converge_ledger_fuzz::target!("table_row");
