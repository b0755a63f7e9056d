;; What makes a component of names-0.2.c: the imports of that program, in the text format of components, and a place for it.
(component
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-arguments" (func (result (list string))))))
  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $error (type $error))
    (export "output-stream" (type $output-stream (sub resource)))
    (type $any-stream-error (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $any-stream-error)))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $output-stream)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $outer-output-stream))
    (export "output-stream" (type $output-stream (eq $outer-output-stream)))
    (export "get-stdout" (func (result (own $output-stream))))))
  (import "wasi:sockets/network@0.2.0" (instance $net
    (export "network" (type (sub resource)))
    (type $any-code (enum
      "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout" "concurrency-conflict"
      "not-in-progress" "would-block" "invalid-state" "new-socket-limit" "address-not-bindable" "address-in-use"
      "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted" "datagram-too-large"
      "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
    (export "error-code" (type (eq $any-code)))
    (type $any-v4 (tuple u8 u8 u8 u8))
    (export "ipv4-address" (type $v4 (eq $any-v4)))
    (type $any-v6 (tuple u16 u16 u16 u16 u16 u16 u16 u16))
    (export "ipv6-address" (type $v6 (eq $any-v6)))
    (type $any-address (variant (case "ipv4" $v4) (case "ipv6" $v6)))
    (export "ip-address" (type (eq $any-address)))))
  (alias export $net "network" (type $network))
  (alias export $net "error-code" (type $error-code))
  (alias export $net "ip-address" (type $ip-address))
  (import "wasi:sockets/instance-network@0.2.0" (instance $instance-network
    (alias outer 1 $network (type $outer-network))
    (export "network" (type $network (eq $outer-network)))
    (export "instance-network" (func (result (own $network))))))
  (import "wasi:sockets/ip-name-lookup@0.2.0" (instance $names
    (alias outer 1 $network (type $outer-network))
    (export "network" (type $network (eq $outer-network)))
    (alias outer 1 $error-code (type $outer-error-code))
    (export "error-code" (type $error-code (eq $outer-error-code)))
    (alias outer 1 $ip-address (type $outer-ip-address))
    (export "ip-address" (type $ip-address (eq $outer-ip-address)))
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (export "resolve-address-stream" (type $stream (sub resource)))
    (export "[method]resolve-address-stream.resolve-next-address" (func
      (param "self" (borrow $stream)) (result (result (option $ip-address) (error $error-code)))))
    (export "[method]resolve-address-stream.subscribe" (func
      (param "self" (borrow $stream)) (result (own $pollable))))
    (export "resolve-addresses" (func
      (param "network" (borrow $network)) (param "name" string)
      (result (result (own $stream) (error $error-code)))))))
  (alias export $names "resolve-address-stream" (type $stream))

  ;; The memory, of which the program uses the first half; in the second are the lists that the host hands over.
  (core module $memory
    (memory (export "memory") 16)
    (global $next (mut i32) (i32.const 0x80000))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $found i32)
      (local.set $found (global.get $next))
      (global.set $next
        (i32.and (i32.add (i32.add (local.get $found) (local.get 3)) (i32.const 7)) (i32.const -8)))
      (local.get $found)))
  (core instance $memory (instantiate $memory))
  (core func $environment.get-arguments (canon lower (func $environment "get-arguments")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $stdout.get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $poll.block (canon lower (func $poll "[method]pollable.block")))
  (core func $poll.drop (canon resource.drop $pollable))
  (core func $streams.write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $memory "memory"))))
  (core func $streams.drop (canon resource.drop $output-stream))
  (core func $instance-network.get (canon lower (func $instance-network "instance-network")))
  (core func $names.resolve (canon lower (func $names "resolve-addresses") (memory (core memory $memory "memory"))))
  (core func $names.next (canon lower (func $names "[method]resolve-address-stream.resolve-next-address")
    (memory (core memory $memory "memory"))))
  (core func $names.subscribe (canon lower (func $names "[method]resolve-address-stream.subscribe")))
  (core func $names.drop (canon resource.drop $stream))

  ;; The place of the program: the second module. No name, so that it is as short as a module can be.
  (core module)
  (core instance $program (instantiate 1
    (with "env" (instance (export "memory" (memory $memory "memory"))))
    (with "wasi:cli/environment@0.2.0" (instance
      (export "get-arguments" (func $environment.get-arguments))))
    (with "wasi:cli/stdout@0.2.0" (instance (export "get-stdout" (func $stdout.get-stdout))))
    (with "wasi:io/poll@0.2.0" (instance
      (export "[method]pollable.block" (func $poll.block))
      (export "[resource-drop]pollable" (func $poll.drop))))
    (with "wasi:io/streams@0.2.0" (instance
      (export "[method]output-stream.blocking-write-and-flush" (func $streams.write))
      (export "[resource-drop]output-stream" (func $streams.drop))))
    (with "wasi:sockets/instance-network@0.2.0" (instance
      (export "instance-network" (func $instance-network.get))))
    (with "wasi:sockets/ip-name-lookup@0.2.0" (instance
      (export "resolve-addresses" (func $names.resolve))
      (export "[method]resolve-address-stream.resolve-next-address" (func $names.next))
      (export "[method]resolve-address-stream.subscribe" (func $names.subscribe))
      (export "[resource-drop]resolve-address-stream" (func $names.drop))))))

  (func $run (result (result)) (canon lift (core func $program "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
