//! How a command ended, as its caller is told.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::{Stream, negotiation::ChannelVersion};

/// How exec or attach ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should: of exec, with exit code 0.
    Success,
    /// The command has ended with another exit code.
    Exit {
        /// The code. Clients know 1 to 255.
        code: i32,
        /// About it, for people.
        message: String,
    },
    /// Nothing was run, or it cannot be said how it ended. For people.
    Failed(String),
}

impl Outcome {
    /// For people; `None` where there is nothing to say.
    fn message(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::Exit { message, .. } => {
                Some(format!("command terminated with non-zero exit code: {message}"))
            }
            Self::Failed(message) => Some(format!("Internal error occurred: {message}")),
        }
    }

    /// The `Status` of `meta/v1` for it, as text.
    fn status(&self) -> String {
        let message = self.message();
        let status = match self {
            Self::Success => json!({ "metadata": {}, "status": "Success" }),
            Self::Exit { code, .. } => {
                // What an operating system makes of a code that has no place in a byte would be success for some.
                let code = u8::try_from(*code).unwrap_or(u8::MAX);
                let causes = json!([{ "reason": "ExitCode", "message": code.to_string() }]);
                json!({
                    "metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode",
                    "details": { "causes": causes },
                })
            }
            Self::Failed(cause) => json!({
                "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError",
                "details": { "causes": [{ "message": cause }] }, "code": 500,
            }),
        };
        status.to_string()
    }
}

/// The stream on which it is told.
#[derive(Debug)]
pub(super) struct StatusStream {
    stream: Stream,
    version: ChannelVersion,
}

impl StatusStream {
    pub(super) fn new(stream: Stream, version: ChannelVersion) -> Self {
        Self { stream, version }
    }

    /// Tells it: before version 4, no more than an error's text. A client that is gone is not told.
    pub(super) async fn tell(mut self, outcome: &Outcome) {
        let text =
            if self.version >= ChannelVersion::V4 { Some(outcome.status()) } else { outcome.message() };
        if let Some(text) = text {
            let _ = self.stream.write_all(text.as_bytes()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_status_says_what_clients_look_for() {
        let status = |outcome: &Outcome| serde_json::from_str::<Value>(&outcome.status()).unwrap();
        assert_eq!(status(&Outcome::Success), json!({ "metadata": {}, "status": "Success" }));
        for (code, told) in [(3, "3"), (137, "137"), (256, "255"), (-1, "255")] {
            let exit = status(&Outcome::Exit { code, message: "exit code".to_owned() });
            assert_eq!(exit["reason"], "NonZeroExitCode");
            assert_eq!(exit["details"]["causes"], json!([{ "reason": "ExitCode", "message": told }]));
        }
        let failed = Outcome::Failed("error executing command in container: gone".to_owned());
        assert_eq!(
            status(&failed)["message"],
            "Internal error occurred: error executing command in container: gone"
        );
        assert_eq!(status(&failed)["reason"], "InternalError");
    }
}
