//! `poll_oneoff`: sockets are waited for here, files are always ready, and wasmtime-wasi waits for clocks and standard streams
//! at the same time.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::{
    types::{Errno, Eventrwflags, Eventtype},
    wasi_snapshot_preview1 as wasi,
};
use wiggle::GuestMemory;

use super::{
    MODULE, SUCCESS,
    bytes::Bytes,
    sockets::{CoreSockets, Readiness},
};
use crate::state::GuestState;

/// Bytes of a subscription and of an event, in WASI 0.1's layout.
const SUBSCRIPTION_SIZE: u32 = 48;
const SUBSCRIPTION: usize = SUBSCRIPTION_SIZE as usize;
const EVENT: usize = 32;

/// What a guest waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Subscription {
    /// What tells the guest which one an event is about.
    userdata: [u8; 8],
    fd: i32,
    write: bool,
}

impl Subscription {
    /// Reads one, if it is about a descriptor.
    fn read(bytes: &[u8]) -> Option<Self> {
        let [userdata @ .., _, _, _, _, _, _, _, _] = bytes.first_chunk::<16>()?;
        let write = match *bytes.get(8)? {
            tag if tag == Eventtype::FdRead as u8 => false,
            tag if tag == Eventtype::FdWrite as u8 => true,
            _ => return None,
        };
        let fd = i32::from_le_bytes(*bytes.get(16..)?.first_chunk()?);
        Some(Self { userdata: *userdata, fd, write })
    }

    /// The event that it has come.
    fn event(self, readiness: Readiness) -> [u8; EVENT] {
        let kind = if self.write { Eventtype::FdWrite } else { Eventtype::FdRead };
        let flags = if readiness.hung_up { Eventrwflags::FD_READWRITE_HANGUP } else { Eventrwflags::empty() };
        let mut event = [0; EVENT];
        event[..8].copy_from_slice(&self.userdata);
        event[10] = kind as u8;
        event[16..24].copy_from_slice(&readiness.bytes.to_le_bytes());
        event[24..26].copy_from_slice(&flags.bits().to_le_bytes());
        event
    }
}

/// Of what a guest waits for, that which is not wasmtime-wasi's.
#[derive(Clone, Copy, Debug)]
enum Waited {
    Socket(Subscription),
    /// A file with so many bytes behind its position.
    File(Subscription, u64),
}

/// Links the call over wasmtime-wasi's own. The linker must allow shadowing.
pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, GuestState>, (subscriptions, events, count, result): (i32, i32, i32, i32)| {
            Box::new(async move { poll_oneoff(&mut caller, subscriptions, events, count, result).await })
        },
    )?;
    Ok(())
}

