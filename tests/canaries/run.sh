#!/bin/sh
# Canaries: plants one bug after the other in a copy of the tree and lets the simulator look for it.
#
# Each NAME.patch beside this file is a mistake that somebody could make, with the promise that it breaks. A bug that
# no world sees means that a checker or a misfortune is missing.
#
#   tests/canaries/run.sh                  all
#   tests/canaries/run.sh NAME...          these
#   tests/canaries/run.sh --quick          a few that are found at once
#   tests/canaries/run.sh --clean          none: only the tree without any bug
#
# LIMIT: most worlds for each (200000; all but a few take less than 5000). FIRST: the first seed (1). THREADS: of the
# simulator (all cores). CLEAN: worlds of the tree without any bug, which have to find nothing (20000; 0 leaves them out).
#
# The copy and what is built from it are kept in target/canaries, so that only what a bug touches is built anew.
# Exit status: 0 all found; 1 not all found; 2 nothing can be said, with the reason.
set -eu

QUICK="sync-forgotten ack-before-append duplicate-chunk-taken"

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${CARGO_TARGET_DIR:-$root/target}/canaries
tree=$work/tree
sim=$work/build/sim/farside-sim
LIMIT=${LIMIT:-200000}
CLEAN=${CLEAN:-20000}
FIRST=${FIRST:-1}
THREADS=${THREADS:-$(nproc)}

give_up() {
    echo "canaries: $*" >&2
    exit 2
}

command -v patch >/dev/null || give_up "the program patch is missing; install it"

# Brings the copy to the tracked files of the tree. What is equal keeps its time, so that it is not built again.
refresh() {
    mkdir -p "$tree"
    (cd "$root" && git ls-files) >"$work/files"
    while IFS= read -r file; do
        [ -f "$root/$file" ] || continue
        cmp -s "$root/$file" "$tree/$file" && continue
        mkdir -p "$tree/$(dirname "$file")"
        cp "$root/$file" "$tree/$file"
    done <"$work/files"
    # What is tracked no longer, or was left by an earlier run.
    (cd "$tree" && find . -type f) | sed 's|^\./||' | sort >"$work/there"
    sort "$work/files" | comm -13 - "$work/there" | while IFS= read -r file; do
        rm -f "$tree/$file"
    done
}

# Incremental and without debug information: most of the time here goes into building.
build() {
    (cd "$tree" && export CARGO_TARGET_DIR="$work/build" CARGO_INCREMENTAL=1 CARGO_PROFILE_SIM_DEBUG=false && nice "${CARGO:-cargo}" build --quiet --locked --profile sim \
        -p farside-sim) >"$work/log" 2>&1
}

# Runs worlds until one breaks a promise. The report goes to the log.
look() {
    nice "$sim" --first "$FIRST" --seeds "$1" --enough 1 --threads "$THREADS" >"$work/log" 2>&1
}

# Seed and text of the first broken promise in the log, as "SEED: TEXT".
found() {
    sed -n '/^seed [0-9]*: /{s/^seed //p;q;}' "$work/log"
}

row() {
    printf '| %s | %s | %s | %s |\n' "$1" "$2" "$3" "$4"
}

# The promise that a patch breaks, of its first line.
promise() {
    sed -n '1s/^Breaks: //p' "$here/$1.patch"
}

# Plants one bug, looks for it, takes it out. Prints a row; fails when it was not found.
canary() {
    name=$1
    breaks=$(promise "$name")
    if ! patch -d "$tree" -p1 --batch --forward --fuzz=0 --no-backup-if-mismatch -r - <"$here/$name.patch" \
        >"$work/log" 2>&1; then
        refresh
        row "$name" "$breaks" "DOES NOT APPLY" "write the patch anew: $(tail -n 1 "$work/log")"
        return 1
    fi
    if ! build; then
        cp "$work/log" "$work/$name.log"
        refresh
        row "$name" "$breaks" "DOES NOT COMPILE" "see $work/$name.log"
        return 1
    fi
    look "$LIMIT" && status=0 || status=$?
    refresh
    hit=$(found)
    if [ -z "$hit" ]; then
        cp "$work/log" "$work/$name.log"
        row "$name" "$breaks" "NOT FOUND" "in $LIMIT worlds (status $status); see $work/$name.log"
        return 1
    fi
    row "$name" "$breaks" "$((${hit%%:*} - FIRST + 1))" "$(printf '%s' "${hit#*: }" | cut -c1-160 | tr '|' '/')"
}

names=
for argument in "$@"; do
    case $argument in
    --quick) names="$names $QUICK" ;;
    --clean) names=" --clean" ;;
    *)
        name=$(basename "$argument" .patch)
        [ -f "$here/$name.patch" ] || give_up "there is no canary $name; see tests/canaries"
        names="$names $name"
        ;;
    esac
done
[ -n "$names" ] || names=$(cd "$here" && for patch in *.patch; do echo "${patch%.patch}"; done)
[ "$names" != " --clean" ] || names=

mkdir -p "$work"
exec 9>"$work/lock"
flock -n 9 || give_up "another run is under way in $work"
refresh
build || give_up "the tree does not compile: $(tail -n 3 "$work/log")"
if [ "$CLEAN" -gt 0 ]; then
    look "$CLEAN" || give_up "a world breaks a promise without any canary: $(found)"
fi

missing=0
echo "| canary | promise it breaks | worlds it took | found as |"
echo "| --- | --- | --- | --- |"
for name in $names; do
    canary "$name" || missing=$((missing + 1))
done
if [ "$missing" -gt 0 ]; then
    echo "canaries: $missing were not found" >&2
    exit 1
fi
