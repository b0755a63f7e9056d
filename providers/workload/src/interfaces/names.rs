//! Keys as names of files: one name for each key, of which none leads out of its folder.

/// Bytes of a file's name on Linux.
const LONGEST: usize = 255;

/// The name of a key's file: the key itself where it can be one. Of what cannot be in a name, and of a dot at the beginning,
/// there is the number of each byte after a `%`; so no name begins with a dot, and those are free for the host's own.
///
/// `None` for what is too long, and for the empty key.
pub(super) fn encode(key: &str) -> Option<String> {
    let mut name = String::with_capacity(key.len());
    for (index, c) in key.char_indices() {
        if c == '/' || c == '%' || c.is_control() || (c == '.' && index == 0) {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                name.push_str(&format!("%{byte:02X}"));
            }
        } else {
            name.push(c);
        }
    }
    (1..=LONGEST).contains(&name.len()).then_some(name)
}

/// The key of a name. `None` where it is none of ours.
pub(super) fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            rest = after;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_name_leads_out_of_its_folder() {
        for (key, name) in [
            ("key", "key"),
            (".", "%2E"),
            ("..", "%2E."),
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            ("/etc", "%2Fetc"),
            ("a\0b", "a%00b"),
            ("%2F", "%252F"),
            (".lock", "%2Elock"),
            ("grün", "grün"),
        ] {
            assert_eq!(encode(key).as_deref(), Some(name));
        }
        assert_eq!(encode(""), None);
        assert_eq!(encode(&"k".repeat(256)), None);
    }

    proptest! {
        #[test]
        fn names_are_of_one_key_each(key in "\\PC{1,40}|[./%\\x00-\\x1f]{1,8}") {
            let name = encode(&key).unwrap();
            prop_assert!(!name.contains(['/', '\0']) && !name.starts_with('.'));
            prop_assert_eq!(decode(&name), Some(key));
        }
    }
}
