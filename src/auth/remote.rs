//! Sets of keys that are somewhere else (`auth.keys.NAME.jwks_url`): fetched at the start, again and again, and when a token names a
//! key that nobody knows. What was fetched last stays in force until there is something better.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::join_all;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::{Algorithm, Auth, Jwks, Key, Options, fetch::Endpoint};

/// Keys are asked for at most so often for the sake of tokens that name an unknown one: anybody can write such a token.
const UNKNOWN_EVERY_MS: u64 = 30_000;
/// Whoever brought such a token waits so long for the answer: a little longer than the question may take.
const WAIT: Duration = Duration::from_secs(6);
/// After a failure keys are asked for again after this, then twice this, and so on.
const AGAIN: Duration = Duration::from_secs(5);

/// A set of keys by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// What people know it by: `auth.keys.idp`.
    pub from: String,
    pub endpoint: Endpoint,
    /// What its keys may do; empty: what each says of itself.
    pub algorithms: Vec<Algorithm>,
}

impl Remote {
    /// What is there now. The error goes on after the set's name.
    pub async fn fetch(&self) -> Result<Jwks, String> {
        let text = self.endpoint.get().await?;
        let set = Jwks::read(&self.from, &text, &self.algorithms, false)?;
        if set.keys.is_empty() {
            return Err(match set.faults.first() {
                Some(fault) => format!("has no key that can be used: {fault}"),
                None => "has no key for signatures of tokens in it".to_owned(),
            });
        }
        Ok(set)
    }
}

/// A set, and what was said of it last.
#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    said: String,
}

pub(super) struct Remotes {
    /// What was configured, without what was fetched.
    configured: Mutex<(Options, BTreeMap<String, Known>)>,
    wanted: Notify,
    /// Somebody is asking, or about to.
    asking: AtomicBool,
    asked_ms: AtomicU64,
    /// How often everything was asked for.
    rounds: watch::Sender<u64>,
}

impl Remotes {
    pub(super) fn new(options: Options) -> Remotes {
        Remotes {
            configured: Mutex::new((options, BTreeMap::new())),
            wanted: Notify::new(),
            asking: AtomicBool::new(false),
            asked_ms: AtomicU64::new(0),
            rounds: watch::Sender::new(0),
        }
    }

    /// Changes what is configured or known, and puts into force what comes of it.
    fn change(&self, force: &ArcSwap<Options>, change: impl FnOnce(&mut Options, &mut BTreeMap<String, Known>)) {
        let mut configured = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        let (options, known) = &mut *configured;
        change(options, known);
        let mut in_force = options.clone();
        for remote in &options.remotes {
            in_force.keys.extend(known.get(&name_of(remote)).into_iter().flat_map(|known| known.keys.iter().cloned()));
        }
        known.retain(|name, _| options.remotes.iter().any(|remote| name_of(remote) == *name));
        force.store(Arc::new(in_force));
    }

    /// New options; those of their sets that are known already stay known, the others are asked for.
    pub(super) fn configure(&self, force: &ArcSwap<Options>, new: Options) {
        self.change(force, |options, _| *options = new);
        self.wanted.notify_one();
    }
}

/// Another URL by the same name is another set.
fn name_of(remote: &Remote) -> String {
    format!("{} {:?} {:?}", remote.from, remote.endpoint, remote.algorithms)
}

impl Auth {
    /// Fetches sets of keys, again and again, until it is dropped. Without it, and before its first answer, their tokens are refused.
    pub async fn keep_keys(self) {
        let remotes = &self.inner.remotes;
        let mut failures = 0;
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = remotes.wanted.notified() => {}
            }
            let options = self.options();
            remotes.asking.store(true, Ordering::SeqCst);
            let good = self.fetch_all(&options.remotes).await;
            remotes.asking.store(false, Ordering::SeqCst);
            remotes.rounds.send_modify(|rounds| *rounds += 1);
            failures = if good { 0 } else { failures + 1 };
            pause = match failures {
                0 => options.jwks_refresh,
                n => AGAIN.saturating_mul(1 << (n - 1).min(10)).min(options.jwks_refresh),
            };
        }
    }

    /// `false`: a set could not be had.
    async fn fetch_all(&self, remotes: &[Remote]) -> bool {
        let answers = join_all(remotes.iter().map(Remote::fetch)).await;
        let mut good = true;
        self.inner.remotes.change(&self.inner.options, |_, known| {
            for (remote, answer) in remotes.iter().zip(answers) {
                let known = known.entry(name_of(remote)).or_default();
                let from = &remote.from;
                let said = match answer {
                    Ok(set) => {
                        known.keys = set.keys;
                        set.faults.iter().map(|fault| format!("{fault}; it is left out")).collect::<Vec<_>>().join(", ")
                    }
                    Err(text) => {
                        good = false;
                        let then =
                            if known.keys.is_empty() { "its tokens are refused" } else { "the keys of before stay in force" };
                        format!("{text}; {then}")
                    }
                };
                // Once for each thing there is to say.
                if said != known.said {
                    match said.as_str() {
                        "" => tracing::info!("the keys of {from} are well again"),
                        said => tracing::warn!("the set of keys {from} {said}"),
                    }
                    known.said = said;
                }
            }
        });
        good
    }

    /// Somebody brought a token of a key that is not known here. `true`: keys were asked for since, so it may be known now.
    pub(super) async fn look_again(&self, now_ms: u64) -> bool {
        let remotes = &self.inner.remotes;
        let mut rounds = remotes.rounds.subscribe();
        let due = |asked: u64| (now_ms >= asked.saturating_add(UNKNOWN_EVERY_MS)).then_some(now_ms);
        if remotes.asked_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, due).is_ok() {
            remotes.asking.store(true, Ordering::SeqCst);
            remotes.wanted.notify_one();
        } else if !remotes.asking.load(Ordering::SeqCst) {
            return false;
        }
        timeout(WAIT, rounds.changed()).await.is_ok_and(|changed| changed.is_ok())
    }
}
