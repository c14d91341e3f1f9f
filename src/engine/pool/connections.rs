//! The pool's view of its connections: which are open, which are proven, and how they end.

use std::time::Instant;

use super::{ConnectionFailure, FailureKind, Pool, PoolState};
use crate::session::Mode;

/// A connection is fruitless if it became ready and carried no message. After this number of
/// consecutive fruitless connections, the engine stops, because each of them may leave a message
/// with an unknown outcome.
const MAX_FRUITLESS: u32 = 10;

/// After this number of consecutive fruitless connections, the engine disables PIPELINING, if it has
/// never worked. Some servers announce PIPELINING, but discard a command that arrives together with
/// another command.
const FRUITLESS_BEFORE_SEQUENTIAL: u32 = 2;

/// The effect of an outcome on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum ConnectionEffect {
    /// The connection can carry more messages.
    Keep,
    /// The relay accepts no more messages on the connection.
    Full,
    /// The relay allows fewer connections.
    Surplus,
}

/// What a connection carried before the current message.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct ConnectionUse {
    /// Whether the connection carried a message.
    pub(in crate::engine) used: bool,
    /// Whether the relay has processed a message on the connection, perhaps the current one.
    pub(in crate::engine) proven: bool,
}

/// The use of a connection whose message was not sent. The next step of such a message does not
/// depend on the connection.
pub(in crate::engine) const UNKNOWN_USE: ConnectionUse = ConnectionUse {
    used: true,
    proven: false,
};

/// The end of a connection that was ready.
pub(in crate::engine) struct ConnectionEnd<'a> {
    /// The time at which the connection was opened, by the pool's clock.
    pub(in crate::engine) opened: Instant,
    /// Whether a transaction was started on the connection.
    pub(in crate::engine) started: bool,
    /// The number of messages that the connection carried.
    pub(in crate::engine) messages: usize,
    /// Whether the relay has processed a message on the connection.
    pub(in crate::engine) proven: bool,
    /// The reason for the end; `None` if the engine ended the connection, or if the relay closed an
    /// idle connection.
    pub(in crate::engine) failure: Option<&'a ConnectionFailure>,
    /// Whether the relay stated that the connection had carried its maximum number of messages.
    pub(in crate::engine) full: bool,
    /// Whether the relay allows fewer connections.
    pub(in crate::engine) surplus: bool,
    /// Whether the relay refused no message on the connection.
    pub(in crate::engine) clean: bool,
    /// Whether the connection carried the maximum number of messages that the engine sends on one
    /// connection.
    pub(in crate::engine) exhausted: bool,
}

impl Pool {
    /// Records that a connection became ready for mail.
    pub(in crate::engine) fn connection_ready(&self, mode: Mode) {
        let mut state = self.state.borrow_mut();
        state.opening -= 1;
        state.open += 1;
        state.connected += 1;
        state.mode = Some(mode);
        state.failed_logins = 0;
        self.queue.engine.notify_one();
    }

    /// Records that the relay accepted the first message on a connection.
    pub(in crate::engine) fn connection_proven(&self) {
        let mut state = self.state.borrow_mut();
        state.proven += 1;
        let proven = state.proven;
        state.rate_controller.connection_proven(proven);
        self.queue.engine.notify_one();
    }

    /// Records that an open connection became idle or is no longer idle.
    pub(in crate::engine) fn set_idle(&self, idle: bool, proven: bool) {
        let mut state = self.state.borrow_mut();
        if idle {
            state.idle += 1;
            state.idle_proven += usize::from(proven);
        } else {
            state.idle -= 1;
            state.idle_proven -= usize::from(proven);
        }
    }

    /// Records that a connection did not become ready. The table at the head of this file lists the
    /// effects.
    pub(in crate::engine) fn connection_failed(&self, failure: &ConnectionFailure) {
        let now = self.clock.now();
        let mut state = self.state.borrow_mut();
        state.opening -= 1;
        let stop = match failure.kind {
            FailureKind::Permanent | FailureKind::Credentials => true,
            _ if state.open > 0 => false,
            FailureKind::Refused => true,
            // If the relay was never reached, the settings are probably wrong, so the engine stops.
            FailureKind::Unreachable if state.connected == 0 => true,
            FailureKind::LoginRefused => {
                state.failed_logins += 1;
                state.failed_logins >= self.settings.retry.max_attempts
            }
            FailureKind::Unreachable | FailureKind::Temporary => !self.settings.retry.is_patient(),
        };
        if !stop {
            self.count_failure(&mut state, failure, now, false);
        }
        drop(state);
        if stop {
            self.stop(failure);
        }
        self.stop_if_stalled(now, Some(failure));
        self.queue.engine.notify_one();
    }

