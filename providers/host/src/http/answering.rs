//! A request that has an instance, to itself or with others.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use tokio::time::{Instant, timeout_at};

use super::{
    call::{Call, NotBegun, Progress},
    gate::Place,
    instances::{HttpInstance, NoInstance},
    request_body::RequestBody,
    served::Served,
    shared::{Seat, SharedCall},
};

/// Where a request is answered.
pub(super) enum Room {
    /// An instance of its own.
    Own(Place, Box<HttpInstance>),
    /// One with others.
    Shared(Seat),
}

/// There is no room for a request.
pub(super) enum NoRoom {
    NoInstance(NoInstance),
    TooLate,
}

impl Served {
    /// Finds a place where a request is answered.
    pub(super) async fn room(self: &Arc<Self>, until: Instant) -> Result<Room, NoRoom> {
        if self.is_shared() {
            return self.seat(until).await.map(Room::Shared).map_err(NoRoom::NoInstance);
        }
        let overloaded = |_| NoRoom::NoInstance(NoInstance::Overloaded);
        let place = self.gate.enter(until).await.map_err(overloaded)?;
        let instance = timeout_at(until, self.instance(&place, until)).await;
        let instance = instance.map_err(|_| NoRoom::TooLate)?.map_err(NoRoom::NoInstance)?;
        Ok(Room::Own(place, instance))
    }
}

/// A request that a guest answers.
pub(super) enum Answering {
    Own(Call),
    Shared(SharedCall),
}

impl Answering {
    /// Asks the guest, which has until then to begin its answer.
    pub(super) fn new(
        served: Arc<Served>,
        room: Room,
        until: Instant,
        request: Request<RequestBody>,
    ) -> Self {
        match room {
            Room::Own(place, instance) => Self::Own(Call::new(served, instance, place, request)),
            Room::Shared(seat) => Self::Shared(seat.begin(served, until, request)),
        }
    }

    /// Until the guest has answered, or has given the request back.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Progress, NotBegun>> {
        match self {
            Self::Own(call) => call.poll_answer(cx).map(Ok),
            Self::Shared(call) => call.poll_answer(cx),
        }
    }

    /// Until the guest has returned.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Own(call) => call.poll_over(cx),
            Self::Shared(call) => call.poll_over(cx),
        }
    }

    /// The guest goes on by itself.
    pub(super) fn is_driven(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Own(call) => call.is_over(),
            Self::Shared(call) => call.is_over(),
        }
    }

    /// It is over, and the log has why.
    pub(super) fn has_failed(&self) -> bool {
        match self {
            Self::Own(call) => call.has_failed(),
            Self::Shared(call) => call.has_failed(),
        }
    }

    pub(super) fn served(&self) -> &Arc<Served> {
        match self {
            Self::Own(call) => call.served(),
            Self::Shared(call) => call.served(),
        }
    }

    /// What is said of it in the log.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Own(call) => call.name(),
            Self::Shared(call) => call.name(),
        }
    }

    /// The guest was too slow, and this is about to be dropped: with the instance, if that is its own.
    pub(super) fn time_is_up(&mut self) {
        match self {
            Self::Own(_) => {}
            Self::Shared(call) => call.time_is_up(),
        }
    }
}

/// The rest of a call that nobody waits for.
pub(super) struct Rest(pub(super) Answering);

impl Future for Rest {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_over(cx)
    }
}
