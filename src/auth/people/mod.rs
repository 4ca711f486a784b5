//! Sign-in for people (contract §10): accounts in the store, passwords, a second factor, lock-outs, sessions.
//!
//! | file | subject |
//! |---|---|
//! | `password` | what is good enough, bcrypt and B's old hashes, equal times, threads for it |
//! | `totp` | the second factor |
//! | `attempts` | failures and lock-outs (pure) |
//! | `person` | the account with its sessions (pure) |
//!
//! What a session is: a family of refresh tokens, of which the newest is good, and the access tokens that were issued with them.
//! Whatever ends a session blacklists these. A session ends by signing out, by an old refresh token used again, by its person
//! being disabled, deleted, given another password, role or factor, and when nobody is there: activity is signing in, a refresh
//! that does not say otherwise, and a request to the API with the access token in the `Authorization` header. What a page's cookie
//! brings does not count, or a page left open would never end.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    Auth, Claims, IssueError, Principal, Secret,
    journal::{Entry, LoginFailure},
};
use crate::store::{
    Store, StoreError,
    record::{Body, Change, Changed, Table},
};

pub mod attempts;
pub mod password;
pub mod person;
pub mod totp;

use attempts::Attempts;
use password::{Bench, Lane};
use person::{Chance, Grant, Person, RefreshToken, Stale, Times};

/// `[auth]` and `[password]`, the part on people.
#[derive(Clone, Debug)]
pub struct Options {
    /// Life of an access token.
    pub access_ttl: Duration,
    /// `SESSION_TIMEOUT_MINUTES`: without activity a session ends after so long.
    pub session_timeout: Duration,
    /// `REFRESH_TOKEN_MINUTES`.
    pub refresh_ttl: Duration,
    /// bcrypt's.
    pub bcrypt_cost: u32,
    pub policy: password::Policy,
    pub lockout: attempts::Limits,
    /// `ENCRYPTION_KEY`: seals the second factors' secrets.
    pub encryption_key: Option<Secret>,
}

impl Options {
    pub fn times(&self) -> Times {
        Times { access_ms: ms(self.access_ttl), refresh_ms: ms(self.refresh_ttl), idle_ms: ms(self.session_timeout) }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Passwords that wait to be looked at, in each lane; more are sent away.
const WAITING_MAX: usize = 32;
/// Looks at a record that others keep changing.
const TRIES: usize = 16;
/// Names whose attempts are counted at once, one after the other for each.
const STRIPES: usize = 64;
/// The store hears of activity so many times in the time after which a session ends without any.
const TOUCHES: u64 = 16;
/// Sessions whose activity a node keeps in mind; what is beyond counts for less until some are over.
const TOUCHED_MAX: usize = 100_000;

/// Signs people in. Cloning is cheap; every clone is the same.
#[derive(Clone)]
pub struct People {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    store: Store,
    auth: Auth,
    bench: Bench,
    stripes: Vec<tokio::sync::Mutex<()>>,
    /// When the store heard of a session's activity last, ms.
    touched: Mutex<HashMap<String, u64, ahash::RandomState>>,
}

/// A sign-in or a renewal that was good.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    pub access_token: String,
    pub refresh_token: String,
    pub expires_in_s: u64,
    pub refresh_expires_in_s: u64,
    pub session: String,
    pub user_id: String,
    pub username: String,
    pub role: Option<String>,
    pub permissions: Vec<String>,
}

/// A person, and the text in the store that says so: another version may have written it otherwise than this one would.
struct Found {
    person: Person,
    body: Body,
}

impl std::ops::Deref for Found {
    type Target = Person;

