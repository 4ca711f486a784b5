//! Who may look: tokens, permissions, revocation (contract §10).
//!
//! [`token`] decides on a token alone, without a store and without a clock; [`Auth`] adds what the store knows: revocations
//! and a user's own permissions. With the store unreachable nobody new gets in (contract §6.7). [`journal`] is what the daemon
//! says about itself.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::store::{Standing, Store, StoreError};

mod fetch;
mod grants;
pub mod issue;
pub mod journal;
mod jws;
mod key;
pub mod people;
mod principal;
mod refusal;
mod remote;
mod revoked;
pub mod token;

pub use fetch::Endpoint;
pub use issue::{Claims, IssueError};
pub use journal::Journal;
pub use key::{Algorithm, Jwks, Key, KeyFault};
pub use principal::{ADMIN_ACCESS, AUDIT_VIEW, AUDIT_WRITE, Principal, may_see};
pub use refusal::{Refusal, RefusalKind};
pub use remote::Remote;
pub use revoked::is_cut_off;

/// Key material that is never shown: not by `Debug`, not in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `[auth]` and A's and B's variables.
#[derive(Clone, Debug)]
pub struct Options {
    /// `JWT_SECRET_KEY`, at least 32 bytes: signs, and checks HS256/384/512.
    pub secret: Secret,
    /// Secrets that were in force before, or will be: they check and never sign.
    pub previous_secrets: Vec<Secret>,
    /// Further keys, which check only.
    pub keys: Vec<Key>,
    /// Sets of further keys that are fetched, and how often.
    pub remotes: Vec<Remote>,
    pub jwks_refresh: Duration,
    /// `JWT_EXPIRATION_HOURS`: tokens older than this, by `iat`, are refused.
    pub max_age: Duration,
    /// At connect only; at most 60 s.
    pub leeway: Duration,
    /// `aud` and `iss` wanted, where configured.
    pub audience: Option<String>,
    pub issuer: Option<String>,
    /// Role (upper case) → permissions; A's table by default.
    pub roles: BTreeMap<String, Vec<String>>,
}

/// Shortest key accepted, bytes: an HMAC key below its hash's size is the weakest part of a token.
pub const SECRET_BYTES_MIN: usize = 32;

/// Who waits at the door for longer than this is told to come back.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest leeway accepted.
pub const LEEWAY_MAX: Duration = Duration::from_secs(60);

/// Keys that stand in the guides' sample files: whoever copied one shares it with every reader.
const SAMPLE_SECRETS: [&str; 5] = [
    "your-super-secure-jwt-secret-key-here",
    "your-super-secret-jwt-key-here",
    "your-aes-256-encryption-key-here",
    "your-fernet-encryption-key-here",
    "your-redis-password",
];

/// Whether a key or password is a sample text of A or B (contract §10): in any case, white space around it ignored.
pub fn is_sample(secret: &[u8]) -> bool {
    SAMPLE_SECRETS.contains(&String::from_utf8_lossy(secret).trim().to_lowercase().as_str())
}

impl Options {
    /// One secret, A's roles, the defaults of everything else.
    pub fn new(secret: Secret) -> Options {
        Options {
            secret,
            previous_secrets: Vec::new(),
            keys: Vec::new(),
            remotes: Vec::new(),
            jwks_refresh: Duration::from_secs(600),
            max_age: Duration::from_secs(24 * 3600),
            leeway: Duration::from_secs(10),
            audience: None,
            issuer: None,
            roles: Options::default_roles(),
        }
    }

    /// Refuses a key that protects nothing: under [`SECRET_BYTES_MIN`] bytes, or a sample text of A or B (contract §10). The
    /// answer says what is wrong and never what the key is.
    pub fn check(secret: &Secret) -> Result<(), String> {
        Options::check_named(secret, "JWT_SECRET_KEY")
    }

    /// The same of another secret, by the name that the answer is to call it.
    pub fn check_named(secret: &Secret, name: &str) -> Result<(), String> {
        if is_sample(&secret.0) {
            return Err(format!("{name} is the sample text of the guide, which everybody knows; make one of your own"));
        }
        if secret.0.len() < SECRET_BYTES_MIN {
            return Err(format!("{name} has {} bytes, at least {SECRET_BYTES_MIN} are needed", secret.0.len()));
        }
        Ok(())
    }

