//! Compiled code that others have made: where it is kept, and for which images it is as good as this node's own.
//!
//! ```text
//! registry ─ referrers of the image's manifest ─► fetch::code ─► shared/<module>/<manifest>.json, .code
//!                                                                                 │
//! Compiler's key, module, image's name ─► StoreInner::code_of ─► own? ─► shared, and trusted for that name? ─► file
//! ```
//!
//! Compiled code is machine code: whoever signs it can run anything in workers. So it counts only for images whose rule
//! in the policy names the signer's key for that (`precompiledKeys`), and that is looked at whenever it is used: its
//! signatures lie beside it, and are verified anew, under the policy of that moment and the name of that image. Code
//! that came with one image is therefore not used for another that has the same module and another rule.
//!
//! What is signed is the manifest of an [`artifact`], which names the module, the compiler, and the digests of the code
//! and of the facts about it.

pub(crate) mod artifact;
mod kept;
mod publish;

use std::{fs, path::Path};

pub(crate) use self::kept::KeptCode;
use self::kept::is_record;
pub use self::publish::PushedCode;
use crate::{
    compile::{self, Precompiled},
    digest::Digest,
    error::StoreError,
    image::ImageName,
    layout,
    reference::Reference,
    signature::Ruling,
    store::StoreInner,
};

impl StoreInner {
    /// The compiled code that the store has of `module` for the compiler `key`: this node's own, or else what the policy
    /// trusts for the image called `image`. Blocking.
    pub(crate) fn code_of(
        &self,
        image: Option<&ImageName>,
        module: &Digest,
        key: &str,
    ) -> Result<Option<Precompiled>, StoreError> {
        match (compile::own_code(&self.layout, module, key)?, image) {
            (None, Some(ImageName::Reference(reference))) => self.shared_code(reference, module, key),
            (own, _) => Ok(own),
        }
    }

    fn shared_code(
        &self,
        reference: &Reference,
        module: &Digest,
        key: &str,
    ) -> Result<Option<Precompiled>, StoreError> {
        let Ruling { precompiled_keys, .. } = self.options.signature_policy.ruling(reference);
        let place = self.layout.shared_code(module);
        if precompiled_keys.is_empty() || !place.exists() {
            return Ok(None);
        }
        for path in layout::children(&place)?.into_iter().filter(|path| is_record(path)) {
            let Some(kept) = self.layout.read::<KeptCode>(&path)? else { continue };
            let (Ok((manifest, facts)), Some(_)) = (kept.open(), kept.signer_among(precompiled_keys)) else {
                continue;
            };
            let code = self.layout.shared_code_file(module, &kept.digest());
            let is_whole = || fs::metadata(&code).is_ok_and(|metadata| metadata.len() == manifest.code.size);
            if manifest.is_for(module, key) && is_whole() {
                return Ok(Some(Precompiled { path: code, facts }));
            }
        }
        Ok(None)
    }

    /// All code of `module` that was fetched: for which compiler, its bytes, and who had signed it. Nothing is verified.
    pub(crate) fn all_shared_code(&self, module: &Digest) -> Result<Vec<(String, u64, String)>, StoreError> {
        let place = self.layout.shared_code(module);
        if !place.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for path in layout::children(&place)?.into_iter().filter(|path| is_record(path)) {
            let Some(kept) = self.layout.read::<KeptCode>(&path)? else { continue };
            let code = self.layout.shared_code_file(module, &kept.digest());
            if let (Ok((manifest, _)), true) = (kept.open(), code.exists()) {
                found.push((manifest.compiler, manifest.code.size, kept.signer));
            }
        }
        Ok(found)
    }

    /// Keeps code of `module`, which is in the file `code` and whole, as long as some image has the module. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when the image that it came with has gone.
    pub(crate) fn keep_shared_code(
        &self,
        image: &Digest,
        module: &Digest,
        kept: &KeptCode,
        code: &Path,
    ) -> Result<(), StoreError> {
        let _lock = self.layout.lock()?;
        if !self.layout.image(image).exists() {
            return Err(StoreError::Absent { image: kept.image.clone() });
        }
        let (place, digest) = (self.layout.shared_code(module), kept.digest());
        fs::create_dir_all(&place).map_err(StoreError::io("write", &place))?;
        // The record first: without the code it says nothing, and the code without it would never be found.
        self.layout.write(&self.layout.shared_code_record(module, &digest), kept)?;
        let file = self.layout.shared_code_file(module, &digest);
        fs::rename(code, &file).map_err(StoreError::io("write", &file))
    }
}

#[cfg(test)]
mod tests;
