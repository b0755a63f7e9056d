#!/usr/bin/env bash
# Puts the reference plugins of CNI, which the tests of --network=cni give pods their networks by, into a cache folder
# outside the source tree, and prints that folder's path, alone, on standard output. Progress goes to standard error.
# A build happens once per change of go.mod, go.sum or this script.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}
module=github.com/containernetworking/plugins
version=$(awk -v module="$module" '$1 == module {print $2}' "$here/go.mod")
key=$(cat "$here/go.mod" "$here/go.sum" "$here/build.sh" | sha256sum | cut -c1-12)
out=$cache/cni-plugins/$version-$key
plugins=(main/bridge ipam/host-local meta/portmap meta/bandwidth meta/firewall)

say() { printf 'cni-plugins: %s\n' "$*" >&2; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

for plugin in "${plugins[@]}"; do
  name=${plugin##*/}
  [ ! -x "$out/$name" ] || continue
  if ! command -v go >/dev/null; then
    say "error: CNI plugins cannot be built, because Go is not installed."
    say "Install Go (version $(awk '$1 == "go" {print $2}' "$here/go.mod") or newer)."
    exit 1
  fi
  say "building $name $version (once; it takes some seconds) ..."
  start=$SECONDS
  # Built under another name, so that an interrupted build leaves no half program behind.
  (cd "$here" && CGO_ENABLED=0 go build -trimpath \
    -ldflags "-s -w -X $module/pkg/utils/buildversion.BuildVersion=$version" -o "$out/.$name.part" "$module/plugins/$plugin")
  mv "$out/.$name.part" "$out/$name"
  say "built $name in $((SECONDS - start)) s"
done
printf '%s\n' "$out"
