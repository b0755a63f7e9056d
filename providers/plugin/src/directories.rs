//! Granted directories, as a plugin has them.

use std::path::{Path, PathBuf};

use kubewasm_host::Preopen;

use crate::grants::{Grant, Grants};

/// A granted directory is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// It is not there.
    #[error("the granted directory {} is not there", .0.display())]
    Missing(PathBuf),
    /// It is below a home folder that nobody knows.
    #[error("the granted directory {} is below the home folder, and HOME is not set", .0.display())]
    NoHome(PathBuf),
}

/// The directories of a plugin that is run in `folder`. It knows each by the path that the user would write.
pub(crate) fn preopens(
    grants: &Grants,
    home: Option<&Path>,
    folder: &Path,
) -> Result<Vec<Preopen>, DirectoryError> {
    let mut preopens: Vec<Preopen> = Vec::new();
    for grant in grants.iter() {
        let (path, writable) = match grant {
            Grant::ReadDirectory(path) => (path, false),
            Grant::WriteDirectory(path) => (path, true),
            Grant::Variable(_) | Grant::RawTerminal => continue,
        };
        let path = match path.strip_prefix("~") {
            Ok(rest) => home.ok_or_else(|| DirectoryError::NoHome(path.clone()))?.join(rest),
            Err(_) => path.clone(),
        };
        let host = folder.join(&path);
        if !host.is_dir() {
            return Err(DirectoryError::Missing(path));
        }
        let guest = path.to_string_lossy().into_owned();
        // Who may change a directory may read it.
        match preopens.iter_mut().find(|known| known.guest == guest) {
            Some(known) => known.writable |= writable,
            None => preopens.push(Preopen { host, guest, writable }),
        }
    }
    Ok(preopens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_have_the_names_that_their_user_writes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("home/notes")).unwrap();
        std::fs::create_dir_all(at("work/data")).unwrap();
        let absolute = at("work").display().to_string();
        let grants = format!("fs=ro:. fs=rw:data fs=ro:data fs=ro:~/notes fs=ro:{absolute} env=A tty=raw");
        let grants = Grants::parse_list(&grants).unwrap();
        let preopens = preopens(&grants, Some(&at("home")), &at("work")).unwrap();
        let told: Vec<_> = preopens.iter().map(|one| (one.guest.clone(), one.writable)).collect();
        let notes = at("home/notes").display().to_string();
        for expected in
            [(".".to_owned(), false), ("data".to_owned(), true), (notes, false), (absolute, false)]
        {
            assert!(told.contains(&expected), "{expected:?}: {told:?}");
        }
        assert_eq!(told.len(), 4);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let grants = |text| Grants::parse_list(text).unwrap();
        let missing = preopens(&grants("fs=ro:gone"), None, folder.path());
        assert_eq!(missing, Err(DirectoryError::Missing("gone".into())));
        let homeless = preopens(&grants("fs=ro:~/x"), None, folder.path());
        assert_eq!(homeless, Err(DirectoryError::NoHome("~/x".into())));
    }
}