    /// A's table of roles.
    pub fn default_roles() -> BTreeMap<String, Vec<String>> {
        let table: [(&str, &[&str]); 3] = [
            (
                "ADMIN",
                &[
                    "admin.access",
                    "user.manage",
                    "session.create",
                    "session.view",
                    "session.delete",
                    "data.export",
                    "system.configure",
                    "audit.view",
                ],
            ),
            ("RESEARCHER", &["session.create", "session.view", "data.export", "analysis.create", "agent.create", "agent.manage"]),
            ("OBSERVER", &["session.view", "data.view"]),
        ];
        table.iter().map(|(role, list)| ((*role).to_owned(), list.iter().map(|p| (*p).to_owned()).collect())).collect()
    }
}

/// Decides on tokens. Cloning is cheap; every clone knows the same revocations.
#[derive(Clone)]
pub struct Auth {
    inner: Arc<Inner>,
    journal: Journal,
}

struct Inner {
    /// What is in force: as configured, and the keys that were fetched.
    options: ArcSwap<Options>,
    remotes: remote::Remotes,
    store: Store,
    /// A revocation once seen holds until the token's `exp`, whatever becomes of its key (contract §6.7).
    revoked: Mutex<revoked::Revoked>,
    grants: Mutex<grants::Grants>,
}

impl Auth {
    pub fn new(options: Options, store: Store) -> Auth {
        let remotes = remote::Remotes::new(options.clone());
        let options = ArcSwap::from_pointee(options);
        Auth {
            inner: Arc::new(Inner { options, remotes, store, revoked: Mutex::default(), grants: Mutex::default() }),
            journal: Journal::default(),
        }
    }

