#!/bin/sh
# Coverage-guided runs of the fuzz targets with libFuzzer, on the stable toolchain: run.sh SECONDS [TARGET...]
# Each target runs for SECONDS of processor time on one core and goes on from the corpus of earlier runs
# (target/fuzz/corpus); an input that breaks a promise is kept in target/fuzz/found, and the run of the other targets
# goes on.
set -eu
cd "$(dirname "$0")/../.."

seconds="${1:?usage: run.sh SECONDS [TARGET...]}"
shift
target_dir="$PWD/target/fuzz"
host="$(rustc -vV | sed -n 's/^host: //p')"

# What cargo-fuzz asks of rustc, but for the sanitizers, which stable does not have. With --target the flags stay away
# from build scripts and procedural macros.
instrumented="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"

RUSTFLAGS="$instrumented" cargo build --locked -p farside-fuzz --bins --features libfuzzer --profile fuzz \
  --target "$host" --target-dir "$target_dir"
cargo run --quiet --locked -p farside-fuzz --example seeds -- "$target_dir/seeds"

if [ $# -eq 0 ]; then
  set -- $(sed -n 's/^name = "\(.*\)"$/\1/p' tests/fuzz/Cargo.toml | sed 1d)
fi
# Processor seconds of everything that was run from here and ended, as `used`. Not for $(...): that has no children.
look_at_clock() {
  times >"$target_dir/times"
  used=$(sed -n '2{s/[ms]/ /g;p;}' "$target_dir/times" | awk '{ print int($1 * 60 + $2 + $3 * 60 + $4) }')
}

failed=""
for target in "$@"; do
  mkdir -p "$target_dir/corpus/$target" "$target_dir/found/$target"
  echo "== $target, $seconds s =="
  : >"$target_dir/$target.log"
  look_at_clock
  begun=$used
  spent=0
  # Others may want the machine, too: what counts is processor time, and it is not waited for for ever.
  for _ in $(seq 30); do
    [ "$spent" -lt "$seconds" ] || break
    nice -n 10 "$target_dir/$host/fuzz/$target" "$target_dir/corpus/$target" "$target_dir/seeds/$target" \
      -max_total_time=$((seconds - spent)) -timeout=20 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
      -artifact_prefix="$target_dir/found/$target/" >>"$target_dir/$target.log" 2>&1 || true
    look_at_clock
    spent=$((used - begun))
    ! grep -q '^SUMMARY: libFuzzer: ' "$target_dir/$target.log" || break
  done
  # Without the words that libFuzzer recommends for a dictionary.
  tail -n 40 "$target_dir/$target.log" | grep -v -a -e '^"' -e '^######' || true
  inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$target_dir/$target.log" | awk '{ all += $1 } END { print all + 0 }')
  echo "$target: $spent s of processor time, $inputs inputs"
  if grep -q '^SUMMARY: libFuzzer: ' "$target_dir/$target.log"; then failed="$failed $target"; fi
done
if [ -n "$failed" ]; then
  echo "broken promises found by:$failed; the inputs are below $target_dir/found" >&2
  exit 1
fi
