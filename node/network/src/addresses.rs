//! The addresses of a network namespace.

use std::net::IpAddr;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;

use crate::{
    domain::Netlink,
    error::{NetworkError, netlink},
};

/// All addresses of this machine in the network namespace of the calling thread. Must be called within a tokio runtime.
///
/// # Errors
/// [`NetworkError`].
pub async fn node_addresses() -> Result<Vec<IpAddr>, NetworkError> {
    let node = Netlink::open().map_err(|source| NetworkError::Namespace { what: "speak netlink", source })?;
    let listed = node.handle.address().get().execute();
    let listed: Vec<_> = listed.try_collect().await.map_err(netlink("list the addresses"))?;
    let addresses = listed.into_iter().flat_map(|message| message.attributes);
    Ok(addresses
        .filter_map(|attribute| match attribute {
            AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(address),
            _ => None,
        })
        .collect())
}
