#!/usr/bin/env bash
# Checks that kubewasm-workload can be built with some of its features left out: with none, with each alone, and with all
# but each. What is built for it is apart from everything else, whose dependencies have other features.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/combinations" RUSTFLAGS="${RUSTFLAGS:-} -D warnings"
features=(wasi-http wasi-config wasi-logging wasi-blobstore wasi-keyvalue wasmcloud-messaging)

check() {
  echo "kubewasm-workload with: ${1:-no feature}"
  cargo check --quiet --package kubewasm-workload --lib --no-default-features --features "$1"
}

check ""
for feature in "${features[@]}"; do
  check "$feature"
  others=()
  for other in "${features[@]}"; do
    [ "$other" = "$feature" ] || others+=("$other")
  done
  check "${others[*]}"
done
