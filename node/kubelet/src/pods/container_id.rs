//! Container ids.

use sha2::{Digest, Sha256};

/// The id of one attempt of one container: 64 hexadecimal digits, as container runtimes make them.
///
/// It is computed rather than drawn, so an agent that lost its memory between deciding to start an
/// attempt and noting that it did still knows what to ask the provider about.
#[must_use]
pub fn container_id(pod_uid: &str, container: &str, attempt: u32) -> String {
    let mut hash = Sha256::new();
    // UIDs and container names hold no NUL, so the parts cannot run into each other.
    hash.update(pod_uid.as_bytes());
    hash.update([0]);
    hash.update(container.as_bytes());
    hash.update([0]);
    hash.update(attempt.to_be_bytes());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_containers_and_pods_have_ids_of_their_own() {
        let ids = [
            container_id("u", "c", 0),
            container_id("u", "c", 1),
            container_id("u", "d", 0),
            container_id("uc", "", 0),
        ];
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(id.len(), 64);
            assert!(id.bytes().all(|b| b.is_ascii_hexdigit()));
            assert!(!ids.iter().skip(i + 1).any(|other| other == id));
        }
        assert_eq!(ids.first(), Some(&container_id("u", "c", 0)));
    }
}
