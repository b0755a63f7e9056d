//! What makes a guest of a module: plain values.

use std::{any::Any, fmt, io, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    account::{Account, Exceeded},
    http::InvalidCertificate,
    input::InputSource,
    listen::{self, ListenPort},
    lookup::NameFiles,
    network::{DeniedNetworks, EgressList, Firewall, Network, PodPorts, SocketRules},
    outgoing::{HttpConnections, HttpProxy, HttpRule, HttpSender, PrivateAuthorities},
    output::Output,
};

/// What makes a guest of a module.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Arguments, `argv[0]` included.
    pub argv: &'a [String],
    /// The whole environment, in order; the guest sees nothing else.
    pub env: &'a [(String, String)],
    /// Initial working directory, for guests that ask (components; WASI 0.1 has no such call).
    pub working_dir: Option<&'a str>,
    /// The directories that the guest has, `/` first. Without any it has an empty `/`.
    pub preopens: &'a [Preopen],
    /// Below the preopens there may be files that neither an image nor a guest made, such as named pipes.
    pub has_volumes: bool,
    /// What it may do with sockets.
    pub network: &'a Network,
    /// What guests of its pod listen on; the same for all of them. `None` for a guest that is alone.
    pub pod_ports: Option<&'a Arc<PodPorts>>,
    /// What it does not reach, unless it has the host's network.
    pub denied_networks: &'a DeniedNetworks,
    /// What is allowed of its pod's traffic; the same for all guests of it. `None` for a guest without rules.
    pub firewall: Option<&'a Arc<Firewall>>,
    /// All that it may reach, if there is such a list.
    pub egress: Option<&'a EgressList>,
    /// What else holds for its sockets.
    pub socket_rules: &'a SocketRules,
    /// Connections of its pod for HTTP; the same for all guests of it. `None` for a guest that is alone.
    pub http_connections: Option<&'a Arc<HttpConnections>>,
    /// Whom it trusts for HTTPS besides those that this machine trusts.
    pub authorities: Option<&'a Arc<PrivateAuthorities>>,
    /// What its requests for HTTP go through, as far as they do not go past it. `None`: they go where they are to.
    pub http_proxy: Option<&'a Arc<HttpProxy>>,
    /// Who sends its requests for HTTP in the place of the host, which then asks nobody else about them.
    pub http_sender: Option<&'a Arc<dyn HttpSender>>,
    /// Asked about each of its requests for HTTP before anything else is. `None`: the list above is all.
    pub http_rule: Option<&'a Arc<dyn HttpRule>>,
    /// What its look-ups of names go by. `None`: by the host's [`Resolver`](crate::Resolver).
    pub name_files: Option<&'a Arc<NameFiles>>,
    /// Ports on which it listens from its start, if it is a module of WASI 0.1 that can accept connections, and its network
    /// lets it.
    pub listen_ports: &'a [ListenPort],
    /// Where its output goes.
    pub output: &'a Arc<dyn Output>,
    /// Its output streams say that they are terminals, where [`Output::is_terminal`] says nothing of its own. Programs in C
    /// hold back their lines otherwise, and some programs colour theirs.
    pub terminal: bool,
    /// What it reads at its standard input.
    pub input: Input<'a>,
    /// What it uses goes on this account, and its limits are this account's.
    pub account: &'a Arc<Account>,
    /// What its embedder has in it besides the states of plugins.
    pub extension: Option<&'a Arc<dyn GuestExtension>>,
    /// Its standard input, if there is nothing else at it, ends when this is cancelled; without it, it is at its end from the
    /// start.
    pub notice: Option<&'a CancellationToken>,
}

impl<'a> Setup<'a> {
    /// A guest that has nothing but somewhere to write to and an account: no arguments, environment or files, nothing that it
    /// listens on or reaches, no name that it looks up. The others are made of it: `Setup { argv, ..Setup::isolated(…) }`.
    #[must_use]
    pub fn isolated(output: &'a Arc<dyn Output>, account: &'a Arc<Account>) -> Self {
        static NOTHING_DENIED: DeniedNetworks = DeniedNetworks { networks: Vec::new(), host: false };
        static NOTHING_REACHED: EgressList = EgressList::NOTHING;
        Self {
            argv: &[],
            env: &[],
            working_dir: None,
            preopens: &[],
            has_volumes: false,
            network: &Network::Outgoing,
            pod_ports: None,
            denied_networks: &NOTHING_DENIED,
            firewall: None,
            egress: Some(&NOTHING_REACHED),
            socket_rules: SocketRules::none(),
            http_connections: None,
            authorities: None,
            http_proxy: None,
            http_sender: None,
            http_rule: None,
            name_files: None,
            listen_ports: &[],
            output,
            terminal: false,
            input: Input::Nothing,
            account,
            extension: None,
            notice: None,
        }
    }
}

