#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kubewasm_streams::fuzzing::message(data));
