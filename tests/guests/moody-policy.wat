;; An admission policy that does what is written in the document that it is given, whatever that is about: `please-trap`,
;; `please-spin`, `please-babble`, `please-refuse`. Otherwise it accepts, and takes all settings.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  ;; A vector at 0, a count at 8, texts from 64, the document from 4096.
  (memory (export "memory") 64)
  (data (i32.const 64) "please-trap")
  (data (i32.const 80) "please-spin")
  (data (i32.const 96) "please-babble")
  (data (i32.const 112) "please-refuse")
  (data (i32.const 128) "{\"accepted\":true,\"valid\":true}")
  (data (i32.const 192) "{\"accepted\":false,\"message\":\"as you please\"}")
  (data (i32.const 256) "well, well")
  (global $end (mut i32) (i32.const 4096))

  (func $read_all
    (loop $more
      (i32.store (i32.const 0) (global.get $end))
      (i32.store (i32.const 4) (i32.const 65536))
      (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (global.set $end (i32.add (global.get $end) (i32.load (i32.const 8))))
      (br_if $more (i32.load (i32.const 8)))))

  (func $is_at (param $text i32) (param $length i32) (param $at i32) (result i32)
    (local $i i32)
    (loop $next
      (if (i32.ne
            (i32.load8_u (i32.add (local.get $text) (local.get $i)))
            (i32.load8_u (i32.add (local.get $at) (local.get $i))))
        (then (return (i32.const 0))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $length))))
    (i32.const 1))

  (func $has (param $text i32) (param $length i32) (result i32)
    (local $at i32)
    (local.set $at (i32.const 4096))
    (loop $next
      (if (call $is_at (local.get $text) (local.get $length) (local.get $at)) (then (return (i32.const 1))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (global.get $end))))
    (i32.const 0))

  (func $say (param $text i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $text))
    (i32.store (i32.const 4) (local.get $length))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable)))

  (func (export "_start")
    (call $read_all)
    (if (call $has (i32.const 64) (i32.const 11)) (then unreachable))
    (if (call $has (i32.const 80) (i32.const 11)) (then (loop $for_ever (br $for_ever))))
    (if (call $has (i32.const 96) (i32.const 13)) (then (call $say (i32.const 256) (i32.const 10)) (return)))
    (if (call $has (i32.const 112) (i32.const 13)) (then (call $say (i32.const 192) (i32.const 44)) (return)))
    (call $say (i32.const 128) (i32.const 30))))
