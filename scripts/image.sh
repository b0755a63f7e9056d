#!/usr/bin/env bash
# image.sh [PROGRAM]: a container image with the kubewasm program and nothing that it does not use: nft, the libraries that both are
# linked with, authorities of TLS, the names of two users. No shell, no package manager. Buildah writes it, without a daemon.
#
# PROGRAM is target/release/kubewasm by default. The image is an archive in the form of OCI, IMAGE_OUT (target/image/kubewasm.tar);
# its files stay beside it in rootfs, and the program's symbols in kubewasm.debug. IMAGE_NAME (kubewasm:latest) is its name in the
# archive. No larger than IMAGE_MAX_MB (60) megabytes, compressed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${1:-$here/target/release/kubewasm}
out=${IMAGE_OUT:-$here/target/image/kubewasm.tar}
name=${IMAGE_NAME:-kubewasm:latest}
most=${IMAGE_MAX_MB:-60}
say() { printf 'image: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

[ -x "$program" ] || die "$program is not there; build it with: make release"
for tool in buildah objcopy ldd; do
  command -v "$tool" >/dev/null || die "$tool is not installed; scripts/setup.sh installs it"
done
authorities=/etc/ssl/certs/ca-certificates.crt
[ -e "$authorities" ] || die "$authorities is not there; install ca-certificates"

folder=$(dirname "$out") root=$(dirname "$out")/rootfs
rm -rf "$root"
mkdir -p "$root"/{usr/bin,etc/ssl/certs,etc/kubewasm,proc,sys,dev,run,var/lib/kubewasm,var/log,usr/share/doc/kubewasm}
install -d -m 1777 "$root/tmp"
"$here/scripts/split-symbols.sh" "$program" "$folder"
mv "$folder/$(basename "$program")" "$root/usr/bin/kubewasm"

# What masquerades what pods send, with --network=pod.
nft=$(command -v nft) || die "nft is not installed; scripts/setup.sh installs it"
install -D -m 0755 "$(readlink -f "$nft")" "$root/usr/sbin/nft"

# The loader and the libraries, where programs look for them.
{ ldd "$program"; ldd "$nft"; } | awk '$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\// {print $1}' | while read -r library; do
  install -D -m 0755 "$(readlink -f "$library")" "$root$library"
done
install -m 0644 "$authorities" "$root$authorities"
install -m 0644 "$here/LICENSE" "$root/usr/share/doc/kubewasm/LICENSE"
printf 'root:x:0:0:root:/root:/sbin/nologin\nkubewasm:x:65532:65532:kubewasm:/var/lib/kubewasm:/sbin/nologin\n' > "$root/etc/passwd"
printf 'root:x:0:\nkubewasm:x:65532:\n' > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"

# Buildah's own files go with this script, and its containers share nothing with those of this machine's user.
store=$(mktemp -d)
buildah() { command buildah --storage-driver vfs --root "$store/root" --runroot "$store/run" "$@"; }
trap 'buildah rm --all >/dev/null 2>&1 || true; buildah rmi --all --force >/dev/null 2>&1 || true; rm -rf "$store"' EXIT
container=$(buildah from scratch)
buildah copy --quiet "$container" "$root" / >/dev/null
if [ "$(id -u)" -eq 0 ]; then
  buildah copy --quiet --chown 65532:65532 "$container" "$root/var/lib/kubewasm" /var/lib/kubewasm >/dev/null
fi
version=$("$program" --version | awk '{print $2}')
buildah config --entrypoint '["/usr/bin/kubewasm"]' --cmd 'node' --workingdir / --env PATH=/usr/bin:/usr/sbin --volume /var/lib/kubewasm \
  --label org.opencontainers.image.title=kubewasm --label "org.opencontainers.image.version=$version" \
  --label org.opencontainers.image.licenses=Apache-2.0 \
  --label 'org.opencontainers.image.description=A Kubernetes node whose containers are WebAssembly' "$container"
rm -f "$out"
# Nothing in it depends on when it was made.
buildah commit --quiet --disable-compression=false --timestamp 0 --format oci "$container" "oci-archive:$out:$name" >/dev/null

megabytes=$(( ($(stat -c %s "$out") + 999999) / 1000000 ))
say "$out: $name, $megabytes MB; symbols in $folder/$(basename "$program").debug"
[ "$megabytes" -le "$most" ] || die "that is more than IMAGE_MAX_MB ($most); is the program a release, and stripped?"
