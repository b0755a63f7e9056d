//! What plugins have made for pods of which nobody knows any more.

use std::{io, path::Path};

use super::{Sandboxes, blocking};
use crate::config::NetworkConfig;

impl Sandboxes {
    /// Once, after the start of the agent: has plugins take away what is of no sandbox of this node.
    ///
    /// Plugins keep books by the name of the network, and whatever is not named to them goes. Where another container
    /// runtime of this machine uses the same network, they are not asked.
    pub(super) async fn collect_garbage(&self, network: &NetworkConfig) {
        let _nobody_else = self.0.attachments.write().await;
        let (records, others) = (self.0.records.clone(), self.0.options.others_dir.clone());
        let prefix = format!("{}-", network.name);
        let list = move || Ok((records.all()?, has_files(&others, &prefix)));
        let listed = blocking(list).await;
        let (all, has_others) = match listed {
            Ok(listed) => listed,
            Err(error) => return tracing::warn!(%error, "CNI plugins are not told which sandboxes there are"),
        };
        if has_others {
            let dir = self.0.options.others_dir.display();
            return tracing::info!(
                network = network.name, %dir,
                "CNI plugins are not told which sandboxes there are: another container runtime has some, too"
            );
        }
        let here = all.into_iter().filter(|record| record.network.name == network.name);
        let ids: Vec<_> = here.map(|record| record.attachment.container_id).collect();
        if let Err(error) = self.chain(network).gc(&ids).await {
            tracing::warn!(%error, "CNI plugins have not removed all that is of no sandbox");
        }
    }
}

/// Whether a directory has files whose names begin so. One that cannot be read may have some.
fn has_files(dir: &Path, prefix: &str) -> bool {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(prefix)),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_known_by_what_they_keep() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_files(dir.path(), "net-"));
        assert!(!has_files(&dir.path().join("nonexistent"), "net-"));
        std::fs::write(dir.path().join("net-0123-eth0"), "").unwrap();
        assert!(has_files(dir.path(), "net-") && !has_files(dir.path(), "other-"));
        assert!(has_files(&dir.path().join("net-0123-eth0"), "net-"), "what cannot be read may have some");
    }
}
