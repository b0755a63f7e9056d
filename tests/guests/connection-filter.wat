;; A filter of connections for Envoy (proxy-wasm 0.2.1): the plugin's configuration comes before what a client sends first.
(module
  (import "env" "proxy_get_buffer_bytes" (func $read (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_buffer_bytes" (func $write (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 4096))

  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (global.set $free (i32.add (global.get $free) (local.get $size)))
    (i32.sub (global.get $free) (local.get $size)))
  (func (export "proxy_on_vm_start") (param $context i32) (param $size i32) (result i32) (i32.const 1))
  ;; Buffer 7 is the configuration of the plugin; where it is stays at 0, and its size at 4.
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32)
    (drop (call $read (i32.const 7) (i32.const 0) (local.get $size) (i32.const 0) (i32.const 4)))
    (i32.const 1))
  ;; Buffer 2 has what came from the client; nothing of it is replaced.
  (func (export "proxy_on_downstream_data") (param $context i32) (param $size i32) (param $is_end i32) (result i32)
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 0) (i32.load (i32.const 0)) (i32.load (i32.const 4))))
    (i32.const 0)))
