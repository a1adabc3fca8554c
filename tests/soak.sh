#!/bin/bash
# The proof at full length: the same tests as `make test`, with their long rounds, one after the other.
# usage: tests/soak.sh [TEST-PROGRAM ...]    (default: every test program of farside-tests, release build)
# Everything it prints also goes to target/soak (or FARSIDE_SOAK_RESULTS); skips are counted at the end. FARSIDE_SEED repeats one run.
set -u
cd "$(dirname "$0")/.." || exit 2
results=${FARSIDE_SOAK_RESULTS:-$PWD/target/soak}
mkdir -p "$results" || exit 2
export FARSIDE_SOAK=1 FARSIDE_SKIP_LOG="$results/skips.log" RUST_BACKTRACE=1
: >"$FARSIDE_SKIP_LOG"
if [ $# -gt 0 ]; then
    programs=("$@")
else
    programs=()
    for file in tests/tests/*.rs; do programs+=("$(basename "$file" .rs)"); done
fi
cargo build --release --locked -p farside || exit 2
failed=()
for program in "${programs[@]}"; do
    echo "== $program  $(date '+%F %T')"
    cargo test --release --locked -p farside-tests --test "$program" -- --test-threads=1 2>&1 | tee "$results/$program.log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || failed+=("$program")
done
echo "== skipped: $(wc -l <"$FARSIDE_SKIP_LOG")"
sort "$FARSIDE_SKIP_LOG" | uniq -c
if [ ${#failed[@]} -gt 0 ]; then
    echo "== FAILED: ${failed[*]} (logs in $results)"
    exit 1
fi
echo "== all of: ${programs[*]}"
