;; The program of files-0.2.wat for WASI 0.3: it does five things with files below `/` and prints what came of each: `ok`, or
;; the number that the error code has in 0.2, which is one more.
;;
;;   open data/pipe to read it
;;   open ro/file to write to it
;;   make the directory ro/dir
;;   rename data/file to moved
;;   make the file data/new
(component
  (import "wasi:filesystem/types@0.3.0" (instance $files
    (export "descriptor" (type $descriptor (sub resource)))
    (type $descriptor-flags-of (flags "read" "write" "file-integrity-sync" "data-integrity-sync"
      "requested-write-sync" "mutate-directory"))
    (export "descriptor-flags" (type $descriptor-flags (eq $descriptor-flags-of)))
    (type $path-flags-of (flags "symlink-follow"))
    (export "path-flags" (type $path-flags (eq $path-flags-of)))
    (type $open-flags-of (flags "create" "directory" "exclusive" "truncate"))
    (export "open-flags" (type $open-flags (eq $open-flags-of)))
    (type $error-code-of (variant
      (case "access") (case "already") (case "bad-descriptor") (case "busy") (case "deadlock") (case "quota")
      (case "exist") (case "file-too-large") (case "illegal-byte-sequence") (case "in-progress") (case "interrupted")
      (case "invalid") (case "io") (case "is-directory") (case "loop") (case "too-many-links") (case "message-size")
      (case "name-too-long") (case "no-device") (case "no-entry") (case "no-lock") (case "insufficient-memory")
      (case "insufficient-space") (case "not-directory") (case "not-empty") (case "not-recoverable")
      (case "unsupported") (case "no-tty") (case "no-such-device") (case "overflow") (case "not-permitted")
      (case "pipe") (case "read-only") (case "invalid-seek") (case "text-file-busy") (case "cross-device")
      (case "other" (option string))))
    (export "error-code" (type $error-code (eq $error-code-of)))
    (export "[method]descriptor.open-at" (func async
      (param "self" (borrow $descriptor)) (param "path-flags" $path-flags) (param "path" string)
      (param "open-flags" $open-flags) (param "flags" $descriptor-flags)
      (result (result (own $descriptor) (error $error-code)))))
    (export "[method]descriptor.create-directory-at" (func async
      (param "self" (borrow $descriptor)) (param "path" string) (result (result (error $error-code)))))
    (export "[method]descriptor.rename-at" (func async
      (param "self" (borrow $descriptor)) (param "old-path" string)
      (param "new-descriptor" (borrow $descriptor)) (param "new-path" string)
      (result (result (error $error-code)))))))
  (alias export $files "descriptor" (type $descriptor))

  (import "wasi:filesystem/preopens@0.3.0" (instance $preopens
    (alias outer 1 $descriptor (type $outer-descriptor))
    (export "descriptor" (type $descriptor (eq $outer-descriptor)))
    (export "get-directories" (func (result (list (tuple (own $descriptor) string)))))))

  (import "wasi:cli/types@0.3.0" (instance $types
    (type $error-code-of (enum "io" "illegal-byte-sequence" "pipe"))
    (export "error-code" (type (eq $error-code-of)))))
  (alias export $types "error-code" (type $cli-code))
  (import "wasi:cli/stdout@0.3.0" (instance $stdout
    (alias outer 1 $cli-code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (export "write-via-stream" (func (param "data" (stream u8)) (result (future (result (error $code))))))))
  (type $bytes (stream u8))

  ;; Outcomes of calls at 0, paths from 64 on, lines at 1024, and what the host allocates from 4096 on.
  (core module $memory
    (memory (export "memory") 1)
    (data (i32.const 64) "data/pipero/filero/dirdata/filemoveddata/new")
    (global $free (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $free)
      (global.set $free
        (i32.and (i32.add (i32.add (global.get $free) (local.get 3)) (i32.const 7)) (i32.const -8)))))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))
  (alias core export $memory "realloc" (core func $realloc))

  (core func $get-directories (canon lower (func $preopens "get-directories")
    (memory $mem) (realloc $realloc)))
  (core func $open (canon lower (func $files "[method]descriptor.open-at") (memory $mem) (realloc $realloc)))
  (core func $mkdir (canon lower (func $files "[method]descriptor.create-directory-at") (memory $mem) (realloc $realloc)))
  (core func $rename (canon lower (func $files "[method]descriptor.rename-at") (memory $mem) (realloc $realloc)))
  (core func $stdout (canon lower (func $stdout "write-via-stream")))
  (core func $new (canon stream.new $bytes))
  (core func $write (canon stream.write $bytes async (memory $mem)))

  (core module $program
    (import "memory" "memory" (memory 1))
    (import "host" "get-directories" (func $get-directories (param i32)))
    (import "host" "open" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "mkdir" (func $mkdir (param i32 i32 i32 i32)))
    (import "host" "rename" (func $rename (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "stdout" (func $stdout (param i32) (result i32)))
    (import "host" "new" (func $new (result i64)))
    (import "host" "write" (func $write (param i32 i32 i32) (result i32)))
    (global $end (mut i32) (i32.const 1024))

    (func $put (param $byte i32)
      (i32.store8 (global.get $end) (local.get $byte))
      (global.set $end (i32.add (global.get $end) (i32.const 1))))

    ;; One line about the outcome at 0.
    (func $tell
      (local $code i32)
      (if (i32.load8_u (i32.const 0))
        (then
          (local.set $code (i32.add (i32.load8_u (i32.const 4)) (i32.const 1)))
          (call $put (i32.add (i32.const 48) (i32.div_u (local.get $code) (i32.const 10))))
          (call $put (i32.add (i32.const 48) (i32.rem_u (local.get $code) (i32.const 10)))))
        (else
          (call $put (i32.const 111))
          (call $put (i32.const 107))))
      (call $put (i32.const 10)))

    (func (export "run") (result i32)
      (local $root i32) (local $pair i64)
      (call $get-directories (i32.const 0))
      ;; The first directory of the list.
      (local.set $root (i32.load (i32.load (i32.const 0))))

      (call $open (local.get $root) (i32.const 1) (i32.const 64) (i32.const 9)
        (i32.const 0) (i32.const 1) (i32.const 0))
      (call $tell)
      (call $open (local.get $root) (i32.const 1) (i32.const 73) (i32.const 7)
        (i32.const 0) (i32.const 2) (i32.const 0))
      (call $tell)
      (call $mkdir (local.get $root) (i32.const 80) (i32.const 6) (i32.const 0))
      (call $tell)
      (call $rename (local.get $root) (i32.const 86) (i32.const 9)
        (local.get $root) (i32.const 95) (i32.const 5) (i32.const 0))
      (call $tell)
      (call $open (local.get $root) (i32.const 1) (i32.const 100) (i32.const 8)
        (i32.const 1) (i32.const 2) (i32.const 0))
      (call $tell)

      ;; There is room for so little at once.
      (local.set $pair (call $new))
      (drop (call $stdout (i32.wrap_i64 (local.get $pair))))
      (drop (call $write (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))) (i32.const 1024)
        (i32.sub (global.get $end) (i32.const 1024))))
      (i32.const 0)))
  (core instance $program (instantiate $program
    (with "memory" (instance $memory))
    (with "host" (instance
      (export "get-directories" (func $get-directories))
      (export "open" (func $open))
      (export "mkdir" (func $mkdir))
      (export "rename" (func $rename))
      (export "stdout" (func $stdout))
      (export "new" (func $new))
      (export "write" (func $write))))))

  (func $run async (result (result)) (canon lift (core func $program "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $command)))
