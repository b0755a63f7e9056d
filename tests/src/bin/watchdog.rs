//! Cleans up after a test run, however it ended: waits until standard input closes, which happens when
//! the process that holds its other end is gone, then ends all that belongs to the folder given and
//! removes it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use kubewasm_tests::home::Home;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("usage: kubewasm-watchdog FOLDER")?);
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).context("cannot wait")?;
    Home::remove(&folder).await
}
