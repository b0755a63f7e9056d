//! What can go wrong, and where.

use std::{io, net::IpAddr};

/// The network of pods could not be set up or changed. Every message says what was tried.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A namespace could not be made, found or entered.
    #[error("cannot {what}: {source}")]
    Namespace {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel has refused something.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A setting of the kernel could not be changed.
    #[error("cannot write {value} to {path}: {source}")]
    Sysctl {
        /// The file.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An address is another domain's.
    #[error("the address {address} is in use in {domain}")]
    InUse {
        /// The address.
        address: IpAddr,
        /// Where it is used.
        domain: String,
    },
    /// The worker has been started elsewhere.
    #[error("the process {pid} is not in the network namespace of {domain}")]
    Elsewhere {
        /// The process.
        pid: u32,
        /// Where it should be.
        domain: String,
    },
    /// All numbers of links are taken.
    #[error("there are more than {0} network namespaces")]
    TooMany(u16),
}

/// The kernel's answer to a request, as an error of the system.
pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let what = what.into();
    move |error| NetworkError::Netlink { what, source: system(error) }
}

/// What the kernel has said, where it has said anything.
fn system(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// Takes "it is there already" and "it is not there" for what was wanted.
pub(crate) fn unless(
    result: Result<(), rtnetlink::Error>,
    fine: &[i32],
    what: impl Into<String>,
) -> Result<(), NetworkError> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message)) if fine.contains(&message.raw_code().abs()) => Ok(()),
        other => other.map_err(netlink(what)),
    }
}
