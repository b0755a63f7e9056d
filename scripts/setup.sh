#!/usr/bin/env bash
# Installs what the tests and the demo need beyond Rust: Debian packages, only those whose programs are
# missing, after saying which. Debian 12 and newer, and Ubuntu 24.04, have them.
#
# KUBEWASM_NO_INSTALL=1 makes it only say what is missing; it fails then if anything is.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null; }

# clang links a guest with these builtins, whose package is not a dependency of its own.
wasm_builtins() {
  has clang && [ -e "$(clang --target=wasm32-wasi -print-libgcc-file-name 2>/dev/null)" ]
}

# Whether the repository's Rust has the standard library of a guest's target. Where not, Debian's compiler makes one.
rust_target() {
  has rustc && [ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-wasip1" ]
}

missing=()
has cc || missing+=(gcc libc6-dev)                                  # links Rust programs
has objcopy || missing+=(binutils)                                  # takes symbols out of programs
has dpkg-shlibdeps || missing+=(dpkg-dev)                           # makes Debian packages
has docker-registry || missing+=(docker-registry)                   # serves the guests' images
has buildah || missing+=(buildah)                                   # builds container images as users do
has clang || missing+=(clang)                                       # compiles guests
has mkfs.ext4 || missing+=(e2fsprogs)                               # a disk with blocks that are kept for root
has promtool || missing+=(prometheus)                               # reads nodes as monitoring does, and checks what they say
has dbus-daemon || missing+=(dbus-daemon)                           # tells nodes of shutdowns
has nft || missing+=(nftables)                                      # masquerades what pods send
has dnsmasq || missing+=(dnsmasq-base)                              # answers guests' questions about names
has redis-server || missing+=(redis-server)                         # keeps what guests keep
has tinyproxy || missing+=(tinyproxy-bin)                           # leads guests' requests on
has wasm-ld || missing+=(lld)                                       # links guests
[ -e /usr/include/wasm32-wasi/stdio.h ] || missing+=(wasi-libc)     # their C library
if ! rust_target && [ ! -e /usr/lib/rustlib/src/rust/library ]; then
  if apt-cache show rust-web-src >/dev/null 2>&1; then
    missing+=(cargo-web rustc-web rust-web-src)                     # compile guests of Rust
  else
    say "note: guests of Rust take \`rustup target add wasm32-wasip1\` here."
  fi
fi
wasm_builtins || missing+=(libclang-rt-dev-wasm32)
# tests/tools/python-tool.sh makes virtual environments with it, for programs from Python's package index.
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)

# Not Debian's: an older Go fetches the version that go.mod asks for by itself.
if ! has go && [ -z "${KUBEBUILDER_ASSETS:-}" ]; then
  say "note: Go is not installed. It builds the control plane of the tests and the demo, and cosign for the tests, once."
  say "      Install it from https://go.dev/dl/, or point KUBEBUILDER_ASSETS at ready-made programs."
fi

if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if [ -n "${KUBEWASM_NO_INSTALL:-}" ]; then
  say "error: these Debian packages are missing: ${missing[*]}"
  say "Install them, or unset KUBEWASM_NO_INSTALL to have it done here."
  exit 1
fi
if ! has apt-get; then
  say "error: apt-get is not here. Install with your system's tools what these Debian packages hold: ${missing[*]}"
  exit 1
fi

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  has sudo || { say "error: installing ${missing[*]} takes root, and sudo is not here."; exit 1; }
  sudo=(sudo)
fi
say "installing the Debian packages ${missing[*]} with ${sudo[*]:+sudo }apt-get ..."

# The packages of docker-registry, prometheus and redis-server start services of their own, which nobody here needs.
services=()
for package in docker-registry prometheus redis-server; do
  if [[ " ${missing[*]} " == *" $package "* ]] && [ -d /run/systemd/system ]; then
    services+=("$package.service")
    "${sudo[@]}" systemctl mask --quiet "$package.service"
  fi
done
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
for service in "${services[@]}"; do
  "${sudo[@]}" systemctl unmask --quiet "$service"
  "${sudo[@]}" systemctl disable --quiet "$service"
  say "the service $service, which came with its package, stays disabled."
done
say "done."
