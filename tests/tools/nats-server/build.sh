#!/usr/bin/env bash
# Puts nats-server (with JetStream, for tests of host interfaces) into a cache folder, and prints that folder's path, alone.
. "$(dirname "${BASH_SOURCE[0]}")/../go-tool.sh"

go_module github.com/nats-io/nats-server/v2
go_program nats-server .
printf '%s\n' "$out"
