//! From wasmtime's result to an [`Exit`]. Pure but for the age of a refusal.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::{I32Exit, ResourceTableError};

use crate::{
    backtrace,
    exit::{CODE_KILLED, CODE_START_FAILED, CODE_TRAPPED, Exit, ExitReason, MESSAGE_LIMIT},
    memory::Refusal,
    stack::Stack,
    text::BoundedText,
};

/// A guest that exits with an error this soon after a growth of memory was refused is said to have died of
/// it: that is how allocators that do not trap give up (Go exits with 2, a program in C as it likes).
const DIED_OF_IT: Duration = Duration::from_secs(1);

/// How far a guest had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuestPhase {
    /// Memories were being made and filled, start functions run.
    Instantiate,
    /// The entry point had been called.
    Run,
}

/// What is said of a stack that was too small.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overflow {
    pub(super) stack: Stack,
    /// How to get a larger one.
    pub(super) advice: &'static str,
}

/// How an instance ended.
pub(super) fn of(
    phase: GuestPhase,
    result: &wasmtime::Result<i32>,
    refusal: Option<Refusal>,
    overflow: Overflow,
) -> Exit {
    let error = match result {
        Ok(code) => return exited(*code, refusal),
        Err(error) => error,
    };
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return exited(*code, refusal);
    }
    if let Some(refusal) = refusal {
        return out_of_memory(refusal, &describe(error, overflow));
    }
    if phase == GuestPhase::Instantiate && error.downcast_ref::<Trap>().is_none() {
        let message = format!("the module could not be instantiated: {}", describe(error, overflow));
        return Exit::new(CODE_START_FAILED, ExitReason::StartFailed, message);
    }
    Exit::new(CODE_TRAPPED, ExitReason::Trapped, describe(error, overflow))
}

fn exited(code: i32, refusal: Option<Refusal>) -> Exit {
    match refusal {
        Some(refusal) if code != 0 && refusal.at.elapsed() < DIED_OF_IT => {
            out_of_memory(refusal, &format!("the guest then exited with {code}"))
        }
        _ => Exit::new(code, ExitReason::Exited, ""),
    }
}

fn out_of_memory(refusal: Refusal, then: &str) -> Exit {
    let Refusal { wanted, limit, .. } = refusal;
    let message =
        format!("out of memory: the limit is {limit} bytes, and the guest asked for {wanted}; {then}");
    Exit::new(CODE_KILLED, ExitReason::OutOfMemory, message)
}

/// What happened, and where in the guest, as much as a message holds.
fn describe(error: &wasmtime::Error, overflow: Overflow) -> String {
    let mut text = BoundedText::new(MESSAGE_LIMIT);
    // What does not fit is left out.
    let _ = write_description(&mut text, error, overflow);
    text.into_string()
}

fn write_description(text: &mut BoundedText, error: &wasmtime::Error, overflow: Overflow) -> fmt::Result {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        write!(text, "{trap}")?;
        if *trap == Trap::StackOverflow {
            let Overflow { stack, advice } = overflow;
            write!(text, ": the guest has a stack of {stack}{advice}")?;
        }
    } else if holds_too_much(error) {
        text.write_str("the guest holds more files, streams, sockets and pollables than one container may; see \"What a guest can grab\" in docs/configuration.md")?;
    } else {
        write!(text, "{}", error.root_cause())?;
    }
    match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) if !backtrace.frames().is_empty() => {
            text.write_char('\n')?;
            backtrace::write(text, backtrace.frames())
        }
        _ => Ok(()),
    }
}

/// Whether a guest met the bound of what it may hold: in the host's table, in wasmtime's for tasks and streams, or in that of
/// its handles, for which wasmtime has a text alone.
fn holds_too_much(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full))
        || error.root_cause().to_string().ends_with("store handle limit exceeded")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const OVERFLOW: Overflow = Overflow { stack: Stack::DEFAULT, advice: "; ask for more" };

    fn refusal(age: Duration) -> Option<Refusal> {
        Some(Refusal { at: Instant::now().checked_sub(age).unwrap(), wanted: 2000, limit: 1000 })
    }

    #[test]
    fn results_become_exits() {
        use ExitReason::{Exited, OutOfMemory, StartFailed, Trapped};
        let trap = || Err(Trap::UnreachableCodeReached.into());
        let exit = |code| Err(I32Exit(code).into());
        let other = || Err(wasmtime::format_err!("no such thing"));
        let now = || refusal(Duration::ZERO);
        let old = || refusal(Duration::from_secs(60));
        for (phase, result, refusal, code, reason) in [
            (GuestPhase::Run, Ok(0), None, 0, Exited),
            (GuestPhase::Run, Ok(1), None, 1, Exited),
            (GuestPhase::Run, exit(0), None, 0, Exited),
            (GuestPhase::Run, exit(255), None, 255, Exited),
            (GuestPhase::Instantiate, exit(3), None, 3, Exited),
            (GuestPhase::Run, trap(), None, 134, Trapped),
            (GuestPhase::Instantiate, trap(), None, 134, Trapped),
            (GuestPhase::Run, other(), None, 134, Trapped),
            (GuestPhase::Instantiate, other(), None, 128, StartFailed),
            (GuestPhase::Instantiate, other(), now(), 137, OutOfMemory),
            (GuestPhase::Run, trap(), now(), 137, OutOfMemory),
            (GuestPhase::Run, trap(), old(), 137, OutOfMemory),
            (GuestPhase::Run, exit(2), now(), 137, OutOfMemory),
            (GuestPhase::Run, exit(2), old(), 2, Exited),
            (GuestPhase::Run, exit(0), now(), 0, Exited),
        ] {
            let found = of(phase, &result, refusal, OVERFLOW);
            assert_eq!((found.code, found.reason), (code, reason), "{phase:?} {result:?} {refusal:?}");
        }
    }

    #[test]
    fn messages_say_what_happened() {
        let trap = of(GuestPhase::Run, &Err(Trap::StackOverflow.into()), None, OVERFLOW);
        assert_eq!(
            trap.message,
            "wasm trap: call stack exhausted: the guest has a stack of 512 KiB; ask for more"
        );
        let start = of(GuestPhase::Instantiate, &Err(wasmtime::format_err!("no such thing")), None, OVERFLOW);
        assert_eq!(start.message, "the module could not be instantiated: no such thing");
        let memory = of(GuestPhase::Run, &Ok(2), refusal(Duration::ZERO), OVERFLOW);
        assert_eq!(
            memory.message,
            "out of memory: the limit is 1000 bytes, and the guest asked for 2000; the guest then exited with 2"
        );
    }
}
