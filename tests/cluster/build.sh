#!/usr/bin/env bash
# Puts the control plane's programs (etcd, kube-apiserver, kube-controller-manager, kube-scheduler,
# kubectl) into a cache folder outside the source tree, and prints that folder's path, alone, on
# standard output. Progress goes to standard error.
#
# Programs found in $KUBEBUILDER_ASSETS are used as they are; the others are built from the versions
# pinned in go.mod. A build happens once per change of go.mod, go.sum or this script.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KUBEWASM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kubewasm}
version=$(awk '$1 == "k8s.io/kubernetes" {print $2}' "$here/go.mod")
key=$(cat "$here/go.mod" "$here/go.sum" "$here/build.sh" | sha256sum | cut -c1-12)
out=$cache/control-plane/$version-$key

declare -A packages=(
  [etcd]=go.etcd.io/etcd/server/v3
  [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
  [kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
  [kube-scheduler]=k8s.io/kubernetes/cmd/kube-scheduler
  [kubectl]=k8s.io/kubernetes/cmd/kubectl
)
order=(etcd kube-apiserver kube-controller-manager kube-scheduler kubectl)

say() { printf 'control plane: %s\n' "$*" >&2; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

# Programs that call themselves v0.0.0 make kubectl complain about version skew.
stamp=k8s.io/component-base/version
minor=${version#v1.}
ldflags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}"

for name in "${order[@]}"; do
  [ -x "$out/$name" ] && continue
  if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/$name" ]; then
    say "using $KUBEBUILDER_ASSETS/$name"
    ln -sf "$(readlink -f "$KUBEBUILDER_ASSETS/$name")" "$out/$name"
    continue
  fi
  if ! command -v go >/dev/null; then
    say "error: $name is not there and cannot be built, because Go is not installed."
    say "Install Go (version $(awk '$1 == "go" {print $2}' "$here/go.mod") or newer), or point KUBEBUILDER_ASSETS at a folder that holds: ${order[*]}."
    exit 1
  fi
  say "building $name $version (once; the first of these takes some minutes) ..."
  start=$SECONDS
  # Built under another name, so that an interrupted build leaves no half program behind.
  (cd "$here" && CGO_ENABLED=0 go build -trimpath -ldflags "$ldflags" -o "$out/.$name.part" "${packages[$name]}")
  mv "$out/.$name.part" "$out/$name"
  say "built $name in $((SECONDS - start)) s"
done
printf '%s\n' "$out"