    fn deref(&self) -> &Person {
        &self.person
    }
}

/// Why it was not.
#[derive(Debug)]
pub enum Refused {
    /// Whatever was wrong with it.
    Wrong,
    /// Locked out, or renewed too often: in so many ms again.
    Later(u64),
    /// Too many passwords wait to be looked at.
    Busy,
    /// The refresh token is none, or no longer good.
    Stale(Stale),
    Store(StoreError),
    Issue(IssueError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Refused {
        Refused::Store(error)
    }
}

/// What somebody brings to sign in with.
pub struct Credentials<'a> {
    pub username: &'a str,
    pub password: &'a str,
    pub totp: Option<&'a str>,
    /// The network he comes from, as limits count it.
    pub address: &'a str,
    pub peer: IpAddr,
}

/// What the journal is told of an attempt, and nobody else.
struct Seen {
    /// Id and name, where there is such a user.
    who: Option<(String, String)>,
    why: LoginFailure,
    /// It was one too many, unless it was good.
    locks_ms: Option<u64>,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { who: None, why: LoginFailure::UnknownUser, locks_ms: None }
    }
}

impl People {
    pub fn new(options: Options, store: Store, auth: Auth) -> People {
        // Half of the machine at most for strangers' guesses.
        let at_once = (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1);
        let stripes = (0..STRIPES).map(|_| tokio::sync::Mutex::default()).collect();
        let bench = Bench::new(at_once, WAITING_MAX);
        People { inner: Arc::new(Inner { options, store, auth, bench, stripes, touched: Mutex::default() }) }
    }

    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Signs somebody in. Every wrong combination takes the same way and the same time: the failure is counted, one bcrypt is
    /// computed, nothing tells which part was wrong. What it was stands in the journal.
    pub async fn sign_in(&self, with: Credentials<'_>, now_ms: u64) -> Result<Signed, Refused> {
        let mut seen = Seen::default();
        let signed = self.attempt(&with, now_ms, &mut seen).await;
        let journal = self.inner.auth.journal();
        let about = |entry: Entry| match &seen.who {
            Some((user_id, username)) => entry.from(with.peer).user(user_id, Some(username)),
            None => entry.from(with.peer),
        };
        match &signed {
            Ok(signed) => journal.note(about(Entry::login_success(&signed.session))),
            Err(Refused::Wrong) => {
                journal.note(about(Entry::login_failed(seen.why)));
                if let Some(ms) = seen.locks_ms {
                    journal.note(about(Entry::account_locked(self.inner.options.lockout.failures, ms / 1000)));
                }
            }
            Err(Refused::Later(_)) => journal.note(about(Entry::login_failed(LoginFailure::Locked))),
            Err(_) => {}
        }
        signed
    }

    async fn attempt(&self, with: &Credentials<'_>, now_ms: u64, seen: &mut Seen) -> Result<Signed, Refused> {
        let Inner { options, bench, .. } = &*self.inner;
        let name = person::normal(with.username);
        let person = match &name {
            Some(name) => self.person(name).await?,
            None => None,
        };
        seen.who = person.as_ref().map(|person| (person.user_id.clone(), person.username.clone()));
        let known = person.as_ref().is_some_and(|person| person.is_known_from(with.address, now_ms));
        // A place first: who is sent away for want of one has not used up an attempt.
        let place = bench.place(if known { Lane::Known } else { Lane::Stranger }).ok_or(Refused::Busy)?;
        // People type passwords where the name goes: what is not known is kept as a digest only.
        let key = password::sha256(name.as_deref().unwrap_or(with.username).as_bytes());
        let taken = self.take_attempt(&key, with.address, known, now_ms).await?;
        seen.locks_ms = taken.locks_strangers_ms.max(taken.locks_address_ms);
        let (password, hash, cost) = (with.password.to_owned(), person.as_ref().map(|p| p.password.clone()), options.bcrypt_cost);
        let looked = place.work(move || {
            let right = password::verify(hash.as_ref(), &password, cost);
            let anew = right && hash.as_ref().is_some_and(|hash| hash.is_outdated(cost));
            (right, anew.then(|| password::Hash::make(&password, cost)))
        });
        let (right, anew) = looked.await.ok_or(Refused::Busy)?;
        let Some(person) = person else { return Err(Refused::Wrong) };
        seen.why = LoginFailure::WrongPassword;
        if !right {
            return Err(Refused::Wrong);
        }
        let anew = anew.transpose().map_err(|_| Refused::Issue(IssueError::NoRandomness))?;
        let before = person.password.clone();
        let chance = Chance::draw().map_err(|_| Refused::Issue(IssueError::NoRandomness))?;
        let changed = self
            .change(person, |person| {
                // Read anew after a race: another password may be there by now, or the code be used.
                if person.password != before {
                    return Err(Refused::Wrong);
                }
                if person.disabled {
                    seen.why = LoginFailure::Disabled;
                    return Err(Refused::Wrong);
                }
                if let Some(totp) = &mut person.totp {
                    seen.why = LoginFailure::SecondFactor;
                    let secret = totp.secret.open(&person.username, options.encryption_key.as_ref());
                    if secret.is_none() {
                        tracing::warn!(
                            user_id = %person.user_id,
                            "a second factor cannot be read: is ENCRYPTION_KEY another one than when it was set?"
                        );
                    }
                    let step = secret.and_then(|secret| totp::step_of(&secret, with.totp?, now_ms, totp.last_step));
                    totp.last_step = step.ok_or(Refused::Wrong)?;
                }
                if let Some(hash) = &anew {
                    person.password = hash.clone();
                }
                Ok(person.sign_in(with.address, &chance, now_ms, &options.times()))
            })
            .await?;
        let (person, (grant, ended)) = changed;
        self.void(&ended, now_ms).await?;
        self.forgive(&key, with.address, &taken, now_ms).await;
        self.sign(&person, grant, now_ms)
    }

