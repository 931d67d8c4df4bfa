//! Oracles for tests.
