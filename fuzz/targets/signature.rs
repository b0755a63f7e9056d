#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kubewasm_modules::fuzzing::signature(data));
