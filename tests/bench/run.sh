#!/bin/bash
# Side by side: `farside up` (journal, mirror, live remote, all in one process) against `nbdkit file`, in one run.
#
# usage: tests/bench/run.sh [options]
#   -s SIZE      size of the disk                             (default 1G)
#   -j SIZE      size of the journal                          (default 2G)
#   -r N         runs of each workload and server             (default 5; medians are shown)
#   -t SECONDS   length of a run                              (default 5)
#   -w LIST      comma list of workloads, or all, or short    (default all; `-w list` names them)
#   -d DIR       where the images go                          (default: a new directory under TMPDIR or /var/tmp)
#   -o DIR       where the results go                         (default bench-results)
#   -p           measure nbdkit against a second nbdkit instead: shows the noise of this machine
#
# Needs fio with the nbd engine, nbdkit, nbdcopy, python3. FARSIDE_BIN names another binary than target/release/farside.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
size=1G journal=2G runs=5 seconds=5 workloads=all directory= output=$root/bench-results peer_only=0
while getopts s:j:r:t:w:d:o:ph option; do
    case $option in
    s) size=$OPTARG ;; j) journal=$OPTARG ;; r) runs=$OPTARG ;; t) seconds=$OPTARG ;; w) workloads=$OPTARG ;;
    d) directory=$OPTARG ;; o) output=$OPTARG ;; p) peer_only=1 ;;
    *) sed -n '2,/^set/{/^#/p}' "$0"; exit 2 ;;
    esac
done
measure=$root/tests/bench/measure.py
[ "$workloads" = list ] && exec python3 "$measure" --list
for tool in fio nbdkit nbdcopy nbdinfo python3; do
    command -v $tool >/dev/null || { echo "bench: $tool is not installed" >&2; exit 2; }
done
fio --enghelp=nbd >/dev/null 2>&1 || { echo "bench: this fio has no nbd engine" >&2; exit 2; }
farside=${FARSIDE_BIN:-$root/target/release/farside}
if [ $peer_only = 0 ] && [ -z "${FARSIDE_BIN:-}" ]; then
    (cd "$root" && cargo build --release --locked -p farside) || exit 2
fi

[ -n "$directory" ] || directory=$(mktemp -d "${TMPDIR:-/var/tmp}/farside-bench.XXXXXX") || exit 2
mkdir -p "$directory" "$output" || exit 2
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep .1; done
        kill -9 "$pid" 2>/dev/null
    done
    rm -rf "$directory"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

wait_for() { # URI LOG
    for _ in $(seq 200); do nbdinfo --size "$1" >/dev/null 2>&1 && return 0; sleep .1; done
    echo "bench: nobody serves $1; the end of $2:" >&2
    tail -20 "$2" >&2
    exit 1
}
start_nbdkit() { # NAME
    truncate -s "$size" "$directory/$1.img" || exit 2
    nbdkit -f -U "$directory/$1.sock" file "$directory/$1.img" >"$directory/$1.log" 2>&1 &
    pids+=($!)
    servers+=("$1=nbd+unix:///?socket=$directory/$1.sock@$!")
    sync_files+=("$directory/$1.img")
    wait_for "nbd+unix:///?socket=$directory/$1.sock" "$directory/$1.log"
}

servers=() sync_files=()
start_nbdkit nbdkit
if [ $peer_only = 1 ]; then
    start_nbdkit nbdkit-again
else
    ports=($(python3 -c 'import socket
held = [socket.socket() for _ in range(3)]
for s in held: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in held])'))
    "$farside" up "$directory/farside" --size "$size" --journal "$journal" --nbd "127.0.0.1:${ports[0]}" \
        --link "127.0.0.1:${ports[1]}" --console "127.0.0.1:${ports[2]}" >"$directory/farside.log" 2>&1 &
    pids+=($!)
    uri="nbd+unix:///disk0?socket=$directory/farside/nbd.sock"
    servers+=("farside=$uri@$!")
    wait_for "$uri" "$directory/farside.log"
fi

echo "bench: writing $size to each disk"
head -c "$(numfmt --from=iec "$size")" /dev/urandom >"$directory/content" || exit 2
for server in "${servers[@]}"; do
    uri=${server#*=}
    nbdcopy --flush "$directory/content" "${uri%@*}" || exit 1
done
rm "$directory/content"

between=
if [ $peer_only = 0 ]; then
    # Each run starts with a remote that has caught up, as the peer's starts with an image that is on the disk.
    between="'$farside' wait --volume disk0 --applied --timeout 120s --socket '$directory/farside/control.sock'"
    eval "$between" >/dev/null || { tail -20 "$directory/farside.log" >&2; exit 1; }
fi
args=()
for file in "${sync_files[@]}"; do args+=(--sync "$file"); done
python3 "$measure" --runs "$runs" --seconds "$seconds" --workloads "$workloads" --output "$output" \
    --note "disk $size, journal $journal" --before "$between" "${args[@]}" "${servers[@]}"
