//! Panics in what is done for a pod: they end that, and nothing else.

use std::{any::Any, panic::AssertUnwindSafe};

use futures::FutureExt as _;

/// Does the work, of which nothing is used again when it panics.
///
/// # Errors
/// What the panic said.
pub(super) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| message(panic.as_ref()))
}

/// What a panic said.
pub(super) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.as_deref().unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_in_its_own_words() {
        assert_eq!(caught(async { 1 }).await, Ok(1));
        let plain = caught(async { panic!("plain") }).await;
        let formatted = caught(async { panic!("formatted {}", 1) }).await;
        let other: Result<(), _> = caught(async { std::panic::panic_any(1) }).await;
        assert_eq!(plain, Err::<(), _>("panic: plain".to_owned()));
        assert_eq!(formatted, Err::<(), _>("panic: formatted 1".to_owned()));
        assert_eq!(other, Err("panic: without a message".to_owned()));
    }
}
