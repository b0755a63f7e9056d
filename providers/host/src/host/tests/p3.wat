;; What makes a component of WASI 0.3 of a few functions in text: the imports, with the names by which the functions call them,
;; and functions for what takes more than one call. BODY is the module's own part; it exports `run`.
(component
  (import "wasi:cli/types@0.3.0" (instance $types
    (type $any-code (enum "io" "illegal-byte-sequence" "pipe"))
    (export "error-code" (type (eq $any-code)))))
  (alias export $types "error-code" (type $cli-code))
  (import "wasi:cli/stdout@0.3.0" (instance $stdout
    (alias outer 1 $cli-code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (export "write-via-stream" (func (param "data" (stream u8)) (result (future (result (error $code))))))))
  (import "wasi:cli/stdin@0.3.0" (instance $stdin
    (alias outer 1 $cli-code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (export "read-via-stream" (func (result (tuple (stream u8) (future (result (error $code)))))))))
  (import "wasi:cli/exit@0.3.0" (instance $exit
    (export "exit" (func (param "status" (result))))
    (export "exit-with-code" (func (param "status-code" u8)))))
  (import "wasi:cli/terminal-output@0.3.0" (instance $terminal-output
    (export "terminal-output" (type (sub resource)))))
  (alias export $terminal-output "terminal-output" (type $terminal))
  (import "wasi:cli/terminal-stdout@0.3.0" (instance $terminal-stdout
    (alias outer 1 $terminal (type $outer-terminal))
    (export "terminal-output" (type $terminal (eq $outer-terminal)))
    (export "get-terminal-stdout" (func (result (option (own $terminal)))))))
  (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
    (export "now" (func (result u64)))
    (export "wait-for" (func async (param "how-long" u64)))))
  (import "wasi:random/random@0.3.0" (instance $random
    (export "get-random-bytes" (func (param "max-len" u64) (result (list u8))))))
  (import "wasi:filesystem/types@0.3.0" (instance $files
    (export "descriptor" (type $descriptor (sub resource)))
    (type $any-code (variant
      (case "access") (case "already") (case "bad-descriptor") (case "busy") (case "deadlock") (case "quota")
      (case "exist") (case "file-too-large") (case "illegal-byte-sequence") (case "in-progress") (case "interrupted")
      (case "invalid") (case "io") (case "is-directory") (case "loop") (case "too-many-links") (case "message-size")
      (case "name-too-long") (case "no-device") (case "no-entry") (case "no-lock") (case "insufficient-memory")
      (case "insufficient-space") (case "not-directory") (case "not-empty") (case "not-recoverable") (case "unsupported")
      (case "no-tty") (case "no-such-device") (case "overflow") (case "not-permitted") (case "pipe") (case "read-only")
      (case "invalid-seek") (case "text-file-busy") (case "cross-device") (case "other" (option string))))
    (export "error-code" (type $code (eq $any-code)))
    (type $any-kind (variant
      (case "block-device") (case "character-device") (case "directory") (case "fifo") (case "symbolic-link")
      (case "regular-file") (case "socket") (case "other" (option string))))
    (export "descriptor-type" (type $kind (eq $any-kind)))
    (type $any-entry (record (field "type" $kind) (field "name" string)))
    (export "directory-entry" (type $entry (eq $any-entry)))
    (type $any-path-flags (flags "symlink-follow"))
    (export "path-flags" (type $path-flags (eq $any-path-flags)))
    (type $any-open-flags (flags "create" "directory" "exclusive" "truncate"))
    (export "open-flags" (type $open-flags (eq $any-open-flags)))
    (type $any-flags (flags
      "read" "write" "file-integrity-sync" "data-integrity-sync" "requested-write-sync" "mutate-directory"))
    (export "descriptor-flags" (type $flags (eq $any-flags)))
    (export "[method]descriptor.open-at" (func async
      (param "self" (borrow $descriptor)) (param "path-flags" $path-flags) (param "path" string)
      (param "open-flags" $open-flags) (param "flags" $flags) (result (result (own $descriptor) (error $code)))))
    (export "[method]descriptor.create-directory-at" (func async
      (param "self" (borrow $descriptor)) (param "path" string) (result (result (error $code)))))
    (export "[method]descriptor.read-via-stream" (func
      (param "self" (borrow $descriptor)) (param "offset" u64)
      (result (tuple (stream u8) (future (result (error $code)))))))
    (export "[method]descriptor.read-directory" (func
      (param "self" (borrow $descriptor)) (result (tuple (stream $entry) (future (result (error $code)))))))))
  (alias export $files "descriptor" (type $descriptor))
  (alias export $files "directory-entry" (type $entry))
  (alias export $files "error-code" (type $file-code))
  (import "wasi:filesystem/preopens@0.3.0" (instance $preopens
    (alias outer 1 $descriptor (type $outer-descriptor))
    (export "descriptor" (type $descriptor (eq $outer-descriptor)))
    (export "get-directories" (func (result (list (tuple (own $descriptor) string)))))))
  (import "wasi:sockets/types@0.3.0" (instance $sockets
    (type $any-code (variant
      (case "access-denied") (case "not-supported") (case "invalid-argument") (case "out-of-memory") (case "timeout")
      (case "invalid-state") (case "address-not-bindable") (case "address-in-use") (case "remote-unreachable")
      (case "connection-refused") (case "connection-broken") (case "connection-reset") (case "connection-aborted")
      (case "datagram-too-large") (case "other" (option string))))
    (export "error-code" (type $code (eq $any-code)))
    (type $any-family (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type $family (eq $any-family)))
    (type $any-v4 (tuple u8 u8 u8 u8))
    (export "ipv4-address" (type $v4 (eq $any-v4)))
    (type $any-v6 (tuple u16 u16 u16 u16 u16 u16 u16 u16))
    (export "ipv6-address" (type $v6 (eq $any-v6)))
    (type $any-ip (variant (case "ipv4" $v4) (case "ipv6" $v6)))
    (export "ip-address" (type $ip (eq $any-ip)))
    (type $any-v4-socket (record (field "port" u16) (field "address" $v4)))
    (export "ipv4-socket-address" (type $v4-socket (eq $any-v4-socket)))
    (type $any-v6-socket (record
      (field "port" u16) (field "flow-info" u32) (field "address" $v6) (field "scope-id" u32)))
    (export "ipv6-socket-address" (type $v6-socket (eq $any-v6-socket)))
    (type $any-address (variant (case "ipv4" $v4-socket) (case "ipv6" $v6-socket)))
    (export "ip-socket-address" (type $address (eq $any-address)))
    (export "tcp-socket" (type $tcp (sub resource)))
    (export "udp-socket" (type $udp (sub resource)))
    (type $done (result (error $code)))
    (type $at (result $address (error $code)))
    (type $connections (stream (own $tcp)))
    (export "[static]tcp-socket.create" (func
      (param "address-family" $family) (result (result (own $tcp) (error $code)))))
    (export "[method]tcp-socket.bind" (func
      (param "self" (borrow $tcp)) (param "local-address" $address) (result $done)))
    (export "[method]tcp-socket.connect" (func async
      (param "self" (borrow $tcp)) (param "remote-address" $address) (result $done)))
    (export "[method]tcp-socket.listen" (func
      (param "self" (borrow $tcp)) (result (result $connections (error $code)))))
    (export "[method]tcp-socket.get-local-address" (func (param "self" (borrow $tcp)) (result $at)))
    (export "[method]tcp-socket.get-remote-address" (func (param "self" (borrow $tcp)) (result $at)))
    (export "[static]udp-socket.create" (func
      (param "address-family" $family) (result (result (own $udp) (error $code)))))
    (export "[method]udp-socket.connect" (func
      (param "self" (borrow $udp)) (param "remote-address" $address) (result $done)))
    (export "[method]udp-socket.disconnect" (func (param "self" (borrow $udp)) (result $done)))
    (export "[method]udp-socket.send" (func async
      (param "self" (borrow $udp)) (param "data" (list u8)) (param "remote-address" (option $address)) (result $done)))
    (export "[method]udp-socket.receive" (func async
      (param "self" (borrow $udp)) (result (result (tuple (list u8) $address) (error $code)))))
    (export "[method]udp-socket.get-local-address" (func (param "self" (borrow $udp)) (result $at)))))
  (alias export $sockets "tcp-socket" (type $tcp))
  (alias export $sockets "ip-address" (type $ip))
  (import "wasi:sockets/ip-name-lookup@0.3.0" (instance $names
    (alias outer 1 $ip (type $outer-ip))
    (export "ip-address" (type $ip (eq $outer-ip)))
    (type $any-code (variant
      (case "access-denied") (case "invalid-argument") (case "name-unresolvable") (case "temporary-resolver-failure")
      (case "permanent-resolver-failure") (case "other" (option string))))
    (export "error-code" (type $code (eq $any-code)))
    (export "resolve-addresses" (func async
      (param "name" string) (result (result (list $ip) (error $code)))))))

  ;; Memory for what the host hands over, from the second page on.
  (core module $libc
    (memory (export "memory") 4)
    (global $next (mut i32) (i32.const 0x10000))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $found i32)
      (local.set $found (global.get $next))
      (global.set $next
        (i32.and (i32.add (i32.add (local.get $found) (local.get 3)) (i32.const 7)) (i32.const -8)))
      (local.get $found)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
  (type $bytes (stream u8))
  (type $entries (stream $entry))
  (type $connections (stream (own $tcp)))
  (type $written (future (result (error $cli-code))))
  (type $listed (future (result (error $file-code))))

  (core func $stdout (canon lower (func $stdout "write-via-stream")))
  (core func $stdin (canon lower (func $stdin "read-via-stream") (memory $memory)))
  (core func $exit (canon lower (func $exit "exit")))
  (core func $exit-with (canon lower (func $exit "exit-with-code")))
  (core func $terminal (canon lower (func $terminal-stdout "get-terminal-stdout") (memory $memory)))
  (core func $now (canon lower (func $clock "now")))
  (core func $wait-for (canon lower (func $clock "wait-for")))
  (core func $random (canon lower (func $random "get-random-bytes") (memory $memory) (realloc $realloc)))
  (core func $open-at (canon lower (func $files "[method]descriptor.open-at") (memory $memory) (realloc $realloc)))
  (core func $mkdir (canon lower (func $files "[method]descriptor.create-directory-at") (memory $memory) (realloc $realloc)))
  (core func $read-file (canon lower (func $files "[method]descriptor.read-via-stream") (memory $memory)))
  (core func $read-directory (canon lower (func $files "[method]descriptor.read-directory") (memory $memory)))
  (core func $preopens (canon lower (func $preopens "get-directories") (memory $memory) (realloc $realloc)))
  (core func $tcp-create (canon lower (func $sockets "[static]tcp-socket.create") (memory $memory) (realloc $realloc)))
  (core func $tcp-bind (canon lower (func $sockets "[method]tcp-socket.bind") (memory $memory) (realloc $realloc)))
  (core func $tcp-connect (canon lower (func $sockets "[method]tcp-socket.connect") (memory $memory) (realloc $realloc)))
  (core func $tcp-listen (canon lower (func $sockets "[method]tcp-socket.listen") (memory $memory) (realloc $realloc)))
  (core func $tcp-local (canon lower (func $sockets "[method]tcp-socket.get-local-address") (memory $memory) (realloc $realloc)))
  (core func $tcp-remote (canon lower (func $sockets "[method]tcp-socket.get-remote-address") (memory $memory) (realloc $realloc)))
  (core func $udp-create (canon lower (func $sockets "[static]udp-socket.create") (memory $memory) (realloc $realloc)))
  (core func $udp-connect (canon lower (func $sockets "[method]udp-socket.connect") (memory $memory) (realloc $realloc)))
  (core func $udp-disconnect (canon lower (func $sockets "[method]udp-socket.disconnect") (memory $memory) (realloc $realloc)))
  (core func $udp-send (canon lower (func $sockets "[method]udp-socket.send") (memory $memory) (realloc $realloc)))
  (core func $udp-receive (canon lower (func $sockets "[method]udp-socket.receive") (memory $memory) (realloc $realloc)))
  (core func $udp-local (canon lower (func $sockets "[method]udp-socket.get-local-address") (memory $memory) (realloc $realloc)))
  (core func $resolve (canon lower (func $names "resolve-addresses") (memory $memory) (realloc $realloc)))
  (core func $stream.new (canon stream.new $bytes))
  (core func $stream.write (canon stream.write $bytes async (memory $memory)))
  (core func $stream.read (canon stream.read $bytes async (memory $memory)))
  (core func $stream.close (canon stream.drop-writable $bytes))
  (core func $entries.read (canon stream.read $entries async (memory $memory) (realloc $realloc)))
  (core func $connections.read (canon stream.read $connections async (memory $memory)))
  (core func $written.read (canon future.read $written async (memory $memory)))
  (core func $listed.read (canon future.read $listed async (memory $memory) (realloc $realloc)))
  (core func $set.new (canon waitable-set.new))
  (core func $set.wait (canon waitable-set.wait (memory $memory)))
  (core func $join (canon waitable.join))

  (core module $guest
    (import "libc" "memory" (memory 4))
    (import "host" "stdout" (func $stdout (param i32) (result i32)))
    (import "host" "stdin" (func $stdin (param i32)))
    (import "host" "exit" (func $exit (param i32)))
    (import "host" "exit-with" (func $exit-with (param i32)))
    (import "host" "terminal" (func $terminal (param i32)))
    (import "host" "now" (func $now (result i64)))
    (import "host" "wait-for" (func $wait-for (param i64)))
    (import "host" "random" (func $random (param i64 i32)))
    (import "host" "open-at" (func $open-at (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "mkdir" (func $mkdir (param i32 i32 i32 i32)))
    (import "host" "read-file" (func $read-file (param i32 i64 i32)))
    (import "host" "read-directory" (func $read-directory (param i32 i32)))
    (import "host" "preopens" (func $preopens (param i32)))
    (import "host" "tcp-create" (func $tcp-create (param i32 i32)))
    (import "host" "tcp-bind" (func $tcp-bind
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "tcp-connect" (func $tcp-connect
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "tcp-listen" (func $tcp-listen (param i32 i32)))
    (import "host" "tcp-local" (func $tcp-local (param i32 i32)))
    (import "host" "tcp-remote" (func $tcp-remote (param i32 i32)))
    (import "host" "udp-create" (func $udp-create (param i32 i32)))
    (import "host" "udp-connect" (func $udp-connect
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "udp-disconnect" (func $udp-disconnect (param i32 i32)))
    (import "host" "udp-send" (func $udp-send
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "udp-receive" (func $udp-receive (param i32 i32)))
    (import "host" "udp-local" (func $udp-local (param i32 i32)))
    (import "host" "resolve" (func $resolve (param i32 i32 i32)))
    (import "host" "stream.new" (func $stream.new (result i64)))
    (import "host" "stream.write" (func $stream.write (param i32 i32 i32) (result i32)))
    (import "host" "stream.read" (func $stream.read (param i32 i32 i32) (result i32)))
    (import "host" "stream.close" (func $stream.close (param i32)))
    (import "host" "entries.read" (func $entries.read (param i32 i32 i32) (result i32)))
    (import "host" "connections.read" (func $connections.read (param i32 i32 i32) (result i32)))
    (import "host" "written.read" (func $written.read (param i32 i32) (result i32)))
    (import "host" "listed.read" (func $listed.read (param i32 i32) (result i32)))
    (import "host" "set.new" (func $set.new (result i32)))
    (import "host" "set.wait" (func $set.wait (param i32 i32) (result i32)))
    (import "host" "join" (func $join (param i32 i32)))

    ;; What has come of an operation, for which is waited if it has not come at once.
    (func $outcome (param $waitable i32) (param $code i32) (result i32)
      (local $set i32)
      (if (i32.ne (local.get $code) (i32.const -1)) (then (return (local.get $code))))
      (local.set $set (call $set.new))
      (call $join (local.get $waitable) (local.get $set))
      (drop (call $set.wait (local.get $set) (i32.const 0xff00)))
      (call $join (local.get $waitable) (i32.const 0))
      (i32.load (i32.const 0xff04)))

    ;; Writes to standard output, and waits until all of it has arrived.
    (func $print (param $at i32) (param $size i32)
      (local $pair i64) (local $writer i32) (local $done i32) (local $written i32)
      (local.set $pair (call $stream.new))
      (local.set $writer (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
      (local.set $done (call $stdout (i32.wrap_i64 (local.get $pair))))
      (loop $more
        (local.set $written (i32.shr_u
          (call $outcome (local.get $writer)
            (call $stream.write (local.get $writer) (local.get $at) (local.get $size)))
          (i32.const 4)))
        (local.set $at (i32.add (local.get $at) (local.get $written)))
        (local.set $size (i32.sub (local.get $size) (local.get $written)))
        (br_if $more (local.get $size)))
      (call $stream.close (local.get $writer))
      (drop (call $outcome (local.get $done) (call $written.read (local.get $done) (i32.const 0xff10)))))

    ;; Prints a number and a space.
    (func $print-number (param $number i32)
      (local $at i32)
      (local.set $at (i32.const 0xff80))
      (i32.store8 (local.get $at) (i32.const 32))
      (loop $digits
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
        (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
        (br_if $digits (local.get $number)))
      (call $print (local.get $at) (i32.sub (i32.const 0xff81) (local.get $at))))

    ;; The first directory.
    (func $root (result i32)
      (call $preopens (i32.const 0xff20))
      (i32.load (i32.load (i32.const 0xff20))))

    ;; The error of a result: its number and 1, or 0.
    (func $error (param $result i32) (result i32)
      (if (i32.load8_u (local.get $result))
        (then (return (i32.add (i32.const 1) (i32.load8_u (i32.add (local.get $result) (i32.const 4)))))))
      (i32.const 0))

    BODY)

  (core instance $guest (instantiate $guest
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "stdout" (func $stdout)) (export "stdin" (func $stdin)) (export "exit" (func $exit))
      (export "exit-with" (func $exit-with)) (export "terminal" (func $terminal)) (export "now" (func $now))
      (export "wait-for" (func $wait-for)) (export "random" (func $random)) (export "open-at" (func $open-at))
      (export "mkdir" (func $mkdir)) (export "read-file" (func $read-file))
      (export "read-directory" (func $read-directory)) (export "preopens" (func $preopens))
      (export "tcp-create" (func $tcp-create)) (export "tcp-bind" (func $tcp-bind))
      (export "tcp-connect" (func $tcp-connect)) (export "tcp-listen" (func $tcp-listen))
      (export "tcp-local" (func $tcp-local)) (export "tcp-remote" (func $tcp-remote))
      (export "udp-create" (func $udp-create)) (export "udp-connect" (func $udp-connect))
      (export "udp-disconnect" (func $udp-disconnect)) (export "udp-send" (func $udp-send)) (export "udp-receive" (func $udp-receive))
      (export "udp-local" (func $udp-local))
      (export "resolve" (func $resolve)) (export "stream.new" (func $stream.new))
      (export "stream.write" (func $stream.write)) (export "stream.read" (func $stream.read))
      (export "stream.close" (func $stream.close)) (export "entries.read" (func $entries.read))
      (export "connections.read" (func $connections.read)) (export "written.read" (func $written.read))
      (export "listed.read" (func $listed.read)) (export "set.new" (func $set.new))
      (export "set.wait" (func $set.wait)) (export "join" (func $join))))))

  (func $run async (result (result)) (canon lift (core func $guest "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $command)))
