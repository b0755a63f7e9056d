#!/usr/bin/env bash
# Checks that programs (`cargo build --workspace --bins`) and tests (`--all-targets`) are built with the same features
# of all dependencies. Where they are not, each build after the other compiles wasmtime and much else anew, because
# Cargo takes the features of development dependencies for tests alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Package, version and features, a line each; a line that was shown before ends in (*).
features() {
  cargo tree --workspace --edges "$1" --prefix none --format '{p} {f}' | sed 's/ (\*)$//' | sort -u
}
programs=$(features normal,build)
tests=$(features normal,build,dev)

if differing=$(comm -23 <(printf '%s\n' "$programs") <(printf '%s\n' "$tests")) && [ -n "$differing" ]; then
  echo "features: these dependencies have other features when tests are built:" >&2
  printf '%s\n' "$differing" >&2
  echo "Give the crate kubewasm-tests the missing feature as an ordinary dependency (tests/Cargo.toml)." >&2
  exit 1
fi