async fn poll_oneoff(
    caller: &mut Caller<'_, GuestState>,
    subscriptions: i32,
    events: i32,
    count: i32,
    result: i32,
) -> wasmtime::Result<i32> {
    let (mut memory, state) = super::guest(caller)?;
    // What both are copied to is bounded as what the guest hands to any call.
    let size = count.cast_unsigned().checked_mul(SUBSCRIPTION_SIZE);
    let Some(size) = size.filter(|size| (*size as usize) < state.bounds.call / 2) else {
        return Ok(Errno::Nomem as i32);
    };
    let all = Bytes::of(&mut memory)
        .and_then(|mut bytes| bytes.range(subscriptions.cast_unsigned(), size).map(|all| all.to_vec()));
    let all = match all {
        Ok(all) => all,
        Err(errno) => return Ok(errno as i32),
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for subscription in all.chunks_exact(SUBSCRIPTION) {
        let Some(found) = Subscription::read(subscription) else {
            theirs.extend_from_slice(subscription);
            continue;
        };
        if state.core_sockets.has(found.fd) {
            ours.push(Waited::Socket(found));
        } else if let Some(bytes) = state.core.readable_bytes(found.fd) {
            ours.push(Waited::File(found, bytes));
        } else if let Some(stream) = state.core.standard_stream(found.fd) {
            theirs.extend_from_slice(&subscription[..16]);
            theirs.extend_from_slice(&stream.to_le_bytes());
            theirs.extend_from_slice(&subscription[20..]);
        } else {
            return Ok(Errno::Badf as i32);
        }
    }
    if ours.is_empty() && theirs.is_empty() {
        // Nothing would ever come.
        return Ok(Errno::Inval as i32);
    }
    drop(all);
    let found = match wait(state, &ours, theirs).await? {
        Ok(found) => found,
        Err(errno) => return Ok(errno),
    };
    let written = Bytes::of(&mut memory).and_then(|mut bytes| {
        bytes.put(events.cast_unsigned(), &found)?;
        bytes.put_size(result.cast_unsigned(), found.len() / EVENT)
    });
    Ok(written.map_or_else(|errno| errno as i32, |()| SUCCESS))
}

/// Waits until something has come, and returns the events, one after another; or the errno with which wasmtime-wasi
/// answers for its part.
async fn wait(
    state: &mut GuestState,
    ours: &[Waited],
    mut theirs: Vec<u8>,
) -> wasmtime::Result<Result<Vec<u8>, i32>> {
    // A memory for wasmtime-wasi: its subscriptions, room for their events, and for how many there are.
    let count = theirs.len() / SUBSCRIPTION;
    let at_events = theirs.len();
    let at_count = at_events + count * EVENT;
    theirs.resize(at_count + 4, 0);
    let place = |at: usize| i32::try_from(at).map_err(|_| wasmtime::Error::msg("too many subscriptions"));
    let (events, number, found) = (place(at_events)?, place(count)?, place(at_count)?);
    let (sockets, context) = (&mut state.core_sockets, &mut state.core);
    let (others, ready) = {
        let mut memory = GuestMemory::Unshared(&mut theirs);
        let mut others = pin!(wasi::poll_oneoff(context, &mut memory, 0, events, number, found));
        poll_fn(|context| {
            let ready = ready(sockets, ours, context);
            let others = match number {
                0 => Poll::Pending,
                _ => others.as_mut().poll(context),
            };
            match others {
                Poll::Ready(answer) => Poll::Ready((Some(answer), ready)),
                Poll::Pending if ready.is_empty() => Poll::Pending,
                Poll::Pending => Poll::Ready((None, ready)),
            }
        })
        .await
    };
    let mut events = ready;
    match others.transpose()? {
        None => {}
        Some(SUCCESS) => {
            let found = theirs.get(at_count..).and_then(|bytes| bytes.first_chunk()).copied();
            let found = u32::from_le_bytes(found.unwrap_or_default()) as usize;
            events.extend(theirs.get(at_events..at_events + found.min(count) * EVENT).unwrap_or_default());
        }
        Some(errno) => return Ok(Err(errno)),
    }
    Ok(Ok(events))
}

/// The events of those that have come.
fn ready(sockets: &mut CoreSockets, wanted: &[Waited], context: &mut Context<'_>) -> Vec<u8> {
    let mut events = Vec::new();
    for waited in wanted {
        let (subscription, readiness) = match waited {
            Waited::File(subscription, bytes) => {
                let hung_up = !subscription.write && *bytes == 0;
                (subscription, Poll::Ready(Readiness { bytes: (*bytes).max(1), hung_up }))
            }
            Waited::Socket(subscription) => {
                let Some(socket) = sockets.get(subscription.fd) else { continue };
                let readiness = match subscription.write {
                    false => socket.poll_readable(context),
                    true => socket.poll_writable(context),
                };
                (subscription, readiness)
            }
        };
        if let Poll::Ready(readiness) = readiness {
            events.extend(subscription.event(readiness));
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_and_events_are_laid_out_as_wasi_has_them() {
        let mut bytes = [0; SUBSCRIPTION];
        bytes[..8].copy_from_slice(&7_u64.to_le_bytes());
        bytes[16..20].copy_from_slice(&5_u32.to_le_bytes());
        assert_eq!(Subscription::read(&bytes), None, "a clock");
        for (tag, write) in [(1, false), (2, true)] {
            bytes[8] = tag;
            let expected = Subscription { userdata: 7_u64.to_le_bytes(), fd: 5, write };
            assert_eq!(Subscription::read(&bytes), Some(expected));
        }
        bytes[8] = 3;
        assert_eq!(Subscription::read(&bytes), None);
        assert_eq!(Subscription::read(&bytes[..20]), None);
        let subscription = Subscription { userdata: 7_u64.to_le_bytes(), fd: 5, write: false };
        let event = subscription.event(Readiness { bytes: 258, hung_up: true });
        let mut expected = [0; EVENT];
        (expected[0], expected[10], expected[16], expected[17], expected[24]) = (7, 1, 2, 1, 1);
        assert_eq!(event, expected);
    }
}
