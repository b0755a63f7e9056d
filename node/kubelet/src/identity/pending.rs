//! Keys of certificate requests that are under way.
//!
//! A key is on disk before it is asked for, and goes when its certificate is stored. A node that is restarted in between
//! asks for the same key, by the same name, and so finds its request again, which somebody may have approved meanwhile.
//! Whatever a crash leaves is safe: a key without a request is asked for; a request whose key is lost is asked for anew
//! under another name; a certificate that is stored with its key still pending is told by being of that key.

use std::{
    io,
    path::{Path, PathBuf},
};

use rcgen::KeyPair;

use super::{
    CertificateRequestError, IdentityError,
    pair::{Pair, write_private},
};

/// The key of a request that is under way, and the file that it is in.
#[derive(Debug)]
pub(super) struct PendingKey {
    path: PathBuf,
    key: KeyPair,
}

impl PendingKey {
    /// The key of an earlier request that did not come to its end, or a new one. A file that is no key is replaced, as is
    /// one with the key of `current`, the pair that is in use.
    pub(super) fn open(path: PathBuf, current: Option<&Pair>) -> Result<Self, IdentityError> {
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Ok(key) = KeyPair::from_pem(&text)
            && !current.is_some_and(|pair| pair.is_of(&key))
        {
            return Ok(Self { path, key });
        }
        let key = KeyPair::generate().map_err(CertificateRequestError::Make)?;
        write_private(&path, key.serialize_pem().as_bytes()).map_err(failed(&path))?;
        Ok(Self { path, key })
    }

    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// What came of the request. A certificate is stored with the key in `file`, and the key is pending no more; nor is
    /// one that nothing will come of.
    pub(super) fn settle(
        self,
        answer: Result<Pair, CertificateRequestError>,
        file: &Path,
    ) -> Result<Pair, IdentityError> {
        match answer {
            Ok(pair) => {
                pair.store(file).map_err(failed(file))?;
                Ok(pair)
            }
            Err(
                refused @ (CertificateRequestError::Denied { .. } | CertificateRequestError::Failed { .. }),
            ) => {
                self.forget()?;
                Err(refused.into())
            }
            // It may still be answered.
            Err(other) => Err(other.into()),
        }
    }

    /// Removes a key whose certificate is where it belongs.
    pub(super) fn remove(path: &Path) -> Result<(), IdentityError> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
            _ => Ok(()),
        }
    }

    fn forget(self) -> Result<(), IdentityError> {
        Self::remove(&self.path)
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_path_buf();
    move |source| IdentityError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(path: &Path, current: Option<&Pair>) -> String {
        PendingKey::open(path.to_owned(), current).unwrap().key.serialize_pem()
    }

    fn pair_of(key: &KeyPair) -> Pair {
        let certificate =
            rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(key).unwrap();
        Pair::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    #[test]
    fn a_restart_asks_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pki/client.key.tmp");
        let first = pem(&path, None);
        assert_eq!(pem(&path, None), first);
        std::fs::write(&path, "half a k").unwrap();
        assert_ne!(pem(&path, None), first);
    }

    /// Between the storing of a certificate and the removal of its key: the next request is for another one.
    #[test]
    fn the_key_of_the_pair_in_use_is_pending_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("key.tmp"), dir.path().join("pair.pem"));
        let pending = PendingKey::open(path.clone(), None).unwrap();
        let first = pending.key().serialize_pem();
        let pair = pair_of(pending.key());
        let stored = pending.settle(Ok(pair), &file).unwrap();
        assert_eq!(Pair::read(&file, &file).unwrap().chain, stored.chain);
        assert_eq!(pem(&path, None), first, "nobody has removed it");
        assert_ne!(pem(&path, Some(&stored)), first);
    }

    /// What was refused is not asked for again with the same key; what was not answered is.
    #[test]
    fn a_refused_key_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("key.tmp"), dir.path().join("pair.pem"));
        let (name, message) = ("csr".to_owned(), "no".to_owned());
        let unanswered =
            CertificateRequestError::Unanswered { name: name.clone(), waited: std::time::Duration::ZERO };
        for (answer, stays) in [
            (unanswered, true),
            (CertificateRequestError::Cancelled, true),
            (CertificateRequestError::Denied { name: name.clone(), message: message.clone() }, false),
            (CertificateRequestError::Failed { name, message }, false),
        ] {
            let pending = PendingKey::open(path.clone(), None).unwrap();
            assert!(pending.settle(Err(answer), &file).is_err());
            assert_eq!(path.exists(), stays);
        }
        assert!(!file.exists());
    }
}
