//! What a fuzzer calls, in a build for one (`make fuzz`). Each reads something that comes from elsewhere, and checks what must
//! hold whatever that is; the fuzzer looks for panics, for memory without bound, and for inputs that take long.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "what a fuzzer is to find")]

use crate::config;

/// A configuration: the text of a file, that of a drop-in, and flags with their values, with zeroes between them.
pub fn configuration(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let mut parts = text.split('\0');
        let (file, drop_in) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let parts: Vec<_> = parts.collect();
        let flags: Vec<_> =
            parts.chunks(2).map(|pair| (pair[0], pair.get(1).copied().unwrap_or_default())).collect();
        config::read_layers(file, drop_in, &flags);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn what_fuzzers_begin_with_is_read() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/configuration");
        let mut seen = 0;
        for seed in fs::read_dir(seeds).unwrap() {
            super::configuration(&fs::read(seed.unwrap().path()).unwrap());
            seen += 1;
        }
        assert_eq!(seen, 3);
    }
}
