//! How the module of a policy comes to the node: from its module store, with the node's own credentials and under its policy for
//! signatures, as an image of a pod would.

use std::sync::Arc;

use anyhow::bail;
use async_trait::async_trait;
use kubewasm_host::{compile::ChildCompiler, program::Program};
use kubewasm_kubelet::registry_auth::NodeCredentials;
use kubewasm_modules::{Image, ImageName, Store, StoreError};
use kubewasm_policy::modules::{FoundModule, ModuleFailure, Modules};
use kubewasm_wasi::{confine::Confinement, provider::StoreCompiler};

use crate::{
    module,
    policy::{Found, PolicySource, StoreModule, failure},
};

/// Finds the modules of a node's policies in its store, and pulls those that are not there.
#[derive(Debug)]
pub(crate) struct NodeModules {
    store: Store,
    compiler: StoreCompiler,
    credentials: NodeCredentials,
}

impl NodeModules {
    /// Compilers run as those of pods' modules do.
    pub(crate) fn new(
        store: Store,
        credentials: NodeCredentials,
        confinement: Confinement,
    ) -> anyhow::Result<Self> {
        let compiler = ChildCompiler::new(Program::current())?;
        let compiler = match confinement {
            Confinement::Required => compiler.confined(),
            Confinement::BestEffort => compiler,
        };
        Ok(Self { store, compiler: compiler.into(), credentials })
    }

    async fn image(&self, text: &str) -> anyhow::Result<Image> {
        let PolicySource::Name(name) = text.parse()? else {
            bail!("{text} is the beginning of a digest; name an image, a URL or a file");
        };
        if let ImageName::Path(path) = &name {
            return Ok(self.store.import(path).await?);
        }
        match self.store.get(&name) {
            Ok(Some(image)) => return Ok(image),
            // The registry may have the signature that is missing.
            Ok(None) | Err(StoreError::SignatureInvalid { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let credentials = module::credentials_of(&self.credentials, &name).await;
        Ok(self.store.pull(&name, &credentials, None).await?.image)
    }
}

#[async_trait]
impl Modules for NodeModules {
    async fn find(&self, name: &str) -> Result<Arc<dyn FoundModule>, ModuleFailure> {
        let found = async { Found::of(&self.store, self.image(name).await?).await };
        let found = found.await.map_err(|error| failure(name, &error))?;
        Ok(Arc::new(StoreModule { store: self.store.clone(), compiler: self.compiler.clone(), found }))
    }
}
