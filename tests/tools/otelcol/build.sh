#!/usr/bin/env bash
# Puts a collector of others (the OpenTelemetry Collector, with no more in it than what reads containers' logs, what takes in
# traces and what writes both to a file) into a cache folder, and prints that folder's path, alone. It takes some minutes.
. "$(dirname "${BASH_SOURCE[0]}")/../go-tool.sh"

go_module kubewasm.dev/tests/tools/otelcol
version=$(awk '$1 ~ /filelogreceiver$/ {print $2}' "$here/go.mod")
# Which parts there are in it is said here, unlike those of programs that others have put together.
out=$out/$version-$(sha256sum "$here/cmd/otelcol/main.go" | cut -c1-12)
mkdir -p "$out"
go_program otelcol cmd/otelcol
printf '%s\n' "$out"
