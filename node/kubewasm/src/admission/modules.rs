//! How the module of a policy comes to the node: from its module store, with the node's own credentials and under its policy for
//! signatures, as an image of a pod would.

use std::{fmt, sync::Arc};

use anyhow::bail;
use async_trait::async_trait;
use kubewasm_host::{compile::ChildCompiler, program::Program};
use kubewasm_kubelet::registry_auth::NodeCredentials;
use kubewasm_modules::{Credential, Image, ImageName, Store, StoreError};
use kubewasm_policy::{
    metadata::Metadata,
    modules::{FoundModule, MachineCode, ModuleFailure, Modules},
};
use kubewasm_wasi::{confine::Confinement, provider::StoreCompiler};

use crate::policy::{Found, PolicySource, failure};

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

    async fn image(&self, module: &str) -> anyhow::Result<Image> {
        let PolicySource::Name(name) = module.parse()? else {
            bail!("{module} is the beginning of a digest; name an image, a URL or a file");
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
        let found = self.credentials.for_image(&name.to_string()).await;
        let plain = |c: kubewasm_kubelet::runtime::Credential| Credential {
            username: c.username,
            password: c.password,
        };
        let credentials: Vec<_> = found.credentials.into_iter().map(plain).collect();
        Ok(self.store.pull(&name, &credentials, None).await?.image)
    }
}

#[async_trait]
impl Modules for NodeModules {
    async fn find(&self, module: &str) -> Result<Arc<dyn FoundModule>, ModuleFailure> {
        let found = async { Found::of(&self.store, self.image(module).await?).await };
        let found = found.await.map_err(|error| failure(module, &error))?;
        Ok(Arc::new(NodeModule { store: self.store.clone(), compiler: self.compiler.clone(), found }))
    }
}

/// A module of the store, which is held.
struct NodeModule {
    store: Store,
    compiler: StoreCompiler,
    found: Found,
}

impl fmt::Debug for NodeModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeModule").field(&self.found.module).finish()
    }
}

#[async_trait]
impl FoundModule for NodeModule {
    fn digest(&self) -> String {
        self.found.module.digest.to_string()
    }

    fn metadata(&self) -> Option<&Metadata> {
        self.found.metadata.as_ref()
    }

    async fn compile(&self) -> Result<MachineCode, ModuleFailure> {
        let name = &self.found.image.reference;
        let compiled = async {
            let module = &self.found.module;
            let compiled = self.store.precompiled(Some(name), module, &self.compiler, "").await?;
            let kind = compiled.facts.kind.parse()?;
            Ok(MachineCode { path: compiled.path, kind })
        };
        compiled.await.map_err(|error: anyhow::Error| failure(name, &error))
    }
}
