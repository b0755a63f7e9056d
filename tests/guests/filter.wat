;; A filter of HTTP for Envoy (proxy-wasm 0.2.1). Each response gets three headers: `protocol`, with the text at $PROTOCOL,
;; `vm-configuration` and `plugin-configuration`. A plugin configuration that begins with an exclamation mark is refused.
(module
  (import "env" "proxy_get_buffer_bytes" (func $read (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  ;; Where a header's value is, and its size: 0 of the VM's configuration, 8 of the plugin's.
  (data (i32.const 16) "vm-configurationplugin-configurationprotocol")
  ;; Up to the next zero.
  (data $PROTOCOL (i32.const 256) "unknown\00")
  (global $free (mut i32) (i32.const 4096))

  (func (export "proxy_abi_version_0_2_1"))
  ;; A configuration stays for as long as the VM: only the newest is of use, and there are few of them.
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free (i32.add (global.get $free) (local.get $size)))
    (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))))))
    (local.get $at))

  ;; Buffer 6 is the configuration of the VM, 7 that of the plugin. One that is empty is not there.
  (func $keep (param $buffer i32) (param $size i32) (param $place i32)
    (i64.store (local.get $place) (i64.const 0))
    (drop (call $read (local.get $buffer) (i32.const 0) (local.get $size) (local.get $place)
      (i32.add (local.get $place) (i32.const 4)))))
  (func (export "proxy_on_vm_start") (param $context i32) (param $size i32) (result i32)
    (call $keep (i32.const 6) (local.get $size) (i32.const 0))
    (i32.const 1))
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32)
    (call $keep (i32.const 7) (local.get $size) (i32.const 8))
    (i32.or (i32.eqz (local.get $size)) (i32.ne (i32.load8_u (i32.load (i32.const 8))) (i32.const 33))))

  ;; Map 2 has the headers of the response.
  (func $header (param $name i32) (param $length i32) (param $value i32) (param $size i32)
    (drop (call $add (i32.const 2) (local.get $name) (local.get $length) (local.get $value) (local.get $size))))
  (func (export "proxy_on_response_headers") (param $context i32) (param $count i32) (param $is_end i32) (result i32)
    (local $size i32)
    (loop $next
      (if (i32.load8_u (i32.add (i32.const 256) (local.get $size)))
        (then (local.set $size (i32.add (local.get $size) (i32.const 1))) (br $next))))
    (call $header (i32.const 52) (i32.const 8) (i32.const 256) (local.get $size))
    (call $header (i32.const 16) (i32.const 16) (i32.load (i32.const 0)) (i32.load (i32.const 4)))
    (call $header (i32.const 32) (i32.const 20) (i32.load (i32.const 8)) (i32.load (i32.const 12)))
    (i32.const 0)))
