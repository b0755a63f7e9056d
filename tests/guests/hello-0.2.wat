;; A WASI 0.2 command component: prints one line and succeeds.
(component
  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))

  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $error (type $error))
    (export "output-stream" (type $output-stream (sub resource)))
    (type $stream-error (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $named-stream-error (eq $stream-error)))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $output-stream))
      (param "contents" (list u8))
      (result (result (error $named-stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))

  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $outer-output-stream))
    (export "output-stream" (type $output-stream (eq $outer-output-stream)))
    (export "get-stdout" (func (result (own $output-stream))))))

  (core module $memory
    (memory (export "memory") 1)
    (data (i32.const 16) "hello from a component\n"))
  (core instance $memory (instantiate $memory))

  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower
    (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $memory "memory"))))

  (core module $program
    (import "host" "get-stdout" (func $get-stdout (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (func (export "run") (result i32)
      ;; Stream, text, length, and 4 bytes at address 0 for the outcome.
      (call $write (call $get-stdout) (i32.const 16) (i32.const 23) (i32.const 0))
      (i32.const 0)))
  (core instance $program (instantiate $program
    (with "host" (instance
      (export "get-stdout" (func $get-stdout))
      (export "write" (func $write))))))

  (func $run (result (result)) (canon lift (core func $program "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
