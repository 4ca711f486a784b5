//! Who is in and should not be any more. One task for all clients of a node: the store tells it what changes, it asks what is
//! now, and ends whom that concerns, through the hub's list of connections. No client has a task, a timer or a question of its
//! own for it.
//!
//! With the store away who is in stays, until the token expires (contract §6.7); what may have changed meanwhile is looked at as
//! soon as it answers again.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use super::Context;
use crate::{
    auth::{Principal, is_cut_off},
    hub::Bearer,
    metrics::unix_ms,
    store::{Change, Notice, StoreError},
    wire::CloseCode,
};

/// What comes within this is looked at together: a list of revocations is one question, and one look at the connections.
const GATHER: Duration = Duration::from_millis(20);
/// A store that did not answer is asked again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// Changes that are kept one by one; beyond, everybody is looked at.
const KEPT_MAX: usize = 10_000;
/// Tokens or users asked about in one question.
const ASKED_AT_ONCE: usize = 4096;

/// What those at the door share with this task.
#[derive(Default)]
pub(super) struct Standing {
    /// Counts up before each look at the connections.
    looks: AtomicU64,
    /// Tokens and users that could not be looked at in time.
    suspects: Mutex<Vec<Change>>,
    suspected: Notify,
}

impl Standing {
    /// To be compared with what it was before a token was judged: if it has changed, the look at the connections may have come
    /// between the answer and the connection's entry, and the token must be judged once more.
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    /// Has a token, its user's cut-off and permissions looked at.
    pub(super) fn suspect(&self, principal: &Principal) {
        let mut suspects = self.suspects();
        // This many are never kept waiting; if they were, the next connection's look would find the same.
        if suspects.len() < KEPT_MAX {
            suspects.extend(principal.jti.clone().map(Change::Token));
            suspects.extend([Change::Permissions(principal.user_id.clone()), Change::CutOffs]);
        }
        self.suspected.notify_one();
    }

    fn suspects(&self) -> MutexGuard<'_, Vec<Change>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be looked at.
#[derive(Default)]
struct Pending {
    everything: bool,
    tokens: HashSet<String>,
    users: HashSet<String>,
    cut_offs: bool,
}

impl Pending {
    fn add(&mut self, notice: Notice) {
        match notice {
            Notice::Everything => self.everything = true,
            Notice::Changes(_) if self.everything => {}
            Notice::Changes(changes) => {
                for change in changes {
                    match change {
                        Change::Token(jti) => drop(self.tokens.insert(jti)),
                        Change::Permissions(user_id) => drop(self.users.insert(user_id)),
                        Change::CutOffs => self.cut_offs = true,
                    }
                }
            }
        }
        if self.everything || self.tokens.len() + self.users.len() > KEPT_MAX {
            *self = Pending { everything: true, ..Pending::default() };
        }
    }

