//! The sandboxes of a node.
//!
//! One thing happens to a sandbox at a time, and what was begun is ended whoever stops waiting for it. Before a plugin is
//! run for it, its record is on disk; the record goes when all is gone. So whatever an agent was doing when it was killed,
//! the next one knows what may be there, and removes it as it was made.

mod garbage;
mod options;

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use kubewasm_network::pinned;
pub use options::SandboxOptions;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, RwLock, Semaphore};

use crate::{
    attachment::{Attachment, SandboxRequest, id, namespace_name},
    chain::Chain,
    conf_dir,
    config::NetworkConfig,
    error::{FailureCause, SandboxError},
    records::{SandboxRecord, SandboxRecords},
    result::{self, AddResult},
};

/// Sandboxes that plugins work on at once: more of them only wait for each other in the kernel.
const AT_ONCE: usize = 8;
/// What containerd says where no network is configured yet: people and tools look for it.
const NOT_INITIALIZED: &str = "cni plugin not initialized";

/// The sandboxes of a node. Clones are the same ones. All its methods must be called within a tokio runtime.
#[derive(Clone, Debug)]
pub struct Sandboxes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: SandboxOptions,
    records: SandboxRecords,
    /// The pods that have a record, by UID.
    known: Mutex<HashMap<String, KnownSandbox>>,
    /// What keeps two from working on one sandbox, by UID.
    busy: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
    at_once: Semaphore,
    /// The configuration whose plugins are known to be there.
    validated: Mutex<Option<Arc<NetworkConfig>>>,
    /// Held for writing while plugins are told which attachments there are: none may come in between.
    attachments: RwLock<()>,
    garbage_collected: AtomicBool,
}

/// What is known of a pod's sandbox.
#[derive(Clone, Debug)]
struct KnownSandbox {
    namespace: PathBuf,
    /// The pod's, once it has them.
    addresses: Vec<IpAddr>,
    /// The pod has addresses in it, as far as this agent has seen.
    is_ready: bool,
}

