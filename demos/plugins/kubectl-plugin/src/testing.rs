//! An API server of a few answers, for tests of plugins on the machine that they are written on.
//!
//! ```
//! use kubectl_plugin::{Call, Plugin, Result, testing::{self, Server}};
//! # struct Nodes;
//! # impl Plugin for Nodes {
//! #     const HELP: &'static str = "";
//! #     fn run(&self, call: &mut Call<'_>) -> Result<()> {
//! #         let nodes = call.client.of_cluster::<k8s_openapi::api::core::v1::Node>();
//! #         Ok(writeln!(call.out, "{}", nodes.list(&Default::default())?.items.len())?)
//! #     }
//! # }
//! let server = Server::default().answer("GET /api/v1/nodes?limit=500", 200, r#"{"items": [{"metadata": {"name": "a"}}]}"#);
//! let outcome = testing::run(&Nodes, "kubectl-nodes", &[], &server);
//! assert_eq!((outcome.code, outcome.out.as_str()), (0, "1\n"));
//! ```

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, Cursor, Read},
    rc::Rc,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    client::Client,
    plugin::{Call, Invocation, Plugin, answer},
    transport::{Request, Response, Transport, TransportError},
};

/// What a plugin's time is in tests: `2026-11-30T08:00:00Z`
const NOW: i64 = 1_796_025_600;

/// Answers requests in the order in which they are expected, and no others.
#[derive(Clone, Debug, Default)]
pub struct Server {
    script: Rc<RefCell<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    expected: VecDeque<(String, Answer)>,
    requests: Vec<Request>,
    pauses: Vec<Duration>,
}

#[derive(Debug)]
enum Answer {
    Response { status: u16, body: Vec<u8>, breaks: bool },
    Nothing(TransportError),
}

/// How a call of a plugin ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code.
    pub code: u8,
    /// What it has written to standard output.
    pub out: String,
    /// What it has written to standard error.
    pub err: String,
}

impl Server {
    /// Expects a request, method and path with query as they are sent, and answers it.
    #[must_use]
    pub fn answer(self, request: &str, status: u16, body: impl Into<Vec<u8>>) -> Self {
        self.expect(request, Answer::Response { status, body: body.into(), breaks: false })
    }

    /// Likewise, and breaks the connection behind the body.
    #[must_use]
    pub fn break_off(self, request: &str, body: impl Into<Vec<u8>>) -> Self {
        self.expect(request, Answer::Response { status: 200, body: body.into(), breaks: true })
    }

    /// Expects a request, and does not answer it.
    #[must_use]
    pub fn fail(self, request: &str, error: TransportError) -> Self {
        self.expect(request, Answer::Nothing(error))
    }

    fn expect(self, request: &str, answer: Answer) -> Self {
        self.script.borrow_mut().expected.push_back((request.to_owned(), answer));
        self
    }

    /// A client of it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(Rc::new(self.clone()), "kubectl-test")
    }

    /// What was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.script.borrow().requests.clone()
    }

    /// What was waited so far. Nothing waits in truth.
    #[must_use]
    pub fn pauses(&self) -> Vec<Duration> {
        self.script.borrow().pauses.clone()
    }

    /// Requests that were expected and have not come.
    #[must_use]
    pub fn outstanding(&self) -> Vec<String> {
        self.script.borrow().expected.iter().map(|(request, _)| request.clone()).collect()
    }
}

impl Transport for Server {
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        let mut script = self.script.borrow_mut();
        script.requests.push(request.clone());
        let asked = format!("{} {}", request.method.as_str(), request.path);
        let answer = match script.expected.pop_front() {
            Some((expected, answer)) if expected == asked => answer,
            Some((expected, _)) => {
                return Err(TransportError::Other(format!("{asked:?} was not expected, but {expected:?}")));
            }
            None => return Err(TransportError::Other(format!("{asked:?} was not expected"))),
        };
        match answer {
            Answer::Response { status, body, breaks } => {
                let end: Box<dyn Read> = if breaks { Box::new(Break) } else { Box::new(io::empty()) };
                Ok(Response { status, retry_after: None, body: Box::new(Cursor::new(body).chain(end)) })
            }
            Answer::Nothing(error) => Err(error),
        }
    }

    fn pause(&self, time: Duration) {
        self.script.borrow_mut().pauses.push(time);
    }
}

/// The end of a connection that nobody meant to end.
struct Break;

impl Read for Break {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the connection broke"))
    }
}

/// Runs a plugin under a name and with words behind it, in the namespace `default` and without colours.
#[must_use]
pub fn run<P: Plugin>(plugin: &P, file: &str, words: &[&str], server: &Server) -> Outcome {
    let arguments = std::iter::once(file).chain(words.iter().copied()).map(str::to_owned);
    let invocation = Invocation::of(arguments);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut call = Call {
        words: invocation.words.clone(),
        client: server.client(),
        namespace: "default".to_owned(),
        out: &mut out,
        err: &mut err,
        colours: false,
        now: || Timestamp::from_second(NOW).unwrap_or_default(),
    };
    let code = answer(plugin, &invocation, &mut call);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Outcome { code, out: text(out), err: text(err) }
}
