#!/usr/bin/env bash
# Puts cosign, with which the tests of signatures sign their images, into a cache folder, and prints the program's path, alone.
# It takes some minutes. A program named by $KUBEWASM_COSIGN is used as it is.
. "$(dirname "${BASH_SOURCE[0]}")/../tools/go-tool.sh"

if [ -n "${KUBEWASM_COSIGN:-}" ]; then
  printf '%s\n' "$KUBEWASM_COSIGN"
  exit 0
fi
otherwise="name a cosign of version 3 in KUBEWASM_COSIGN"
go_module github.com/sigstore/cosign/v3
go_program cosign cmd/cosign
printf '%s\n' "$out/cosign"
