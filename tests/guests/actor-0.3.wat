;; What makes a component of actor-0.3.c: the imports of that program, in the text format of components, and a place for it.
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
  (import "wasi:cli/stdin@0.3.0" (instance $stdin
    (alias outer 1 $cli-code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (export "read-via-stream" (func (result (tuple (stream u8) (future (result (error $code)))))))))
  (import "wasi:cli/exit@0.3.0" (instance $exit
    (export "exit-with-code" (func (param "status-code" u8)))))
  (import "wasi:sockets/types@0.3.0" (instance $sockets
    (type $any-v4 (tuple u8 u8 u8 u8))
    (export "ipv4-address" (type $v4 (eq $any-v4)))
    (type $any-v6 (tuple u16 u16 u16 u16 u16 u16 u16 u16))
    (export "ipv6-address" (type $v6 (eq $any-v6)))
    (type $any-ip (variant (case "ipv4" $v4) (case "ipv6" $v6)))
    (export "ip-address" (type (eq $any-ip)))))
  (alias export $sockets "ip-address" (type $ip))
  (import "wasi:sockets/ip-name-lookup@0.3.0" (instance $names
    (alias outer 1 $ip (type $outer-ip))
    (export "ip-address" (type $ip (eq $outer-ip)))
    (type $any-code (variant
      (case "access-denied") (case "invalid-argument") (case "name-unresolvable") (case "temporary-resolver-failure")
      (case "permanent-resolver-failure") (case "other" (option string))))
    (export "error-code" (type $code (eq $any-code)))
    (export "resolve-addresses" (func async (param "name" string) (result (result (list $ip) (error $code)))))))
  (type $bytes (stream u8))
  (type $printed (future (result (error $cli-code))))

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
  (core func $bytes.new (canon stream.new $bytes))
  (core func $bytes.read (canon stream.read $bytes async (memory $m)))
  (core func $bytes.write (canon stream.write $bytes async (memory $m)))
  (core func $bytes.drop-readable (canon stream.drop-readable $bytes))
  (core func $bytes.drop-writable (canon stream.drop-writable $bytes))
  (core func $printed.read (canon future.read $printed async (memory $m)))
  (core func $printed.drop (canon future.drop-readable $printed))
  (core func $set.new (canon waitable-set.new))
  (core func $set.wait (canon waitable-set.wait (memory $m)))
  (core func $join (canon waitable.join))
  (core func $stdin.read (canon lower (func $stdin "read-via-stream") (memory $m)))
  (core func $exit.with-code (canon lower (func $exit "exit-with-code")))
  (core func $names.resolve (canon lower (func $names "resolve-addresses") (memory $m) (realloc $r)))

  ;; Here comes the program: the second module. No names, so that it is as short as a module can be.
  (core module)
  (core instance $program (instantiate 1
    (with "env" (instance (export "memory" (memory $m))))
    (with "wasi:cli/environment@0.3.0" (instance (export "get-arguments" (func $environment.get-arguments))))
    (with "wasi:cli/stdout@0.3.0" (instance (export "write-via-stream" (func $stdout.write))))
    (with "wasi:cli/stdin@0.3.0" (instance (export "read-via-stream" (func $stdin.read))))
    (with "wasi:cli/exit@0.3.0" (instance (export "exit-with-code" (func $exit.with-code))))
    (with "wasi:sockets/ip-name-lookup@0.3.0" (instance (export "resolve-addresses" (func $names.resolve))))
    (with "streams" (instance
      (export "bytes.new" (func $bytes.new))
      (export "bytes.read" (func $bytes.read))
      (export "bytes.write" (func $bytes.write))
      (export "bytes.drop-readable" (func $bytes.drop-readable))
      (export "bytes.drop-writable" (func $bytes.drop-writable))
      (export "printed.read" (func $printed.read))
      (export "printed.drop-readable" (func $printed.drop))
      (export "set.new" (func $set.new))
      (export "set.wait" (func $set.wait))
      (export "join" (func $join))))))

  (func $run async (result (result)) (canon lift (core func $program "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $command)))