    /// Exchanges a refresh token for a new pair. `active`: somebody has been there since the last time.
    pub async fn refresh(&self, token: &str, active: bool, peer: IpAddr, now_ms: u64) -> Result<Signed, Refused> {
        let unknown = || Refused::Stale(Stale::Unknown);
        let token = RefreshToken::read(token).ok_or_else(unknown)?;
        // Without another question to the store: else its time would tell who has an account.
        let person = self.person(&token.username).await?.filter(|person| person.owns(&token)).ok_or_else(unknown)?;
        let own = Chance::draw().map_err(|_| Refused::Issue(IssueError::NoRandomness))?.own;
        let times = self.inner.options.times();
        let (_, cut_off_ms) = self.inner.store.revocations(&person.user_id, None).await?;
        let (person, renewed) = self
            .change(person, |person| {
                if person.disabled {
                    return Err(unknown());
                }
                // Whose tokens were revoked up to some time signs in again.
                person.end_begun_before(cut_off_ms.unwrap_or(0));
                match person.refresh(&token, own.clone(), active, now_ms, &times) {
                    // The session has ended with this: that has to be stored.
                    Err(stale @ (Stale::Reused | Stale::TimedOut)) => Ok(Err(stale)),
                    Err(Stale::TooOften(wait)) => Err(Refused::Later(wait)),
                    Err(stale) => Err(Refused::Stale(stale)),
                    Ok(grant) => Ok(Ok(grant)),
                }
            })
            .await?;
        match renewed {
            Ok(grant) => {
                self.note(&person, peer, Entry::session_renewed(&grant.session));
                self.sign(&person, grant, now_ms)
            }
            Err(stale) => {
                let session = &token.session;
                if stale == Stale::Reused {
                    self.note(&person, peer, Entry::token_reused(session));
                    self.note(&person, peer, Entry::session_revoked(session));
                } else {
                    self.note(&person, peer, Entry::session_timeout(session));
                }
                self.bury(person, now_ms).await?;
                Err(Refused::Stale(stale))
            }
        }
    }

    /// Ends the session of a refresh token; whether there was one.
    pub async fn sign_out(&self, token: &str, peer: IpAddr, now_ms: u64) -> Result<bool, StoreError> {
        let Some(token) = RefreshToken::read(token) else { return Ok(false) };
        let Some(person) = self.person(&token.username).await?.filter(|person| person.owns(&token)) else { return Ok(false) };
        self.end(person, &token.session, peer, now_ms).await
    }

    /// Ends the session that an access token was issued in; whether there was one.
    pub async fn sign_out_access(&self, username: &str, jti: &str, peer: IpAddr, now_ms: u64) -> Result<bool, StoreError> {
        let (Some(session), Some(name)) = (person::session_of(jti), person::normal(username)) else { return Ok(false) };
        let Some(person) = self.person(&name).await? else { return Ok(false) };
        self.end(person, session, peer, now_ms).await
    }

