#!/usr/bin/env bash
# Puts a program that has client-go's streams (exec and port-forward, by SPDY and by WebSocket) into a cache folder, and prints that
# folder's path, alone.
. "$(dirname "${BASH_SOURCE[0]}")/../go-tool.sh"

go_module kubewasm.dev/tests/tools/streamer
version=$(awk '$1 == "k8s.io/client-go" {print $2}' "$here/go.mod")
# What it does is said here, unlike that of programs of others.
out=$out/$version-$(sha256sum "$here/cmd/streamer/main.go" | cut -c1-12)
mkdir -p "$out"
go_program streamer cmd/streamer
printf '%s\n' "$out"
