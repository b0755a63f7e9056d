#!/usr/bin/env bash
# Puts oras (a client of registries, which the tests of `kubewasm module` hold ours against) into a cache folder, and prints
# that folder's path, alone.
. "$(dirname "${BASH_SOURCE[0]}")/../go-tool.sh"

go_module oras.land/oras
go_program oras cmd/oras
printf '%s\n' "$out"
