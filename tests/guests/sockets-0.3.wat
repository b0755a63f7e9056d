;; What makes a component of sockets-0.3.c: the imports of that program, in the text format of components, and a place for it.
(component
  (import "wasi:cli/environment@0.3.0" (instance $environment
    (export "get-arguments" (func (result (list string))))))
  (import "wasi:cli/types@0.3.0" (instance $cli
    (type $any-code (enum "io" "illegal-byte-sequence" "pipe"))
    (export "error-code" (type (eq $any-code)))))
  (alias export $cli "error-code" (type $cli-code))
  (import "wasi:cli/stdout@0.3.0" (instance $stdout
    (alias outer 1 $cli-code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (export "write-via-stream" (func (param "data" (stream u8)) (result (future (result (error $code))))))))
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
    (export "[method]tcp-socket.send" (func
      (param "self" (borrow $tcp)) (param "data" (stream u8)) (result (future $done))))
    (export "[method]tcp-socket.receive" (func
      (param "self" (borrow $tcp)) (result (tuple (stream u8) (future $done)))))
    (export "[method]tcp-socket.get-local-address" (func (param "self" (borrow $tcp)) (result $at)))
    (export "[method]tcp-socket.get-remote-address" (func (param "self" (borrow $tcp)) (result $at)))
    (export "[static]udp-socket.create" (func
      (param "address-family" $family) (result (result (own $udp) (error $code)))))
    (export "[method]udp-socket.bind" (func
      (param "self" (borrow $udp)) (param "local-address" $address) (result $done)))
    (export "[method]udp-socket.connect" (func
      (param "self" (borrow $udp)) (param "remote-address" $address) (result $done)))
    (export "[method]udp-socket.send" (func async
      (param "self" (borrow $udp)) (param "data" (list u8)) (param "remote-address" (option $address)) (result $done)))
    (export "[method]udp-socket.receive" (func async
      (param "self" (borrow $udp)) (result (result (tuple (list u8) $address) (error $code)))))
    (export "[method]udp-socket.get-local-address" (func (param "self" (borrow $udp)) (result $at)))))
  (alias export $sockets "tcp-socket" (type $tcp))
  (alias export $sockets "error-code" (type $code))
  (type $bytes (stream u8))
  (type $connections (stream (own $tcp)))
  (type $printed (future (result (error $cli-code))))
  (type $sent (future (result (error $code))))

  ;; The memory, of which the program uses the first half; in the second are the lists that the host hands over, which the
  ;; program does not keep: the newest take the place of the oldest.
  (core module $memory
    (memory (export "memory") 16)
    (global $next (mut i32) (i32.const 0x80000))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $found i32)
      (if (i32.gt_u (i32.add (global.get $next) (local.get 3)) (i32.const 0xffff0))
        (then (global.set $next (i32.const 0x80000))))
      (local.set $found (global.get $next))
      (global.set $next
        (i32.and (i32.add (i32.add (local.get $found) (local.get 3)) (i32.const 7)) (i32.const -8)))
      (local.get $found)))
  (core instance $lib (instantiate $memory))
  (alias core export $lib "memory" (core memory $m))
  (alias core export $lib "realloc" (core func $r))
  (core func $environment.get-arguments (canon lower (func $environment "get-arguments") (memory $m) (realloc $r)))
  (core func $stdout.write (canon lower (func $stdout "write-via-stream")))
  (core func $tcp.create (canon lower (func $sockets "[static]tcp-socket.create") (memory $m) (realloc $r)))
  (core func $tcp.bind (canon lower (func $sockets "[method]tcp-socket.bind") (memory $m) (realloc $r)))
  (core func $tcp.connect (canon lower (func $sockets "[method]tcp-socket.connect") (memory $m) (realloc $r)))
  (core func $tcp.listen (canon lower (func $sockets "[method]tcp-socket.listen") (memory $m) (realloc $r)))
  (core func $tcp.send (canon lower (func $sockets "[method]tcp-socket.send")))
  (core func $tcp.receive (canon lower (func $sockets "[method]tcp-socket.receive") (memory $m)))
  (core func $tcp.local (canon lower (func $sockets "[method]tcp-socket.get-local-address") (memory $m) (realloc $r)))
  (core func $tcp.remote (canon lower (func $sockets "[method]tcp-socket.get-remote-address") (memory $m) (realloc $r)))
  (core func $tcp.drop (canon resource.drop $tcp))
  (core func $udp.create (canon lower (func $sockets "[static]udp-socket.create") (memory $m) (realloc $r)))
  (core func $udp.bind (canon lower (func $sockets "[method]udp-socket.bind") (memory $m) (realloc $r)))
  (core func $udp.connect (canon lower (func $sockets "[method]udp-socket.connect") (memory $m) (realloc $r)))
  (core func $udp.send (canon lower (func $sockets "[method]udp-socket.send") (memory $m) (realloc $r)))
  (core func $udp.receive (canon lower (func $sockets "[method]udp-socket.receive") (memory $m) (realloc $r)))
  (core func $udp.local (canon lower (func $sockets "[method]udp-socket.get-local-address") (memory $m) (realloc $r)))
  (core func $bytes.new (canon stream.new $bytes))
  (core func $bytes.read (canon stream.read $bytes async (memory $m)))
  (core func $bytes.write (canon stream.write $bytes async (memory $m)))
  (core func $bytes.drop-readable (canon stream.drop-readable $bytes))
  (core func $bytes.drop-writable (canon stream.drop-writable $bytes))
  (core func $connections.read (canon stream.read $connections async (memory $m)))
  (core func $printed.read (canon future.read $printed async (memory $m)))
  (core func $printed.drop (canon future.drop-readable $printed))
  (core func $sent.read (canon future.read $sent async (memory $m) (realloc $r)))
  (core func $sent.drop (canon future.drop-readable $sent))
  (core func $set.new (canon waitable-set.new))
  (core func $set.wait (canon waitable-set.wait (memory $m)))
  (core func $join (canon waitable.join))

  ;; Here comes the program: the second module. No names, so that it is as short as a module can be.
  (core module)
  (core instance $program (instantiate 1
    (with "env" (instance (export "memory" (memory $m))))
    (with "wasi:cli/environment@0.3.0" (instance
      (export "get-arguments" (func $environment.get-arguments))))
    (with "wasi:cli/stdout@0.3.0" (instance
      (export "write-via-stream" (func $stdout.write))))
    (with "wasi:sockets/types@0.3.0" (instance
      (export "[static]tcp-socket.create" (func $tcp.create))
      (export "[method]tcp-socket.bind" (func $tcp.bind))
      (export "[method]tcp-socket.connect" (func $tcp.connect))
      (export "[method]tcp-socket.listen" (func $tcp.listen))
      (export "[method]tcp-socket.send" (func $tcp.send))
      (export "[method]tcp-socket.receive" (func $tcp.receive))
      (export "[method]tcp-socket.get-local-address" (func $tcp.local))
      (export "[method]tcp-socket.get-remote-address" (func $tcp.remote))
      (export "[resource-drop]tcp-socket" (func $tcp.drop))
      (export "[static]udp-socket.create" (func $udp.create))
      (export "[method]udp-socket.bind" (func $udp.bind))
      (export "[method]udp-socket.connect" (func $udp.connect))
      (export "[method]udp-socket.send" (func $udp.send))
      (export "[method]udp-socket.receive" (func $udp.receive))
      (export "[method]udp-socket.get-local-address" (func $udp.local))))
    (with "streams" (instance
      (export "bytes.new" (func $bytes.new))
      (export "bytes.read" (func $bytes.read))
      (export "bytes.write" (func $bytes.write))
      (export "bytes.drop-readable" (func $bytes.drop-readable))
      (export "bytes.drop-writable" (func $bytes.drop-writable))
      (export "connections.read" (func $connections.read))
      (export "printed.read" (func $printed.read))
      (export "printed.drop-readable" (func $printed.drop))
      (export "sent.read" (func $sent.read))
      (export "sent.drop-readable" (func $sent.drop))
      (export "set.new" (func $set.new))
      (export "set.wait" (func $set.wait))
      (export "join" (func $join))))))

  (func $run async (result (result)) (canon lift (core func $program "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $command)))
