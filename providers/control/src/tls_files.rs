//! The files of certificates, and the TLS that comes of them.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{sync::watch, time::MissedTickBehavior};

use crate::tls::{self, ClientCertificates, TlsFailure};

/// Most bytes of a file, 1 MiB.
const LONGEST_FILE: u64 = 1 << 20;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where certificates are.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// That of the server, and its key; without, one is made for localhost.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// Authorities of clients: none of the files means that clients are not asked for certificates.
    pub client_authorities: Vec<PathBuf>,
    /// Whether clients may also come without a certificate.
    pub is_client_optional: bool,
}

/// Why files of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesFailure {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is no file of certificates.
    #[error("{} has more than {} MiB", .0.display(), LONGEST_FILE >> 20)]
    TooLong(PathBuf),
    /// What is in them is not usable.
    #[error(transparent)]
    Tls(#[from] TlsFailure),
}

/// What is in them.
#[derive(PartialEq, Eq)]
struct CertificateTexts {
    chain: Vec<u8>,
    key: Vec<u8>,
    client_authorities: Vec<u8>,
    clients: AskedClients,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AskedClients {
    Unasked,
    Required,
    Optional,
}

impl CertificateTexts {
    fn config(&self) -> Result<Arc<ServerConfig>, TlsFailure> {
        let clients = match self.clients {
            AskedClients::Unasked => ClientCertificates::Unasked,
            AskedClients::Required => ClientCertificates::Required(&self.client_authorities),
            AskedClients::Optional => ClientCertificates::Optional(&self.client_authorities),
        };
        tls::server_config(&self.chain, &self.key, clients)
    }
}

/// The files, as they were last seen.
pub struct TlsFiles {
    files: CertificateFiles,
    /// A pair that was made here.
    made: Option<(String, String)>,
    /// What was last in them, good or not.
    seen: Option<CertificateTexts>,
    tls: watch::Sender<Arc<ServerConfig>>,
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFiles").field("files", &self.files).finish_non_exhaustive()
    }
}

impl TlsFiles {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`TlsFilesFailure`].
    pub fn open(
        files: CertificateFiles,
    ) -> Result<(Self, watch::Receiver<Arc<ServerConfig>>), TlsFilesFailure> {
        let made = match files.pair {
            Some(_) => None,
            None => Some(tls::self_signed(["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec())?),
        };
        let texts = read(&files, made.as_ref())?;
        let (tls, receiver) = watch::channel(texts.config()?);
        Ok((Self { files, made, seen: Some(texts), tls }, receiver))
    }

    /// Looks at the files for ever, every two seconds.
    pub async fn follow(mut self) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look();
        }
    }

    /// Looks whether the files have changed. New connections get what they say then; what cannot be used is told, and the old
    /// certificate goes on.
    pub fn look(&mut self) {
        let texts = match read(&self.files, self.made.as_ref()) {
            Ok(texts) => texts,
            Err(error) => {
                // Once; they may be about to be replaced.
                if self.seen.take().is_some() {
                    tracing::error!(%error, "the old certificate goes on");
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

fn read(
    files: &CertificateFiles,
    made: Option<&(String, String)>,
) -> Result<CertificateTexts, TlsFilesFailure> {
    let (chain, key) = match (&files.pair, made) {
        (Some((chain, key)), _) => (read_file(chain)?, read_file(key)?),
        (None, Some((chain, key))) => (chain.clone().into_bytes(), key.clone().into_bytes()),
        (None, None) => Default::default(),
    };
    let mut client_authorities = Vec::new();
    for file in &files.client_authorities {
        client_authorities.extend(read_file(file)?);
        client_authorities.push(b'\n');
    }
    let clients = match (&*files.client_authorities, files.is_client_optional) {
        ([], _) => AskedClients::Unasked,
        (_, true) => AskedClients::Optional,
        (_, false) => AskedClients::Required,
    };
    Ok(CertificateTexts { chain, key, client_authorities, clients })
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsFilesFailure> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut text))
        .map_err(|source| TlsFilesFailure::Read { path: path.to_owned(), source })?;
    if text.len() as u64 > LONGEST_FILE {
        return Err(TlsFilesFailure::TooLong(path.to_owned()));
    }
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
            client_authorities: vec![dir.path().join("ca.crt")],
            is_client_optional: false,
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
        let unasked =
            CertificateFiles { pair: None, client_authorities: Vec::new(), is_client_optional: false };
        let (mut files, tls) = TlsFiles::open(unasked.clone()).unwrap();
        files.look();
        assert!(!tls.has_changed().unwrap());
        let missing = CertificateFiles { client_authorities: vec!["/nowhere/ca.crt".into()], ..unasked };
        let error = TlsFiles::open(missing).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nowhere/ca.crt"), "{error}");
    }
}
