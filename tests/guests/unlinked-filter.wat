;; A filter that looks like one for Envoy (proxy-wasm 0.2.1), and that no Envoy can run: nobody has the function that it wants.
(module
  (import "env" "proxy_read_minds" (func $read (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32) (i32.const 0))
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32) (call $read (i32.const 0))))
