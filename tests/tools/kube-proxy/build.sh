#!/usr/bin/env bash
# Puts kube-proxy (which leads a client of the tests to Services, as on any other node) into a cache folder outside the source
# tree, and prints that folder's path, alone, on standard output. Progress goes to standard error. A build happens once
# per change of go.mod, go.sum or this script.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}
module=k8s.io/kubernetes
version=$(awk -v module="$module" '$1 == module {print $2}' "$here/go.mod")
key=$(cat "$here/go.mod" "$here/go.sum" "$here/build.sh" | sha256sum | cut -c1-12)
out=$cache/kube-proxy/$version-$key

say() { printf 'kube-proxy: %s\n' "$*" >&2; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

if [ ! -x "$out/kube-proxy" ]; then
  if ! command -v go >/dev/null; then
    say "error: kube-proxy cannot be built, because Go is not installed."
    say "Install Go (version $(awk '$1 == "go" {print $2}' "$here/go.mod") or newer)."
    exit 1
  fi
  say "building kube-proxy $version (once; it takes a minute) ..."
  start=$SECONDS
  cd "$here"
  stamp=k8s.io/component-base/version
  # Built under another name, so that an interrupted build leaves no half program behind.
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X $stamp.gitVersion=$version" -o "$out/.kube-proxy.part" "$module/cmd/kube-proxy"
  mv "$out/.kube-proxy.part" "$out/kube-proxy"
  say "built kube-proxy in $((SECONDS - start)) s"
fi
printf '%s\n' "$out"
