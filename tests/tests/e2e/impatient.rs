//! A node on which a container waits for one second at most before it is started again, for tests that
//! need several restarts.

use kubewasm_tests::node::{Node, Options};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::suite::own_node;

static NODE: OnceCell<Node> = OnceCell::const_new();

/// Its name. It is started when the first test asks, and ends with the process.
pub(crate) async fn node() -> &'static str {
    let options = Options::default().config("crashLoopBackOff", json!({ "maxContainerRestartPeriod": "1s" }));
    NODE.get_or_init(|| async { own_node("impatient-node", &options).await }).await.name()
}