/// Makes what an embedder has in each guest of a setup, for host functions that it links itself: see
/// [`GuestState::extension_mut`](crate::GuestState::extension_mut).
pub trait GuestExtension: fmt::Debug + Send + Sync + 'static {
    /// The state of a guest that is being made.
    fn state(&self) -> Box<dyn Any + Send>;
}

/// What a guest reads at its standard input.
#[derive(Clone, Copy, Debug, Default)]
pub enum Input<'a> {
    /// Nothing ever comes.
    #[default]
    Nothing,
    /// What comes at this process' own, for a host with one guest. It is read when the guest wants to read.
    Process,
    /// What the embedder has for it.
    From(&'a Arc<dyn InputSource>),
}

/// A directory that a guest is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preopen {
    /// Where it is on this host.
    pub host: PathBuf,
    /// Where the guest sees it.
    pub guest: String,
    /// Whether the host lets a write pass on to the kernel, which may have its own opinion.
    pub writable: bool,
}

/// A guest could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Its root directory could not be opened.
    #[error("cannot open the root directory {path}: {reason}")]
    Root {
        /// The directory on this host.
        path: String,
        /// Why not.
        reason: String,
    },
    /// One of its ports cannot be listened on; it may be free again later.
    #[error(
        "cannot listen on {address}, for the container's port {port}: {source}; another container of the pod, or an earlier one that still ends, may have it"
    )]
    Listen {
        /// Where it would have listened.
        address: SocketAddr,
        /// The port, with its name.
        port: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has more ports than a guest has listeners.
    #[error(
        "the container has {wanted} ports of TCP, and a module of WASI 0.1 listens on {} at most",
        listen::MOST
    )]
    TooManyPorts {
        /// How many it has.
        wanted: usize,
    },
    /// It serves HTTP, and has no address for it.
    #[error(
        "the container serves HTTP, and its pod has no address of its own to listen on; give its first containerPort a hostPort or the pod `hostNetwork: true`, or run the node with --network=pod or --network=cni"
    )]
    NoAddress,
    /// It is to serve HTTP over TLS, and cannot with this certificate.
    #[error("its certificate: {0}")]
    Certificate(#[from] InvalidCertificate),
    /// It is to serve HTTP, and cannot.
    #[error("the module exports no handler of HTTP requests")]
    NoHttp,
    /// Several requests at a time are asked for, and its module takes one.
    #[error(
        "the container asks for several requests at a time in one instance (instance-concurrency), which only components of WASI 0.3 can answer, and its module is none; leave it out, or build the component for wasi:http/handler@0.3"
    )]
    NoConcurrency,
    /// The account has no memory left for one more guest, or too little for the first.
    #[error(
        "out of memory before its start: the limit is {limit} bytes, and with what the host holds for this instance the container would use {wanted}; raise limits.memory"
    )]
    Memory {
        /// Bytes that would be used.
        wanted: u64,
        /// Bytes that may be used.
        limit: u64,
    },
}

impl From<Exceeded> for PrepareError {
    fn from(Exceeded { wanted, limit }: Exceeded) -> Self {
        Self::Memory { wanted, limit }
    }
}

/// Bytes that are counted for each guest besides what it says and is told: its store and the pages of its
/// stack that a guest touches that does not recurse, measured.
const HELD_PER_GUEST: u64 = 32 << 10;

impl Setup<'_> {
    /// Bytes that the host holds for the guest from its start: its store and the pages of its stack, what it
    /// is told, and room for what it says.
    pub(crate) fn held(&self) -> u64 {
        let names = self.name_files.map_or(0, |files| files.held());
        self.held_by_instance().saturating_add(names).saturating_add(self.output.held())
    }

    /// The same, without what several instances of a container share.
    pub(crate) fn held_by_instance(&self) -> u64 {
        let told = self.argv.iter().map(String::len).sum::<usize>()
            + self.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        HELD_PER_GUEST.saturating_add(told as u64)
    }
}
