#!/usr/bin/env bash
# Runs fuzz targets one after the other: all of fuzz/targets, or those that are named. What they have learned is kept in
# the cache, and an input that breaks something in fuzz/artifacts, with the command that shows it again.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
corpora=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}/fuzz
# The C library's allocator and 2 GiB: what takes more for an input of 64 KiB has no bound.
memory=2048
longest=65536

command -v c++ >/dev/null || {
  echo "fuzz: libFuzzer is built with a C++ compiler, and c++ is not here: install the Debian package g++" >&2
  exit 1
}

# What libFuzzer needs to see where an input leads; a stable compiler has it too.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# With a target named, build scripts and macros are built without that.
target=$(rustc -vV | sed -n 's/^host: //p')
directory=${CARGO_TARGET_DIR:-target}/fuzz
cargo build --release --manifest-path fuzz/Cargo.toml --target "$target" --target-dir "$directory"

if [ $# -eq 0 ]; then
  set -- $(basename -s .rs -a fuzz/targets/*.rs)
fi
for name in "$@"; do
  [ -e "fuzz/targets/$name.rs" ] || {
    echo "fuzz: there is no fuzz/targets/$name.rs; there are: $(basename -s .rs -a fuzz/targets/*.rs | xargs)" >&2
    exit 1
  }
  mkdir -p "$corpora/$name" "fuzz/artifacts/$name"
  seeds=fuzz/seeds/$name
  echo "fuzz: $name, for $seconds s"
  "$directory/$target/release/$name" "$corpora/$name" $([ -d "$seeds" ] && echo "$seeds") -max_total_time="$seconds" \
    -max_len="$longest" -rss_limit_mb="$memory" -timeout=25 -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="fuzz/artifacts/$name/" 2>&1 | grep -v '^stat::\(slowest\|average\)' || {
    echo "fuzz: $name has found something: $directory/$target/release/$name fuzz/artifacts/$name/FILE shows it" >&2
    exit 1
  }
done
