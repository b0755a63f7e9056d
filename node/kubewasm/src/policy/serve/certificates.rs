//! The files of certificates, and the TLS that comes of them.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use kubewasm_policy::server::tls;
use rustls::ServerConfig;
use tokio::sync::watch;

/// Most bytes of a file, 1 MiB.
const LONGEST_FILE: u64 = 1 << 20;

/// Where certificates are.
#[derive(Debug)]
pub(super) struct CertificateFiles {
    /// That of the server, and its key; without, one is made.
    pub(super) pair: Option<(PathBuf, PathBuf)>,
    /// Authorities of clients.
    pub(super) client_ca: Option<PathBuf>,
}

/// What is in them.
#[derive(PartialEq, Eq)]
struct CertificateTexts {
    chain: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl CertificateTexts {
    fn config(&self) -> Result<Arc<ServerConfig>, tls::TlsFailure> {
        tls::server_config(&self.chain, &self.key, self.client_ca.as_deref())
    }
}

/// The files, as they were last seen.
pub(super) struct TlsFiles {
    files: CertificateFiles,
    /// A pair that was made here.
    made: Option<(String, String)>,
    /// What was last in them, good or not.
    seen: Option<CertificateTexts>,
    tls: watch::Sender<Arc<ServerConfig>>,
}

impl TlsFiles {
    /// Reads the files for the first time.
    pub(super) fn open(
        files: CertificateFiles,
    ) -> anyhow::Result<(Self, watch::Receiver<Arc<ServerConfig>>)> {
        let made = match files.pair {
            Some(_) => None,
            None => Some(tls::self_signed(["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec())?),
        };
        let texts = read(&files, made.as_ref())?;
        let (tls, receiver) = watch::channel(texts.config()?);
        Ok((Self { files, made, seen: Some(texts), tls }, receiver))
    }

    /// Looks whether the files have changed. New connections get what they say then; what cannot be used is told, and the old
    /// certificate goes on.
    pub(super) fn look(&mut self) {
        let texts = match read(&self.files, self.made.as_ref()) {
            Ok(texts) => texts,
            Err(error) => {
                // Once; they may be about to be replaced.
                if self.seen.take().is_some() {
                    tracing::error!(error = %format!("{error:#}"), "the old certificate goes on");
                }
                return;
            }
        };
        if self.seen.as_ref() == Some(&texts) {
            return;
        }
        match texts.config() {
            Ok(config) => {
                self.tls.send_replace(config);
                tracing::info!("the certificates were read again");
            }
            // A certificate and its key do not change in the same moment.
            Err(error) => tracing::error!(%error, "the new certificates cannot be used; the old ones go on"),
        }
        self.seen = Some(texts);
    }
}

fn read(files: &CertificateFiles, made: Option<&(String, String)>) -> anyhow::Result<CertificateTexts> {
    let (chain, key) = match (&files.pair, made) {
        (Some((chain, key)), _) => (read_file(chain)?, read_file(key)?),
        (None, Some((chain, key))) => (chain.clone().into_bytes(), key.clone().into_bytes()),
        (None, None) => Default::default(),
    };
    let client_ca = files.client_ca.as_deref().map(read_file).transpose()?;
    Ok(CertificateTexts { chain, key, client_ca })
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut text))
        .with_context(failed)?;
    ensure!(text.len() as u64 <= LONGEST_FILE, "{} has more than {} MiB", path.display(), LONGEST_FILE >> 20);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Case {
        dir: tempfile::TempDir,
        files: TlsFiles,
        tls: watch::Receiver<Arc<ServerConfig>>,
    }

    fn write(dir: &Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    fn pair() -> (String, String) {
        tls::self_signed(vec!["localhost".to_owned()]).unwrap()
    }

    fn case() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = pair();
        write(dir.path(), "tls.crt", &chain);
        write(dir.path(), "tls.key", &key);
        write(dir.path(), "ca.crt", &chain);
        let files = CertificateFiles {
            pair: Some((dir.path().join("tls.crt"), dir.path().join("tls.key"))),
            client_ca: Some(dir.path().join("ca.crt")),
        };
        let (files, mut tls) = TlsFiles::open(files).unwrap();
        tls.mark_unchanged();
        Case { dir, files, tls }
    }

    #[test]
    fn what_changes_is_served() {
        let Case { dir, mut files, mut tls } = case();
        files.look();
        assert!(!tls.has_changed().unwrap(), "nothing has changed");
        let (chain, key) = pair();
        write(dir.path(), "tls.crt", &chain);
        files.look();
        assert!(!tls.has_changed().unwrap(), "the key is the old one");
        write(dir.path(), "tls.key", &key);
        files.look();
        assert!(tls.has_changed().unwrap());
        tls.mark_unchanged();
        write(dir.path(), "ca.crt", &pair().0);
        files.look();
        assert!(tls.has_changed().unwrap());
    }

    #[test]
    fn what_is_gone_or_broken_changes_nothing() {
        let Case { dir, mut files, tls } = case();
        let chain = fs::read(dir.path().join("tls.crt")).unwrap();
        for broken in ["", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"] {
            write(dir.path(), "tls.crt", broken);
            files.look();
        }
        fs::remove_file(dir.path().join("tls.crt")).unwrap();
        files.look();
        assert!(!tls.has_changed().unwrap());
        fs::write(dir.path().join("tls.crt"), chain).unwrap();
        files.look();
        assert!(tls.has_changed().unwrap(), "it is read again when it is back");
    }

    #[test]
    fn one_is_made_where_there_is_none() {
        let (mut files, tls) = TlsFiles::open(CertificateFiles { pair: None, client_ca: None }).unwrap();
        files.look();
        assert!(!tls.has_changed().unwrap());
        let missing = CertificateFiles { pair: None, client_ca: Some("/nowhere/ca.crt".into()) };
        let error = TlsFiles::open(missing).err().unwrap();
        assert!(format!("{error:#}").starts_with("cannot read /nowhere/ca.crt"), "{error:#}");
    }
}
