//! How an instance ended.

/// How an instance ended, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The guest's own code where it gave one; else one of the constants of this module.
    pub code: i32,
    /// Why it ended.
    pub reason: ExitReason,
    /// More, for people; at most [`MESSAGE_LIMIT`] bytes, empty when there is nothing to say.
    pub message: String,
}

/// Why an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest returned, or called exit.
    Exited,
    /// The guest trapped.
    Trapped,
    /// It was stopped or killed on request.
    Stopped,
    /// It met its memory limit and died of it.
    OutOfMemory,
    /// It could not be instantiated.
    StartFailed,
    /// The worker that hosted it is gone.
    Lost,
}

/// Code of a guest that could not be instantiated; what runc answers when it cannot start a process.
pub const CODE_START_FAILED: i32 = 128;
/// Code of a guest that somebody has ended at its terminal, with Ctrl-C: 128 + SIGINT.
pub const CODE_INTERRUPTED: i32 = 130;
/// Code of a guest that trapped: 128 + SIGABRT.
pub const CODE_TRAPPED: i32 = 134;
/// Code of a guest that was killed, by us or by its memory limit: 128 + SIGKILL.
pub const CODE_KILLED: i32 = 137;
/// Code of a guest that ended because it was asked to: 128 + SIGTERM.
pub const CODE_STOPPED: i32 = 143;

/// Longest message in bytes: as much as Kubernetes keeps of a termination message.
pub const MESSAGE_LIMIT: usize = 4096;

impl Exit {
    /// An exit with a message of any length, which is cut to [`MESSAGE_LIMIT`].
    #[must_use]
    pub fn new(code: i32, reason: ExitReason, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let end = message.floor_char_boundary(MESSAGE_LIMIT);
        message.truncate(end);
        Self { code, reason, message }
    }

    /// Stopped on request; `killed` when it was given no time, or its time was over.
    #[must_use]
    pub fn stopped(killed: bool) -> Self {
        Self::new(if killed { CODE_KILLED } else { CODE_STOPPED }, ExitReason::Stopped, "")
    }

    /// Ended by Ctrl-C at its terminal, as a process ends that has nothing else to do then.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new(CODE_INTERRUPTED, ExitReason::Exited, "")
    }

    /// Lost with its worker.
    #[must_use]
    pub fn lost(message: impl Into<String>) -> Self {
        Self::new(CODE_KILLED, ExitReason::Lost, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_between_characters() {
        let exit = Exit::new(1, ExitReason::Trapped, "é".repeat(3000));
        assert_eq!(exit.message.len(), MESSAGE_LIMIT);
        let exit = Exit::new(1, ExitReason::Trapped, format!("x{}", "é".repeat(3000)));
        assert_eq!(exit.message.len(), MESSAGE_LIMIT - 1);
    }
}
