//! An instance that others have resources of, or that is the only one of its component.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Mutex;
use wasmtime::component::{ResourceAny, Val};

use super::{CallError, Callee, Function, Lease};

/// An instance that is not given back between calls. Those that come at the same time are answered one after the other.
pub(crate) struct PinnedInstance {
    callee: Arc<Callee>,
    /// Gone when it has failed.
    lease: Mutex<Option<Lease>>,
    is_usable: AtomicBool,
    /// Its resources that others have.
    handed_out: AtomicUsize,
}

impl fmt::Debug for PinnedInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedInstance").field("callee", &self.callee).finish_non_exhaustive()
    }
}

/// What is done with an instance.
enum Work<'a> {
    Call(&'a Function, &'a [Val], &'a mut [Val]),
    Drop(ResourceAny),
}

/// Marks the instance as lost unless the call has come to its end: it may have been dropped half way.
struct Usage<'a>(Option<&'a AtomicBool>);

impl Drop for Usage<'_> {
    fn drop(&mut self) {
        if let Some(is_usable) = self.0 {
            is_usable.store(false, Ordering::Release);
        }
    }
}

impl PinnedInstance {
    pub(super) fn new(callee: Arc<Callee>, lease: Lease) -> Arc<Self> {
        let (is_usable, handed_out) = (AtomicBool::new(true), AtomicUsize::new(0));
        Arc::new(Self { callee, lease: Mutex::new(Some(lease)), is_usable, handed_out })
    }

    /// A new one, or one of the pool's.
    pub(crate) async fn lease(callee: &Arc<Callee>) -> Result<Arc<Self>, CallError> {
        if callee.settings().is_single {
            return callee.single().await;
        }
        let lease = callee.within_deadline("an instance of it", callee.lease()).await?;
        Ok(Self::new(Arc::clone(callee), lease))
    }

    pub(crate) fn is_of(&self, callee: &Arc<Callee>) -> bool {
        Arc::ptr_eq(&self.callee, callee)
    }

    /// It has not failed, and was not given back.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_usable.load(Ordering::Acquire)
    }

    pub(crate) fn callee(&self) -> &Arc<Callee> {
        &self.callee
    }

    /// One more of its resources is somebody else's.
    pub(crate) fn hands_out(&self) {
        self.handed_out.fetch_add(1, Ordering::AcqRel);
    }

    fn takes_back(&self, count: usize) {
        self.handed_out.fetch_sub(count, Ordering::AcqRel);
    }

    /// Calls it. With the parameters, `returned` of its resources come back to it.
    pub(crate) async fn call(
        &self,
        key: &str,
        function: &Function,
        params: &[Val],
        results: &mut [Val],
        returned: usize,
    ) -> Result<(), CallError> {
        self.used(key, Work::Call(function, params, results)).await?;
        self.takes_back(returned);
        Ok(())
    }

    /// Drops one of its resources that was somebody else's.
    pub(crate) async fn drop_resource(&self, resource: ResourceAny) -> Result<(), CallError> {
        const KEY: &str = "a destructor";
        if !self.is_usable() {
            // It went with the instance.
            return Ok(());
        }
        self.used(KEY, Work::Drop(resource)).await?;
        self.takes_back(1);
        self.give_back_if_free().await;
        Ok(())
    }

    async fn used(&self, key: &str, work: Work<'_>) -> Result<(), CallError> {
        let lost = || CallError::Lost { component: Arc::clone(self.callee.name()) };
        let locked = async { Ok(self.lease.lock().await) };
        let mut lease = self.callee.within_deadline(key, locked).await?;
        if !self.is_usable() {
            *lease = None;
        }
        let used = lease.as_mut().ok_or_else(lost)?;
        let mut usage = Usage(Some(&self.is_usable));
        let name = self.callee.name();
        let working = async {
            match work {
                Work::Call(function, params, results) => {
                    used.call(name, key, function, params, results).await
                }
                Work::Drop(resource) => {
                    let dropped = used.instance().drop_resource(resource).await;
                    dropped.map_err(|exit| CallError::failed(name, key, exit))
                }
            }
        };
        let result = self.callee.within_deadline(key, working).await;
        if result.is_ok() {
            usage.0 = None;
        }
        drop(usage);
        if result.is_err() {
            *lease = None;
        }
        result
    }

    /// Gives the instance back to its pool when nobody has anything of it.
    pub(crate) async fn give_back_if_free(&self) {
        if self.callee.settings().is_single || self.handed_out.load(Ordering::Acquire) > 0 {
            return;
        }
        let mut lease = self.lease.lock().await;
        if self.handed_out.load(Ordering::Acquire) == 0
            && self.is_usable.swap(false, Ordering::AcqRel)
            && let Some(lease) = lease.take()
        {
            self.callee.give_back(lease);
        }
    }
}