    async fn end(&self, person: Found, session: &str, peer: IpAddr, now_ms: u64) -> Result<bool, StoreError> {
        let changed = self.change(person, |person| Ok::<_, StoreError>(person.end(Some(session)))).await;
        let (person, ended) = changed?;
        if ended {
            self.note(&person, peer, Entry::logout(session));
        }
        self.bury(person, now_ms).await?;
        Ok(ended)
    }

    fn note(&self, person: &Person, peer: IpAddr, entry: Entry) {
        self.inner.auth.journal().note(entry.user(&person.user_id, Some(&person.username)).from(peer));
    }

    /// Somebody uses the access token of a session: that is activity. The store hears of it now and then.
    pub async fn touch(&self, principal: &Principal, now_ms: u64) {
        let session = principal.jti.as_deref().and_then(person::session_of);
        let (Some(session), Some(name)) = (session, principal.username.as_deref().and_then(person::normal)) else { return };
        let every_ms = (ms(self.inner.options.session_timeout) / TOUCHES).max(1000);
        {
            let mut touched = self.inner.touched.lock().unwrap_or_else(PoisonError::into_inner);
            if touched.get(session).is_some_and(|last| now_ms.abs_diff(*last) < every_ms) {
                return;
            }
            if touched.len() >= TOUCHED_MAX {
                touched.retain(|_, last| now_ms.abs_diff(*last) < every_ms);
                if touched.len() >= TOUCHED_MAX {
                    return;
                }
            }
            touched.insert(session.to_owned(), now_ms);
        }
        let noted = async {
            let Some(person) = self.person(&name).await? else { return Ok(()) };
            self.change(person, |person| Ok::<_, StoreError>(person.touch(session, now_ms))).await.map(drop)
        };
        if let Err(error) = noted.await {
            tracing::debug!(%error, "could not note that a session is used");
        }
    }

    /// Blacklists the access tokens of ended sessions, then forgets these. What breaks in between is done by whoever comes next.
    async fn bury(&self, person: Found, now_ms: u64) -> Result<(), StoreError> {
        self.void(&person.void_tokens(now_ms), now_ms).await?;
        self.change(person, |person| {
            person.forget_void();
            Ok::<_, StoreError>(())
        })
        .await
        .map(drop)
    }

    async fn void(&self, tokens: &[(String, u64)], now_ms: u64) -> Result<(), StoreError> {
        for (jti, exp_ms) in tokens {
            // Beyond its end by the leeway, within which it would still be let in.
            let ttl = Duration::from_millis(exp_ms.saturating_sub(now_ms)) + super::LEEWAY_MAX;
            self.inner.store.blacklist(jti, ttl).await?;
            self.inner.auth.revoked(jti, *exp_ms, now_ms);
        }
        Ok(())
    }

    fn sign(&self, person: &Person, grant: Grant, now_ms: u64) -> Result<Signed, Refused> {
        let claims = Claims {
            user_id: person.user_id.clone(),
            username: Some(person.username.clone()),
            role: person.role.clone(),
            permissions: person.permissions.clone(),
            ttl: Duration::from_millis(grant.access_ms),
            now_ms,
            sight: None,
            jti: Some(grant.jti),
        };
        Ok(Signed {
            access_token: self.inner.auth.issue(&claims).map_err(Refused::Issue)?,
            refresh_token: grant.refresh.text(),
            expires_in_s: grant.access_ms / 1000,
            refresh_expires_in_s: grant.refresh_ms / 1000,
            session: grant.session,
            user_id: claims.user_id,
            username: person.username.clone(),
            role: claims.role,
            permissions: claims.permissions,
        })
    }

    async fn person(&self, name: &str) -> Result<Option<Found>, StoreError> {
        let Some(body) = self.inner.store.record(Table::People, name).await? else { return Ok(None) };
        Ok(Some(Found { person: read(name, &body)?, body }))
    }

