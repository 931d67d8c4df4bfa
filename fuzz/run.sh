#!/usr/bin/env bash
# Fuzzes the decoders: fuzz/run.sh [SECONDS_PER_TARGET] [TARGET ...], 10 seconds and all targets by default; with 0
# seconds it only builds them.
#
# A finding ends in failure, its input in fuzz/artifacts/TARGET. Interesting inputs stay in fuzz/found/TARGET and are
# where the next run begins; fuzz/corpus is only read, for it is kept small by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never

seconds="${1:-10}"
case "$seconds" in
    '' | *[!0-9]*)
        echo "usage: fuzz/run.sh [SECONDS_PER_TARGET] [TARGET ...]; '$seconds' is no number" >&2
        exit 2
        ;;
esac
shift || true

skip() {
    echo "skipped: fuzzing: $1"
    exit 0
}

for compiler in c++ g++ clang++; do
    command -v "$compiler" >/dev/null && break
done
if ! command -v "$compiler" >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq g++ >/dev/null
    else
        skip "no C++ compiler for libFuzzer, and none can be installed here"
    fi
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install --locked --quiet cargo-fuzz
fi

# Address sanitizer needs a nightly compiler. The decoders are safe Rust; beneath them are zstd and crc32c.
if [ "${FUZZ_SANITIZER:-}" != none ] && cargo +nightly --version >/dev/null 2>&1; then
    fuzz=(cargo +nightly fuzz)
    flags=(--sanitizer address)
    echo "fuzzing with $(rustc +nightly --version), address sanitizer"
else
    fuzz=(cargo fuzz)
    flags=(--sanitizer none)
    echo "fuzzing with $(rustc --version), no sanitizer (that needs 'cargo +nightly', and no FUZZ_SANITIZER=none)"
fi
# Each flavour keeps its own build. More units build faster and run a little slower.
flags+=(--codegen-units 16 --target-dir "fuzz/target/${flags[1]}")

known=$("${fuzz[@]}" list)
targets=("$@")
if [ "${#targets[@]}" = 0 ]; then
    mapfile -t targets <<<"$known"
fi
for target in "${targets[@]}"; do
    grep -qx -- "$target" <<<"$known" || { echo "no target is called '$target'; there are:" $known >&2; exit 2; }
done

if [ "$#" = 0 ]; then
    "${fuzz[@]}" build "${flags[@]}"
else
    for target in "${targets[@]}"; do "${fuzz[@]}" build "${flags[@]}" "$target"; done
fi
echo "built after $SECONDS s"
[ "$seconds" != 0 ] || exit 0
# Fuzzes one target; says what came of it.
one() {
    local target="$1" found="fuzz/found/$1" log="fuzz/target/$1.log" runs
    mkdir -p "$found"
    # An input that needs more memory than its bound panics; these bounds are for what goes around the allocator.
    if ! "${fuzz[@]}" run "${flags[@]}" "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -max_len=65536 -rss_limit_mb=1024 -malloc_limit_mb=512 \
        -print_final_stats=1 >"$log" 2>&1; then
        cat "$log" >&2
        return 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "$target: $runs inputs in $seconds s, nothing found"
    [ "${runs:-0}" -gt 0 ] || { echo "$target: nothing was run; see $log" >&2; return 1; }
}

failed=()
pids=()
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
    one "$target" &
    pids+=("$!")
done
for n in "${!pids[@]}"; do
    wait "${pids[$n]}" || failed+=("${targets[$n]}")
done
if [ "${#failed[@]}" != 0 ]; then
    echo "found something in: ${failed[*]}; the inputs are in fuzz/artifacts" >&2
    exit 1
fi
