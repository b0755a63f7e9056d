//! How things go, and what is done.

use std::time::Duration;

use super::super::spec::Container;

/// How a hook goes: the time it takes, and whether it succeeds; `None` never ends by itself.
pub(super) type HookPlan = Option<(Duration, bool)>;

/// How one attempt of a container goes.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// It ends by itself after so long, with that code.
    pub(super) exit: Option<(Duration, i32)>,
    /// It ends so long after it is asked to, with that code; `None` lets the grace run out.
    pub(super) obeys: Option<(Duration, i32)>,
    pub(super) post_start: HookPlan,
    pub(super) pre_stop: HookPlan,
    /// Probes succeed from and until so long after the start.
    pub(super) healthy: (Duration, Duration),
}

impl Default for Run {
    fn default() -> Self {
        Self {
            exit: None,
            obeys: Some((Duration::ZERO, 143)),
            post_start: Some((Duration::ZERO, true)),
            pre_stop: Some((Duration::ZERO, true)),
            healthy: (Duration::ZERO, Duration::MAX),
        }
    }
}

/// Ends by itself after so many seconds, with that code.
pub(super) fn exits(seconds: u64, code: i32) -> Run {
    Run { exit: Some((Duration::from_secs(seconds), code)), ..Run::default() }
}

/// How everything about one container goes. The last entry of each list holds for all that follow; an
/// empty list is that all goes well, at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// Time and waiting reason of failed pulls, or none.
    pub(super) pulls: Vec<(Duration, Option<&'static str>)>,
    /// Time and waiting reason of failed starts, or none.
    pub(super) starts: Vec<(Duration, Option<&'static str>)>,
    /// By number of the attempt.
    pub(super) runs: Vec<Run>,
}

/// What is done to the pod or the node.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// A deletion with that grace, or one more.
    Delete(Duration),
    /// The object is gone.
    Vanish,
    Verdict,
    /// The container gets another image.
    Image(String),
    Deadline(Duration),
    /// The pod gets an ephemeral container.
    Attach(Box<Container>),
    /// The agent is away for so long. A start that is under way has come about or not.
    Restart {
        away: Duration,
        starts_happen: bool,
    },
    /// The agent is restarted when it has noted down what to do next, and has not done it.
    Tear {
        away: Duration,
    },
    /// What hosts the containers dies, and they with it.
    Lose,
    /// The agent looks without reason.
    Nudge,
    /// So many writes of the record fail from now on.
    FailSaves(u32),
    /// Somebody sets the wall clock forward by so many seconds, or back.
    SetClock(i64),
}