    /// Changes somebody's record, again on what stands there where somebody else was faster.
    async fn change<T, E: From<StoreError>>(
        &self,
        mut found: Found,
        mut change: impl FnMut(&mut Person) -> Result<T, E>,
    ) -> Result<(Found, T), E> {
        let name = found.username.clone();
        for _ in 0..TRIES {
            let mut person = found.person.clone();
            let done = change(&mut person)?;
            if person == found.person {
                return Ok((found, done));
            }
            let after = write(&person)?;
            let change = Change {
                table: Table::People,
                name: name.clone(),
                before: Some(found.body),
                after: Some(after.clone()),
                ttl_ms: None,
            };
            if self.inner.store.record_change(&change).await? == Changed::Done {
                return Ok((Found { person, body: after }, done));
            }
            found = self.person(&name).await?.ok_or_else(|| StoreError::Unavailable(format!("{name} was deleted meanwhile")))?;
        }
        Err(contended().into())
    }

    /// Counts an attempt, or says how long to wait.
    async fn take_attempt(&self, key: &str, address: &str, known: bool, now_ms: u64) -> Result<attempts::Taken, Refused> {
        let Inner { options, store, stripes, .. } = &*self.inner;
        let stripe = usize::from_str_radix(key.get(..4).unwrap_or_default(), 16).unwrap_or(0) % STRIPES;
        let _one = stripes[stripe].lock().await;
        for _ in 0..TRIES {
            let before = store.record(Table::Attempts, key).await?;
            // What cannot be read is from another version: it begins anew.
            let mut attempts: Attempts = before.as_ref().and_then(|body| serde_json::from_str(&body.0).ok()).unwrap_or_default();
            let taken = attempts.take(address, known, now_ms, &options.lockout).map_err(Refused::Later)?;
            if self.put_attempts(key, before, &attempts, now_ms).await? {
                return Ok(taken);
            }
        }
        Err(contended().into())
    }

    /// Failing here costs its owner nothing but an attempt, so it does not fail the sign-in.
    async fn forgive(&self, key: &str, address: &str, taken: &attempts::Taken, now_ms: u64) {
        let forgiven = async {
            for _ in 0..TRIES {
                let Some(before) = self.inner.store.record(Table::Attempts, key).await? else { return Ok(()) };
                let Ok(mut attempts) = serde_json::from_str::<Attempts>(&before.0) else { return Ok(()) };
                attempts.succeeded(address, taken, &self.inner.options.lockout);
                if self.put_attempts(key, Some(before), &attempts, now_ms).await? {
                    return Ok(());
                }
            }
            Err(contended())
        };
        if let Err(error) = forgiven.await {
            tracing::debug!(%error, "could not take back a failed attempt");
        }
    }

    async fn put_attempts(&self, key: &str, before: Option<Body>, attempts: &Attempts, now_ms: u64) -> Result<bool, StoreError> {
        let after = match attempts.is_empty() {
            true => None,
            false => Some(Body(serde_json::to_string(attempts).map_err(|e| StoreError::Broken(e.to_string()))?)),
        };
        let change = Change { table: Table::Attempts, name: key.to_owned(), before, after, ttl_ms: None };
        let change = change.ttl(Duration::from_millis(attempts.ttl_ms(now_ms, &self.inner.options.lockout)));
        Ok(self.inner.store.record_change(&change).await? == Changed::Done)
    }
}

/// The user id of somebody whom no application knows.
pub fn new_user_id() -> Result<String, String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|_| "the system gave no random bytes".to_owned())?;
    Ok(format!("u{}", hex(&bytes)))
}

fn contended() -> StoreError {
    StoreError::Unavailable("too many change the same record at once".to_owned())
}

/// Where attempts at a name are kept.
pub fn attempts_key(username: &str) -> String {
    password::sha256(username.as_bytes())
}

/// A person as stored. The error does not quote it.
pub fn read(name: &str, body: &Body) -> Result<Person, StoreError> {
    serde_json::from_str(&body.0).map_err(|_| StoreError::Broken(format!("the account of {name} in the store cannot be read")))
}

pub fn write(person: &Person) -> Result<Body, StoreError> {
    serde_json::to_string(person).map(Body).map_err(|error| StoreError::Broken(format!("an account cannot be written: {error}")))
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    if text.len() % 2 == 1 {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some((nibble(pair[0])? << 4) | nibble(pair[1])?)).collect()
}
