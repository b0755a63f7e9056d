//! The wasmtime engines, one for each [`Generation`]: their settings, their clock, and their names for the compiler
//! key.
//!
//! Who compiles and who runs must agree on every setting that shapes machine code, so that both build their engine
//! here; [`key`] names the agreement.
//!
//! - **Memory** is reserved in 4 GiB of address space per linear memory, wasmtime's default, so that bounds
//!   checks are left out of the code; address space is not memory, and see [`crate::capacity`] for what ends
//!   the number of guests. Initial contents are mapped copy-on-write from the precompiled file.
//! - **Instances** are allocated on demand, but for those that answer HTTP requests ([`crate::pool`]). A pool holds on to
//!   address space and mappings for the largest guest it must fit, which is what the number of guests in one process
//!   fails on; it pays where instances come and go by the thousand a second, which containers do not.
//! - **Stacks** of guests are 512 KiB unless they ask for more ([`Stack`]), and behind them are 512 KiB for what the host
//!   does on the guest's behalf: running over that would abort the process with all its guests, and stack that is not
//!   touched costs address space only. The size is a setting of the engine and shapes no machine code.
//! - **Epochs**: a guest yields whenever [`TICK`] has passed, or [`SHORT_TICK`] where others wait for their turn, so that a spinning
//!   guest neither starves the others nor resists being stopped.

use std::{
    hash::{Hash, Hasher},
    io,
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, WasmBacktraceDetails};

use crate::{
    cpu::{Crowd, Pace},
    kind::{Generation, ModuleKind},
    pool::{self, Allocation},
    stack::Stack,
};

/// How long a guest runs before it is asked whether others are to have their turn, where nobody waits for one.
pub const TICK: Duration = Duration::from_millis(10);
/// The same where somebody waits; half as long again at most.
pub const SHORT_TICK: Duration = Duration::from_millis(1);

const HOST_STACK: usize = 512 << 10;
/// Frames in a backtrace; more would not fit into a termination message.
const BACKTRACE_FRAMES: NonZeroUsize = match NonZeroUsize::new(32) {
    Some(frames) => frames,
    None => NonZeroUsize::MIN,
};

/// An engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The settings do not go together, or the machine cannot do what they need.
    #[error("cannot set up wasmtime on this machine: {0}")]
    Settings(String),
    /// The thread that ticks could not be started.
    #[error("cannot start the epoch thread: {0}")]
    Thread(#[source] io::Error),
}

fn config(generation: Generation, stack: Stack) -> Config {
    let mut config = Config::new();
    match generation {
        Generation::Blocking => config.concurrency_support(false),
        Generation::Concurrent => config.wasm_component_model_async(true),
    };
    config.epoch_interruption(true);
    config.max_wasm_stack(stack.bytes());
    config.async_stack_size(stack.bytes() + HOST_STACK);
    config.memory_init_cow(true);
    config.wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES));
    // Files and lines would come from the guest's own DWARF, whose line programs are as long as the guest likes, once
    // more for each frame. Said here, because the default asks the environment.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// An engine that compiles, and whose epoch stands still.
///
/// # Errors
/// [`EngineError::Settings`].
pub fn new(generation: Generation) -> Result<Engine, EngineError> {
    allocating(generation, Stack::DEFAULT, Allocation::OnDemand)
}

fn allocating(generation: Generation, stack: Stack, allocation: Allocation) -> Result<Engine, EngineError> {
    let mut config = config(generation, stack);
    match allocation {
        Allocation::OnDemand => {}
        Allocation::Pooled => {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool::config()));
        }
    }
    Engine::new(&config).map_err(|error| EngineError::Settings(format!("{error:#}")))
}

/// An engine that runs guests: one thread moves its epoch every [`TICK`], or [`SHORT_TICK`] while guests of `crowd` wait, until the
/// engine is dropped.
///
/// # Errors
/// Both of [`EngineError`].
pub(crate) fn ticking(
    generation: Generation,
    stack: Stack,
    allocation: Allocation,
    crowd: Arc<Crowd>,
) -> Result<Engine, EngineError> {
    let engine = allocating(generation, stack, allocation)?;
    let weak = engine.weak();
    let mut pace = Pace::new(crowd);
    std::thread::Builder::new()
        .name("epoch".into())
        .spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(pace.next());
            }
        })
        .map_err(EngineError::Thread)?;
    Ok(engine)
}

/// Compiles a module to machine code that `engine`, and any other of the same generation, loads.
///
/// # Errors
/// What wasmtime says: the module is not valid, or asks for what is switched off.
pub fn precompile(engine: &Engine, kind: ModuleKind, bytes: &[u8]) -> wasmtime::Result<Vec<u8>> {
    match kind {
        ModuleKind::CoreCommand | ModuleKind::EmbeddedCore => engine.precompile_module(bytes),
        ModuleKind::CliComponent
        | ModuleKind::CliComponentP3
        | ModuleKind::HttpComponent
        | ModuleKind::HttpComponentP3
        | ModuleKind::EmbeddedComponent => engine.precompile_component(bytes),
    }
}

/// Name of all that shapes machine code of a generation on this machine: version, settings, and the features of the
/// processor. Fit for a file name.
///
/// # Errors
/// [`EngineError::Settings`].
pub fn key(generation: Generation) -> Result<String, EngineError> {
    new(generation).map(|engine| key_of(&engine))
}

fn key_of(engine: &Engine) -> String {
    let mut hasher = KeyHasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let digest = hasher.0.finalize();
    let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("wasmtime-{}-{short}", crate::WASMTIME_VERSION)
}

/// Feeds a `Hash` to SHA-256, because the standard hasher promises nothing between versions of Rust.
struct KeyHasher(Sha256);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Only asked of hashers that make table keys; the digest itself is taken from the field.
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_the_same_for_the_same_settings() {
        for generation in Generation::ALL {
            let key = key(generation).unwrap();
            assert_eq!(key, super::key(generation).unwrap());
            assert!(key.starts_with("wasmtime-48."), "{key}");
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.'), "{key}");
        }
    }

    #[test]
    fn key_is_the_same_for_every_stack() {
        let engine = allocating(Generation::Blocking, Stack::LARGEST, Allocation::OnDemand).unwrap();
        assert_eq!(key_of(&engine), key(Generation::Blocking).unwrap());
    }

    #[test]
    fn key_is_the_same_for_a_pool() {
        for generation in Generation::ALL {
            let engine = allocating(generation, Stack::DEFAULT, Allocation::Pooled).unwrap();
            assert_eq!(key_of(&engine), key(generation).unwrap());
        }
    }

    #[test]
    fn key_differs_for_other_settings() {
        let mut other = config(Generation::Blocking, Stack::DEFAULT);
        other.epoch_interruption(false);
        assert_ne!(key_of(&Engine::new(&other).unwrap()), key(Generation::Blocking).unwrap());
    }
}
