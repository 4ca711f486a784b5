//! Word of what changes about people who are in already: tokens that are revoked, permissions. A store tells of it by itself, so that
//! thousands of connections are watched without a question for each.

use super::{StoreError, embedded, redis};

/// One thing that may have changed; what it is now must be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `jwt:blacklist:{jti}`.
    Token(String),
    /// What the store grants this user: `permissions:user:{user_id}`, `permissions:resource:auditcast:{user_id}`.
    Permissions(String),
    /// Somebody's tokens issued before some time.
    CutOffs,
}

/// What a [`Watch`] has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Anything may have changed: at the beginning, after a lost connection, where changes came too fast to be kept, and every
    /// second of a store that does not tell.
    Everything,
    Changes(Vec<Change>),
}

/// Changes that wait to be taken; more of them are [`Notice::Everything`].
pub(super) const WAITING: usize = 4096;

/// Tells of changes, over a connection of its own.
pub enum Watch {
    Redis(Box<redis::Watch>),
    Embedded(embedded::Watch),
}

impl Watch {
    /// The next notice, the first being [`Notice::Everything`]. Cancel-safe. After an error anything may have changed; the
    /// caller waits a little and goes on.
    pub async fn next(&mut self) -> Result<Notice, StoreError> {
        match self {
            Watch::Redis(watch) => watch.next().await,
            Watch::Embedded(watch) => watch.next().await,
        }
    }

    /// Why the store does not tell of changes, so that [`Watch::next`] says [`Notice::Everything`] every second instead; `None`
    /// where it tells, or has not been asked yet.
    pub fn refused(&self) -> Option<&str> {
        match self {
            Watch::Redis(watch) => watch.refused(),
            Watch::Embedded(_) => None,
        }
    }
}