impl KnownSandbox {
    fn of(record: &SandboxRecord) -> Self {
        let addresses = record.added.as_ref().and_then(|added| result::addresses(added).ok());
        Self {
            namespace: record.namespace.clone(),
            addresses: addresses.unwrap_or_default(),
            is_ready: record.added.is_some(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what blocks, on a thread that may.
async fn blocking<T: Send + 'static>(
    function: impl FnOnce() -> Result<T, SandboxError> + Send + 'static,
) -> Result<T, SandboxError> {
    let done = tokio::task::spawn_blocking(function).await;
    done.unwrap_or_else(|error| Err(SandboxError::NotReady(format!("internal error: {error}"))))
}

impl Sandboxes {
    /// Opens what is written down of sandboxes. Nothing is done to them before somebody asks for it.
    ///
    /// # Errors
    /// [`SandboxError::Record`].
    pub async fn open(options: SandboxOptions) -> Result<Self, SandboxError> {
        let dir = options.state_dir.clone();
        let open = move || {
            let records = SandboxRecords::open(&dir)?;
            let all = records.all()?;
            Ok((records, all))
        };
        let (records, all) = blocking(open).await?;
        let known = all.into_iter().map(|record| {
            let sandbox = KnownSandbox { is_ready: false, ..KnownSandbox::of(&record) };
            (record.attachment.pod.uid, sandbox)
        });
        Ok(Self(Arc::new(Inner {
            records,
            known: Mutex::new(known.collect()),
            options,
            busy: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
            validated: Mutex::default(),
            attachments: RwLock::default(),
            garbage_collected: AtomicBool::default(),
        })))
    }

    /// Finds out whether this process has the rights to make sandboxes, by making a namespace and removing it.
    ///
    /// # Errors
    /// What the system says.
    pub async fn check(options: &SandboxOptions) -> io::Result<()> {
        let path = options.namespaces_dir.join(format!("cni-check-{}", std::process::id()));
        let pin = {
            let path = path.clone();
            move || pinned::pin(&path)
        };
        let namespace = tokio::task::spawn_blocking(pin).await.map_err(io::Error::other)??;
        let prepared = pinned::prepare(&Arc::new(namespace)).await;
        tokio::task::spawn_blocking(move || pinned::unpin(&path)).await.map_err(io::Error::other)??;
        prepared.map_err(io::Error::other)
    }

    /// UIDs of the pods of which there is a sandbox, or may be something of one.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        lock(&self.0.known).keys().cloned().collect()
    }

    /// Where the namespace of a pod is mounted that [`Sandboxes::set_up`] has made or found.
    #[must_use]
    pub fn namespace_of(&self, uid: &str) -> Option<PathBuf> {
        let known = lock(&self.0.known);
        known.get(uid).filter(|sandbox| sandbox.is_ready).map(|sandbox| sandbox.namespace.clone())
    }

    /// The addresses of a pod whose sandbox [`Sandboxes::set_up`] has made or found; none where there is no such.
    #[must_use]
    pub fn addresses_of(&self, uid: &str) -> Vec<IpAddr> {
        let known = lock(&self.0.known);
        let ready = known.get(uid).filter(|sandbox| sandbox.is_ready);
        ready.map(|sandbox| sandbox.addresses.clone()).unwrap_or_default()
    }

    /// What keeps pods from getting sandboxes at present, for people.
    pub async fn problem(&self) -> Option<String> {
        let network = match self.network().await {
            Ok(network) => network,
            Err(error) => return Some(error.to_string()),
        };
        match self.chain(&network).status().await {
            Ok(()) => None,
            Err(error) => Some(SandboxError::NotReady(error.to_string()).to_string()),
        }
    }

    /// The sandbox of a pod was made, and is not there any more, after a start of the machine, say: what runs of the pod
    /// has to end before it gets another one.
    ///
    /// # Errors
    /// [`SandboxError::Record`].
    pub async fn is_lost(&self, uid: &str) -> Result<bool, SandboxError> {
        let (records, id) = (self.0.records.clone(), id(uid));
        let look = move || {
            let record = records.get(&id)?;
            Ok(record.is_some_and(|record| record.added.is_some() && !pinned::is_pinned(&record.namespace)))
        };
        blocking(look).await
    }

    /// Makes the sandbox of a pod, or finds the one that it has, and returns the pod's addresses. It goes on where nobody
    /// waits for it any more.
    ///
    /// # Errors
    /// [`SandboxError`]; try again.
    pub async fn set_up(&self, request: SandboxRequest) -> Result<Vec<IpAddr>, SandboxError> {
        let (sandboxes, id) = (self.clone(), id(&request.pod.uid));
        let done = tokio::spawn(async move { sandboxes.set_up_here(&request).await }).await;
        done.unwrap_or_else(|error| Err(set_up_error(id)(FailureCause::Ended(error.to_string()))))
    }

    /// Removes the sandbox of a pod, if there is anything of one. It goes on where nobody waits for it any more.
    ///
    /// # Errors
    /// [`SandboxError`]; try again.
    pub async fn tear_down(&self, uid: &str) -> Result<(), SandboxError> {
        let (sandboxes, uid, id) = (self.clone(), uid.to_owned(), id(uid));
        let done = tokio::spawn(async move { sandboxes.tear_down_here(&uid).await }).await;
        done.unwrap_or_else(|error| {
            Err(SandboxError::TearDown { id, source: FailureCause::Ended(error.to_string()).into() })
        })
    }

    async fn set_up_here(&self, request: &SandboxRequest) -> Result<Vec<IpAddr>, SandboxError> {
        let uid = &request.pod.uid;
        let _alone = self.alone(uid).await;
        if let Some(record) = self.record(uid).await? {
            match (&record.added, is_pinned(&record.namespace).await) {
                (Some(added), true) => {
                    let addresses = result::addresses(added).map_err(|error| {
                        set_up_error(record.attachment.container_id.clone())(error.into())
                    })?;
                    self.adopt(&record, added);
                    return Ok(addresses);
                }
                // Its namespace is gone, or who has begun it is.
                _ => self.destroy(&record).await?,
            }
        }
        let network = self.network().await?;
        let failed = || set_up_error(id(uid));
        let attachment = Attachment::of(request).map_err(|error| failed()(error.into()))?;
        let namespace = self.0.options.namespaces_dir.join(namespace_name(&attachment.container_id));
        let begun = SandboxRecord { attachment, network: (*network).clone(), namespace, added: None };
        self.write_down(&begun).await?;
        let made = {
            let _working = self.0.at_once.acquire().await;
            let _attaching = self.0.attachments.read().await;
            self.make(&begun).await
        };
        let done = match made {
            Ok((added, addresses)) => {
                let record = SandboxRecord { added: Some(added), ..begun.clone() };
                self.write_down(&record).await.map(|()| addresses)
            }
            Err(cause) => Err(failed()(cause)),
        };
        if done.is_err()
            && let Err(error) = self.destroy(&begun).await
        {
            tracing::warn!(pod = uid, %error, "what there is of a sandbox is removed before the next attempt");
        }
        done
    }

    async fn make(&self, record: &SandboxRecord) -> Result<(AddResult, Vec<IpAddr>), FailureCause> {
        let path = record.namespace.clone();
        let failed = |what| {
            let path = record.namespace.clone();
            move |source| FailureCause::Namespace { what, path, source }
        };
        let pin = move || {
            // What stands in its place is of a sandbox of which everything else is gone.
            pinned::unpin(&path)?;
            pinned::pin(&path)
        };
        let pinned =
            tokio::task::spawn_blocking(pin).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let namespace = Arc::new(pinned.map_err(failed("make"))?);
        pinned::prepare(&namespace).await?;
        let added = self.chain(&record.network).add(&record.attachment, &record.namespace).await?;
        let addresses = result::addresses(&added)?;
        if addresses.is_empty() { Err(FailureCause::NoAddress) } else { Ok((added, addresses)) }
    }

    async fn tear_down_here(&self, uid: &str) -> Result<(), SandboxError> {
        let _alone = self.alone(uid).await;
        match self.record(uid).await? {
            Some(record) => self.destroy(&record).await,
            None => {
                lock(&self.0.known).remove(uid);
                Ok(())
            }
        }
    }

    /// Has plugins take away what they have made, and then the namespace, and the record last.
    async fn destroy(&self, record: &SandboxRecord) -> Result<(), SandboxError> {
        let SandboxRecord { attachment, network, namespace, added } = record;
        let failed = |cause: FailureCause| SandboxError::TearDown {
            id: attachment.container_id.clone(),
            source: cause.into(),
        };
        if let Some(known) = lock(&self.0.known).get_mut(&attachment.pod.uid) {
            known.is_ready = false;
        }
        {
            let _working = self.0.at_once.acquire().await;
            let _detaching = self.0.attachments.read().await;
            let there = is_pinned(namespace).await.then_some(namespace.as_path());
            let removed = self.chain(network).del(attachment, there, added.as_ref()).await;
            removed.map_err(|error| failed(error.into()))?;
        }
        let path = namespace.clone();
        let unpinned = tokio::task::spawn_blocking(move || pinned::unpin(&path)).await;
        unpinned.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|source| {
            failed(FailureCause::Namespace { what: "remove", path: namespace.clone(), source })
        })?;
        let (records, id) = (self.0.records.clone(), attachment.container_id.clone());
        blocking(move || records.remove(&id)).await?;
        lock(&self.0.known).remove(&attachment.pod.uid);
        Ok(())
    }

    /// Takes over a sandbox of an earlier agent's, and has plugins look whether all of it is there, beside all else.
    fn adopt(&self, record: &SandboxRecord, added: &AddResult) {
        let uid = &record.attachment.pod.uid;
        let before = lock(&self.0.known).insert(uid.clone(), KnownSandbox::of(record));
        if before.is_some_and(|before| before.is_ready) {
            return;
        }
        let (sandboxes, record, added) = (self.clone(), record.clone(), added.clone());
        tokio::spawn(async move {
            let _working = sandboxes.0.at_once.acquire().await;
            let SandboxRecord { attachment, network, namespace, .. } = &record;
            if let Err(error) = sandboxes.chain(network).check(attachment, namespace, &added).await {
                let pod = &attachment.pod;
                tracing::warn!(
                    pod = format!("{}/{}", pod.namespace, pod.name), %error,
                    "the network of a pod is not as it was made; delete the pod for another one"
                );
            }
        });
    }

    /// The node's network, whose plugins are there.
    async fn network(&self) -> Result<Arc<NetworkConfig>, SandboxError> {
        let dir = self.0.options.conf_dir.clone();
        let load = move || {
            let loaded = conf_dir::load(&dir).map_err(|error| SandboxError::NotReady(error.to_string()))?;
            loaded.ok_or_else(|| SandboxError::NotReady(NOT_INITIALIZED.to_owned()))
        };
        let network = blocking(load).await?;
        if let Some(validated) = lock(&self.0.validated).as_ref().filter(|validated| ***validated == network)
        {
            return Ok(Arc::clone(validated));
        }
        let valid = self.chain(&network).validate().await;
        valid.map_err(|error| SandboxError::NotReady(error.to_string()))?;
        let plugins: Vec<_> = network.plugins.iter().map(|plugin| plugin.kind.as_str()).collect();
        tracing::info!(network = network.name, version = %network.version, ?plugins, "pods get the network of CNI plugins");
        let network = Arc::new(network);
        *lock(&self.0.validated) = Some(Arc::clone(&network));
        if !self.0.garbage_collected.swap(true, Ordering::SeqCst) {
            let (sandboxes, network) = (self.clone(), Arc::clone(&network));
            tokio::spawn(async move { sandboxes.collect_garbage(&network).await });
        }
        Ok(network)
    }

    fn chain<'a>(&'a self, network: &'a NetworkConfig) -> Chain<'a> {
        Chain { network, bin_dirs: &self.0.options.bin_dirs }
    }

    async fn record(&self, uid: &str) -> Result<Option<SandboxRecord>, SandboxError> {
        let (records, id) = (self.0.records.clone(), id(uid));
        blocking(move || records.get(&id)).await
    }

    async fn write_down(&self, record: &SandboxRecord) -> Result<(), SandboxError> {
        let (records, written) = (self.0.records.clone(), record.clone());
        blocking(move || records.put(&written)).await?;
        lock(&self.0.known).insert(record.attachment.pod.uid.clone(), KnownSandbox::of(record));
        Ok(())
    }

    /// Waits until nobody else works on the sandbox of a pod.
    async fn alone(&self, uid: &str) -> OwnedMutexGuard<()> {
        let mine = {
            let mut busy = lock(&self.0.busy);
            busy.retain(|_, other| other.strong_count() > 0);
            let present = busy.get(uid).and_then(Weak::upgrade);
            present.unwrap_or_else(|| {
                let new = Arc::default();
                busy.insert(uid.to_owned(), Arc::downgrade(&new));
                new
            })
        };
        mine.lock_owned().await
    }
}

fn set_up_error(id: String) -> impl FnOnce(FailureCause) -> SandboxError {
    move |cause| SandboxError::SetUp { id, source: cause.into() }
}

async fn is_pinned(path: &Path) -> bool {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || pinned::is_pinned(&path)).await.unwrap_or(false)
}
