#!/usr/bin/env bash
# Puts kwok (a node that fakes its pods, the peer of `make bench`) and the stages that it ships with into
# a cache folder outside the source tree, and prints that folder's path, alone, on standard output.
# Progress goes to standard error. A build happens once per change of go.mod, go.sum or this script.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}
module=sigs.k8s.io/kwok
version=$(awk -v module="$module" '$1 == module {print $2}' "$here/go.mod")
key=$(cat "$here/go.mod" "$here/go.sum" "$here/build.sh" | sha256sum | cut -c1-12)
out=$cache/kwok/$version-$key
# What `kwokctl` gives to a cluster that asks for nothing else: nodes are Ready and pods Running at once.
stages=(node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease
  pod/fast/pod-ready pod/fast/pod-complete pod/fast/pod-delete)

say() { printf 'kwok: %s\n' "$*" >&2; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

if [ ! -x "$out/kwok" ]; then
  if ! command -v go >/dev/null; then
    say "error: kwok cannot be built, because Go is not installed."
    say "Install Go (version $(awk '$1 == "go" {print $2}' "$here/go.mod") or newer), or run the benchmark with --no-peer."
    exit 1
  fi
  say "building kwok $version (once; it takes a minute or two) ..."
  start=$SECONDS
  cd "$here"
  # Built under another name, so that an interrupted build leaves no half program behind.
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$out/.kwok.part" "$module/cmd/kwok"
  source=$(go list -m -f '{{.Dir}}' "$module")
  for stage in "${stages[@]}"; do
    printf -- '---\n'
    cat "$source/kustomize/stage/$stage.yaml"
  done >"$out/stages.yaml"
  mv "$out/.kwok.part" "$out/kwok"
  say "built kwok in $((SECONDS - start)) s"
fi
printf '%s\n' "$out"