    fn is_empty(&self) -> bool {
        !self.everything && !self.cut_offs && self.tokens.is_empty() && self.users.is_empty()
    }
}

/// Ends who has lost his standing. Until it is dropped; without it a revocation counts from the next connect on.
pub async fn standing(ctx: Arc<Context>) {
    let mut watch = ctx.store.watch();
    let mut pending = Pending::default();
    let mut again_at: Option<Instant> = None;
    let mut refused = false;
    loop {
        tokio::select! {
            notice = watch.next() => match notice {
                Ok(notice) => {
                    if refused != watch.refused().is_some() {
                        refused = !refused;
                        match watch.refused() {
                            Some(why) => tracing::warn!("the store does not tell of changes, so revocations and permissions are looked up every second: {why}"),
                            None => tracing::info!("the store tells of changes again"),
                        }
                    }
                    pending.add(notice);
                    let until = Instant::now() + GATHER;
                    while let Ok(Ok(notice)) = timeout_at(until, watch.next()).await {
                        pending.add(notice);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the store does not tell of revocations");
                    // The shared connection may be well.
                    pending.add(Notice::Everything);
                    tokio::time::sleep(AGAIN).await;
                }
            },
            () = ctx.standing.suspected.notified() => {
                let suspects = std::mem::take(&mut *ctx.standing.suspects());
                pending.add(Notice::Changes(suspects));
            }
            () = sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => {}
        }
        again_at = None;
        if pending.is_empty() {
            continue;
        }
        if pending.everything {
            ctx.auth.forget_grants(None);
        }
        pending.users.iter().for_each(|user_id| ctx.auth.forget_grants(Some(user_id)));
        ctx.standing.looks.fetch_add(1, Ordering::SeqCst);
        match look(&ctx, &pending).await {
            Ok(()) => pending = Pending::default(),
            Err(error) => {
                tracing::debug!(%error, "could not look for revocations");
                again_at = Some(Instant::now() + AGAIN);
            }
        }
    }
}

/// Each by itself: what an ACL forbids of one must not keep the others from being looked at.
async fn look(ctx: &Context, pending: &Pending) -> Result<(), StoreError> {
    let tokens = tokens(ctx, pending).await;
    let cut_offs = cut_offs(ctx, pending).await;
    let permissions = permissions(ctx, pending).await;
    tokens.and(cut_offs).and(permissions)
}

/// Those who are in, each once.
fn users(ctx: &Context, mut which: impl FnMut(&str) -> bool) -> Vec<String> {
    let mut users: HashSet<String> = HashSet::new();
    ctx.hub.each_bearer(|bearer| {
        if which(bearer.user_id) && !users.contains(bearer.user_id) {
            users.insert(bearer.user_id.to_owned());
        }
    });
    users.into_iter().collect()
}

async fn tokens(ctx: &Context, pending: &Pending) -> Result<(), StoreError> {
    if !pending.everything && pending.tokens.is_empty() {
        return Ok(());
    }
    let mut live: HashMap<String, u64> = HashMap::new();
    ctx.hub.each_bearer(|bearer| {
        if let Some(jti) = bearer.jti.filter(|jti| pending.everything || pending.tokens.contains(*jti)) {
            live.insert(jti.to_owned(), bearer.expires_at_ms);
        }
    });
    let tokens: Vec<String> = live.keys().cloned().collect();
    for part in tokens.chunks(ASKED_AT_ONCE) {
        let revoked: HashSet<String> = ctx.store.blacklisted_among(part).await?.into_iter().collect();
        if revoked.is_empty() {
            continue;
        }
        let now_ms = unix_ms();
        revoked.iter().for_each(|jti| ctx.auth.revoked(jti, live.get(jti).copied().unwrap_or(now_ms), now_ms));
        let ended = ctx.hub.end(CloseCode::Revoked, |bearer| bearer.jti.is_some_and(|jti| revoked.contains(jti)));
        tracing::info!(tokens = revoked.len(), connections = ended, "tokens were revoked; their connections are ended");
    }
    Ok(())
}

async fn cut_offs(ctx: &Context, pending: &Pending) -> Result<(), StoreError> {
    if !pending.everything && !pending.cut_offs {
        return Ok(());
    }
    for part in users(ctx, |_| true).chunks(ASKED_AT_ONCE) {
        let found: HashMap<String, u64> = ctx.store.cut_offs(part).await?.into_iter().collect();
        if found.is_empty() {
            continue;
        }
        found.iter().for_each(|(user_id, before_ms)| ctx.auth.cut_off(user_id, *before_ms));
        let out = |bearer: &Bearer<'_>| found.get(bearer.user_id).is_some_and(|before| is_cut_off(bearer.issued_at_ms, *before));
        let ended = ctx.hub.end(CloseCode::Revoked, out);
        if ended > 0 {
            tracing::info!(connections = ended, "tokens issued before a given time were revoked; their connections are ended");
        }
    }
    Ok(())
}

async fn permissions(ctx: &Context, pending: &Pending) -> Result<(), StoreError> {
    if !pending.everything && pending.users.is_empty() {
        return Ok(());
    }
    let concerned = users(ctx, |user_id| pending.everything || pending.users.contains(user_id));
    for part in concerned.chunks(ASKED_AT_ONCE) {
        let granted = ctx.store.permissions_among(part).await?;
        let (ended, told) = ctx.hub.grant(&part.iter().cloned().zip(granted).collect());
        if ended + told > 0 {
            tracing::info!(told, ended, "permissions have changed; connections that may no longer see are ended");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_to_keep_is_everything() {
        let mut pending = Pending::default();
        assert!(pending.is_empty());
        let tokens = |from: usize, to: usize| Notice::Changes((from..to).map(|n| Change::Token(n.to_string())).collect());
        pending.add(tokens(0, KEPT_MAX));
        assert!(!pending.everything && pending.tokens.len() == KEPT_MAX);
        pending.add(tokens(0, KEPT_MAX));
        assert!(!pending.everything, "the same ones again");
        pending.add(Notice::Changes(vec![Change::Permissions("7".into()), Change::CutOffs]));
        assert!(pending.everything && pending.tokens.is_empty() && pending.users.is_empty());
        pending.add(tokens(0, 1));
        assert!(pending.tokens.is_empty() && !pending.is_empty());
    }
}