    /// The same, and what happens here is noted in `journal`.
    pub fn with_journal(mut self, journal: Journal) -> Auth {
        self.journal = journal;
        self
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Notes that the bearer of `token` was refused, and who that is where the token tells it truly.
    pub fn note_refusal(&self, token: Option<&str>, refusal: &Refusal, address: Option<IpAddr>, now_ms: u64) {
        let known = token.and_then(|token| token::verify(&self.options(), token, now_ms).ok());
        let user = known.as_ref().map(|principal| (principal.user_id.as_str(), principal.username.as_deref()));
        self.journal.refused(refusal, user, address);
    }

    /// What is in force.
    pub fn options(&self) -> Arc<Options> {
        self.inner.options.load_full()
    }

    /// From now on tokens are judged by these options. Who is in stays in until its token ends: a change of keys closes nobody's
    /// connection, and a key that is gone lets nobody in and renews nobody.
    pub fn replace_options(&self, options: Options) {
        self.inner.remotes.configure(&self.inner.options, options);
    }

    /// Who may see the feed: [`Auth::verify`], and `admin.access` or `audit.view`.
    pub async fn admit(&self, token: &str, now_ms: u64) -> Result<Principal, Refusal> {
        let principal = self.verify(token, now_ms).await?;
        if principal.may_see() {
            Ok(principal)
        } else {
            Err(Refusal::forbidden("seeing alerts needs the permission `audit.view` or `admin.access`"))
        }
    }

    /// Whose token this is, and with which permissions: signature, claims, revocation, the store's permissions. `now_ms` is Unix
    /// ms. A refusal of kind [`RefusalKind::Unavailable`] means that the store could not be asked.
    pub async fn verify(&self, token: &str, now_ms: u64) -> Result<Principal, Refusal> {
        let mut principal = match token::verify(&self.inner.options.load(), token, now_ms) {
            Err(refusal) if refusal.kind == RefusalKind::Invalid && Box::pin(self.found_key(token, now_ms)).await => {
                token::verify(&self.inner.options.load(), token, now_ms)?
            }
            verified => verified?,
        };
        self.revoked_before(&principal)?;
        let (known, changes) = {
            let grants = self.grants();
            (grants.get(&principal.user_id, now_ms), grants.changes())
        };
        let is_known = known.is_some();
        // Boxed: who is verified already holds no room for the question.
        let asked = Box::pin(self.ask(&principal.user_id, principal.jti.as_deref(), known));
        let standing = match tokio::time::timeout(STORE_TIMEOUT, asked).await {
            Ok(answer) => answer.map_err(unavailable)?,
            Err(_) => return Err(unavailable("it did not answer in time")),
        };
        if let (Some(jti), true) = (&principal.jti, standing.blacklisted) {
            self.revoked(jti, principal.expires_at_ms, now_ms);
        }
        if let Some(before_ms) = standing.cut_off_ms {
            self.cut_off(&principal.user_id, before_ms);
        }
        self.revoked_before(&principal)?;
        let granted = match standing.permissions {
            // A key of another shape grants nothing, and takes nothing from what the token says.
            Err(StoreError::Broken(why)) => {
                tracing::debug!("{why}");
                Vec::new()
            }
            answer => answer.map_err(unavailable)?,
        };
        if !is_known {
            self.grants().put(&principal.user_id, &granted, now_ms, changes);
        }
        principal.is_granted(granted);
        Ok(principal)
    }

    /// A token that names a key unknown here may be of a new one of its issuer's. `true`: keys were asked for.
    async fn found_key(&self, token: &str, now_ms: u64) -> bool {
        let options = self.options();
        !options.remotes.is_empty() && token::names_unknown_key(&options, token) && self.look_again(now_ms).await
    }

    /// What the store knows of a token and its user; the permissions only where they are not known already.
    async fn ask(&self, user_id: &str, jti: Option<&str>, known: Option<Vec<String>>) -> Result<Standing, StoreError> {
        let Some(permissions) = known else { return self.inner.store.standing(user_id, jti).await };
        let (blacklisted, cut_off_ms) = self.inner.store.revocations(user_id, jti).await?;
        Ok(Standing { blacklisted, cut_off_ms, permissions: Ok(permissions) })
    }

    /// Refuses what this node has seen to be revoked.
    fn revoked_before(&self, principal: &Principal) -> Result<(), Refusal> {
        let seen = self.seen();
        if principal.jti.as_deref().is_some_and(|jti| seen.contains(jti)) {
            return Err(Refusal::blacklisted());
        }
        match seen.cut_off_of(&principal.user_id) {
            Some(before_ms) if is_cut_off(principal.issued_at_ms, before_ms) => Err(Refusal::cut_off()),
            _ => Ok(()),
        }
    }

    /// All tokens of this user that were issued before `before_ms` are revoked, the store says; held like [`Auth::revoked`].
    pub fn cut_off(&self, user_id: &str, before_ms: u64) {
        self.seen().cut_off(user_id, before_ms);
    }

    /// What the store grants this user may have changed, or what it grants anybody: it is asked anew.
    pub fn forget_grants(&self, user_id: Option<&str>) {
        self.grants().forget(user_id);
    }

    fn grants(&self) -> MutexGuard<'_, grants::Grants> {
        self.inner.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A revocation has been seen in the store: it holds until the token's `exp`, whatever becomes of its key (contract §6.7).
    pub fn revoked(&self, jti: &str, expires_at_ms: u64, now_ms: u64) {
        self.seen().remember(jti, expires_at_ms, now_ms);
    }

    fn seen(&self) -> MutexGuard<'_, revoked::Revoked> {
        // Nothing in there is half done when a holder panics, so a poisoned lock is as good as any.
        self.inner.revoked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs a token of auditcast's own.
    pub fn issue(&self, claims: &Claims) -> Result<String, IssueError> {
        issue::issue(&self.inner.options.load(), claims)
    }
}

/// The client learns that the store is away, not where it is or what it said.
fn unavailable(error: impl fmt::Display) -> Refusal {
    tracing::debug!(%error, "could not ask the store about a token");
    Refusal::new(RefusalKind::Unavailable, "the store cannot be asked at the moment")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret(text.as_bytes().to_vec())
    }

    #[test]
    fn a_secret_is_long_and_nobodys_sample() {
        assert_eq!(Options::check(&secret("0123456789abcdef0123456789abcdef")), Ok(()));
        assert!(Options::check(&secret("0123456789abcdef0123456789abcde")).unwrap_err().contains("31 bytes"));
        assert!(Options::check(&secret("")).unwrap_err().contains("0 bytes"));
        for sample in SAMPLE_SECRETS {
            assert!(Options::check(&secret(sample)).unwrap_err().contains("sample"), "{sample}");
            assert!(
                Options::check(&secret(&format!(" {}\n", sample.to_uppercase()))).unwrap_err().contains("sample"),
                "{sample}"
            );
        }
    }

    #[test]
    fn a_secret_shows_nowhere() {
        let options = Options {
            previous_secrets: vec![secret("fedcba9876543210fedcba9876543210")],
            ..Options::new(secret("0123456789abcdef0123456789abcdef"))
        };
        assert!(!format!("{options:?}").contains("012345") && !format!("{options:?}").contains("3210"));
        assert!(!Options::check(&secret("short-but-mine")).unwrap_err().contains("mine"));
    }
}
