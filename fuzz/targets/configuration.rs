#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kubewasm_kubelet::fuzzing::configuration(data));
