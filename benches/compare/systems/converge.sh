# This project. Before an append is acknowledged, a majority has synced it.
# shellcheck shell=bash disable=SC2154
target_of=converge
install() { binary=$(build converge-ledger "${CONVERGE_BIN:-}" "$PROFILE"); }
version() { "$binary" --version; }
start() { start_nodes "$binary" "$NODES"; }
leader() { printf '127.0.0.1:%s' $((port + $(leader_of_nodes "$binary" "$NODES"))); }
