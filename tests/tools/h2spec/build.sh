#!/usr/bin/env bash
# Puts h2spec (which asks a server for what RFC 7540 and RFC 7541 say) into a cache folder, and prints that folder's path, alone.
. "$(dirname "${BASH_SOURCE[0]}")/../go-tool.sh"

go_module github.com/summerwind/h2spec
go_program h2spec cmd/h2spec
printf '%s\n' "$out"
