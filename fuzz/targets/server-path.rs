#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kubewasm_kubelet::server::fuzzing::path(data));
