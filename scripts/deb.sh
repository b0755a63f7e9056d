#!/usr/bin/env bash
# deb.sh [PROGRAM]: Debian packages of the kubewasm program: kubewasm, with its systemd unit, manual pages, completions and an example
# of its configuration, and kubewasm-dbgsym with its symbols. PROGRAM is target/release/kubewasm by default. They are
# written to DEB_OUT (target/deb), for the architecture and the libraries of this machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${1:-$here/target/release/kubewasm}
out=${DEB_OUT:-$here/target/deb}
say() { printf 'deb: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

[ -x "$program" ] || die "$program is not there; build it with: make release"
for tool in dpkg-deb dpkg-shlibdeps objcopy readelf gzip; do
  command -v "$tool" >/dev/null || die "$tool is not installed; scripts/setup.sh installs it"
done

version=$("$program" --version | awk '{print $2}')
architecture=$(dpkg --print-architecture)
maintainer='The kubewasm developers <kubewasm@localhost>'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/kubewasm
mkdir -p "$out" "$tree"/{DEBIAN,usr/bin,usr/lib/systemd/system,usr/share/doc/kubewasm,usr/share/man/man1,etc/kubewasm}
mkdir -p "$tree"/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}

"$here/scripts/split-symbols.sh" "$program" "$work/split"
install -m 0755 "$work/split/$(basename "$program")" "$tree/usr/bin/kubewasm"
sed 's#/usr/local/bin/#/usr/bin/#; /^# kubewasm as a service/,/^\[Unit\]/{/^\[Unit\]/!d}' "$here/manifests/systemd/kubewasm.service" \
  > "$tree/usr/lib/systemd/system/kubewasm.service"
install -m 0644 "$here/manifests/systemd/node.env" "$here/manifests/systemd/kubelet.yaml" "$tree/etc/kubewasm/"
"$program" man "$tree/usr/share/man/man1"
gzip -9n "$tree"/usr/share/man/man1/*.1
"$program" completions bash > "$tree/usr/share/bash-completion/completions/kubewasm"
"$program" completions zsh > "$tree/usr/share/zsh/vendor-completions/_kubewasm"
"$program" completions fish > "$tree/usr/share/fish/vendor_completions.d/kubewasm.fish"
gzip -9nc "$here/CHANGELOG.md" > "$tree/usr/share/doc/kubewasm/changelog.gz"
{
  printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n'
  printf 'Files: *\nCopyright: the kubewasm developers\nLicense: Apache-2.0\n'
  printf ' On Debian systems, the text of this licence is in /usr/share/common-licenses/Apache-2.0.\n'
} > "$tree/usr/share/doc/kubewasm/copyright"

# What the program is linked with decides what the package depends on.
mkdir -p "$work/source/debian"
printf 'Source: kubewasm\n\nPackage: kubewasm\nArchitecture: any\n' > "$work/source/debian/control"
depends=$(cd "$work/source" && dpkg-shlibdeps -O "$tree/usr/bin/kubewasm" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || die "dpkg-shlibdeps does not say which libraries $program needs"

installed() { du -sk --exclude=DEBIAN "$1" | cut -f1; }
cat > "$tree/DEBIAN/control" <<CONTROL
Package: kubewasm
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(installed "$tree")
Depends: $depends, ca-certificates
Recommends: nftables
Section: admin
Priority: optional
Description: Kubernetes node whose containers are WebAssembly
 kubewasm joins a cluster as a node, runs the pods that are scheduled to it
 as WebAssembly with wasmtime, and serves their logs and status as a kubelet
 does.
CONTROL
printf '/etc/kubewasm/node.env\n/etc/kubewasm/kubelet.yaml\n' > "$tree/DEBIAN/conffiles"

# The service is not started before somebody has said which cluster it joins. An upgrade replaces the agent; pods go on.
cat > "$tree/DEBIAN/postinst" <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
  if [ -n "$2" ] && systemctl is-active --quiet kubewasm.service; then
    systemctl restart kubewasm.service || true
  fi
fi
SCRIPT
cat > "$tree/DEBIAN/prerm" <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl disable --now kubewasm.service || true
fi
SCRIPT
cat > "$tree/DEBIAN/postrm" <<'SCRIPT'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
fi
SCRIPT
chmod 0755 "$tree"/DEBIAN/{postinst,prerm,postrm}
find "$tree" -type d -exec chmod 0755 {} +
package=$out/kubewasm_${version}_$architecture.deb
dpkg-deb -Zxz -z3 --root-owner-group --build "$tree" "$package" >/dev/null

id=$(readelf -n "$program" | awk '/Build ID:/ {print $3}')
[ -n "$id" ] || die "$program has no build ID, by which its symbols are found"
symbols=$work/symbols
mkdir -p "$symbols/DEBIAN" "$symbols/usr/lib/debug/.build-id/${id:0:2}"
install -m 0644 "$work/split/$(basename "$program").debug" "$symbols/usr/lib/debug/.build-id/${id:0:2}/${id:2}.debug"
cat > "$symbols/DEBIAN/control" <<CONTROL
Package: kubewasm-dbgsym
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(installed "$symbols")
Depends: kubewasm (= $version)
Section: debug
Priority: optional
Description: debug symbols for kubewasm
 What debuggers and profilers need to name the functions of kubewasm.
CONTROL
find "$symbols" -type d -exec chmod 0755 {} +
dpkg-deb -Zxz -z3 --root-owner-group --build "$symbols" "$out/kubewasm-dbgsym_${version}_$architecture.deb" >/dev/null
say "$package and kubewasm-dbgsym"
printf '%s\n' "$package"