    /// Records a connection that failed or carried no message. `by_rate` states whether the relay
    /// refused its first message and stated a rate.
    fn count_failure(
        &self,
        state: &mut PoolState,
        failure: &ConnectionFailure,
        now: Instant,
        by_rate: bool,
    ) {
        state.last_refusal = Some(failure.text.as_str().into());
        let (others, seconds) = (state.open, self.clock.seconds(now));
        if others > 0 {
            let controller = &mut state.rate_controller;
            controller.connection_refused(seconds, others, by_rate);
        } else {
            let (random, backoff) = (self.random(), self.settings.retry.backoff);
            let pause = match failure.kind {
                FailureKind::LoginRefused => backoff.delay(state.failed_logins, random),
                _ => 0.0,
            };
            let by_limit = failure.states_limit();
            let controller = &mut state.rate_controller;
            controller.connection_failed(seconds, pause, random, by_limit);
        }
    }

    /// Records that a connection ended before it became ready, and that this is not a failure.
    /// Either no message needed the connection, or the discard test failed.
    pub(in crate::engine) fn connection_renewed(&self) {
        self.state.borrow_mut().opening -= 1;
        self.queue.engine.notify_one();
    }

    /// Records the end of a connection that was ready.
    pub(in crate::engine) fn connection_closed(&self, closed: &ConnectionEnd<'_>) {
        let now = self.clock.now();
        let (seconds, opened) = (self.clock.seconds(now), self.clock.seconds(closed.opened));
        let messages = closed.messages;
        let mut state = self.state.borrow_mut();
        state.open -= 1;
        state.proven -= usize::from(closed.proven);
        if messages > 0 {
            state.fruitless = 0;
            state.pipelining_worked |= state.mode > Some(Mode::Off);
        }
        match closed.failure {
            _ if closed.surplus => {}
            Some(failure) if messages == 0 => {
                state.fruitless += 1;
                // A server that discards pipelined commands sends no reply to them. So PIPELINING
                // may be the cause of failures without a reply.
                let no_reply = failure.reply.is_none() && !state.pipelining_worked;
                state.pipelining_disabled |=
                    no_reply && state.fruitless >= FRUITLESS_BEFORE_SEQUENTIAL;
                let by_rate = failure.states_rate();
                self.count_failure(&mut state, failure, now, by_rate);
            }
            _ if closed.full && messages > 0 => {
                state
                    .rate_controller
                    .connection_ended(seconds, opened, messages, true);
            }
            Some(_) if closed.clean => {
                state
                    .rate_controller
                    .connection_ended(seconds, opened, messages, false);
            }
            None if closed.exhausted => state.rate_controller.connection_filled(),
            _ => {}
        }
        // A caller that allows only one attempt needs the first refusal at once. If a transaction
        // was started, its message reports the refusal.
        let is_first =
            !closed.started && !state.ready.is_empty() && !self.settings.retry.is_patient();
        let fruitless = state.open == 0 && (is_first || state.fruitless >= MAX_FRUITLESS);
        drop(state);
        match closed.failure {
            Some(failure) if fruitless => self.stop(failure),
            failure => self.stop_if_stalled(now, failure),
        }
        self.queue.engine.notify_one();
    }

    /// Stops the engine if the relay has accepted no message for some time. `failure` is the last
    /// failure of a connection, if the relay did not refuse a message.
    pub(in crate::engine) fn stop_if_stalled(
        &self,
        now: Instant,
        failure: Option<&ConnectionFailure>,
    ) {
        let state = self.state.borrow();
        let stalled = state.in_flight == 0
            && state.stop.is_none()
            && state.rate_controller.is_stalled(self.clock.seconds(now));
        let refusal = state.refusal.clone();
        drop(state);
        match (failure, refusal) {
            _ if !stalled => {}
            (Some(failure), _) => self.stop(failure),
            (None, Some(reply)) => {
                self.stop(&ConnectionFailure::stalled(&self.settings.target, reply))
            }
            (None, None) => {}
        }
    }
}
