//! A person's account and the sessions in it: one record, so that a sign-in, a rotation or a ban is one change of the store.
//! Pure: time and chance are parameters.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};

use super::{
    super::LEEWAY_MAX,
    hex,
    password::{Hash, sha256},
    totp, unhex,
};

/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 128;
/// Sessions of one person at once; the one that was used longest ago ends when another begins.
pub const SESSIONS_MAX: usize = 16;
/// Addresses that a person is known from; the one used longest ago goes.
const ADDRESSES_MAX: usize = 8;
/// How long an address is remembered without another sign-in from it.
const ADDRESS_MS: u64 = 30 * 86_400_000;
/// Access tokens of one session that are good at the same time: bounds what an end must void.
const LIVE_MAX: usize = 16;

/// Whether a token that ends then is let in somewhere still, with the leeway of a clock that is behind.
fn is_let_in(exp_ms: u64, now_ms: u64) -> bool {
    exp_ms.saturating_add(LEEWAY_MAX.as_millis() as u64) > now_ms
}

/// The name as it is looked up: trimmed, lower case. `None`: nobody can have it.
pub fn normal(name: &str) -> Option<String> {
    let name = name.trim().to_lowercase();
    let fits = |c: char| c.is_alphanumeric() || "._@+-".contains(c);
    ((1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(fits)).then_some(name)
}

/// The second factor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totp {
    pub secret: totp::Stored,
    /// The step whose code was accepted last: none up to it is accepted again.
    pub last_step: u64,
}

/// Who may sign in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    pub user_id: String,
    /// As [`normal`] makes it; the record's name.
    pub username: String,
    pub role: Option<String>,
    /// Beside the role's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    pub password: Hash,
    #[serde(default)]
    pub disabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totp: Option<Totp>,
    pub created_at_ms: u64,
    pub password_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sign_in_ms: Option<u64>,
    /// Networks of good sign-ins, with the last of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<(String, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sessions: Vec<Session>,
}

/// One sign-in: a family of refresh tokens, one of which is good.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    id: String,
    /// SHA-256 of what all refresh tokens of the family have, and of what only the good one has.
    family: String,
    current: String,
    /// Access tokens issued so far; each has its number in its id.
    issued: u64,
    /// Those that may be good still: number, `exp` in ms.
    live: Vec<(u64, u64)>,
    address: String,
    begun_ms: u64,
    active_ms: u64,
    /// When the good refresh token ends.
    ends_ms: u64,
    /// Ended, and its access tokens not all blacklisted yet.
    #[serde(default)]
    void: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub access_ms: u64,
    pub refresh_ms: u64,
    /// Without activity a session ends after so long.
    pub idle_ms: u64,
}

/// A refresh token: whose, which session's, and two secrets, the family's and its own.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken {
    pub username: String,
    pub session: String,
    family: String,
    own: String,
}

const PREFIX: &str = "acr1";
const SECRET_HEX: usize = 32;
const ID_HEX: usize = 32;

impl RefreshToken {
    /// `None`: not one of ours.
    pub fn read(text: &str) -> Option<RefreshToken> {
        if text.len() > 512 {
            return None;
        }
        let mut parts = text.split('.');
        let (prefix, name, session, secret) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if prefix != PREFIX || parts.next().is_some() || session.len() != ID_HEX || secret.len() != 2 * SECRET_HEX {
            return None;
        }
        let username = String::from_utf8(unhex(name)?).ok()?;
        let (family, own) = secret.split_at_checked(SECRET_HEX)?;
        unhex(session).and(unhex(secret))?;
        Some(RefreshToken { username, session: session.to_owned(), family: family.to_owned(), own: own.to_owned() })
    }

    pub fn text(&self) -> String {
        format!("{PREFIX}.{}.{}.{}{}", hex(self.username.as_bytes()), self.session, self.family, self.own)
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a person gets, before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub session: String,
    /// The access token's id.
    pub jti: String,
    /// The access token's life.
    pub access_ms: u64,
    pub refresh: RefreshToken,
    pub refresh_ms: u64,
}

/// Why a refresh token gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// There is no such session, or it has ended.
    Unknown,
    /// Used before: the whole family has ended with this.
    Reused,
    /// Nobody was there for too long, or it was not used in time.
    TimedOut,
    /// Too many access tokens are good at once; the oldest ends after so many ms.
    TooOften(u64),
}

/// The id of an access token taken apart: the session's, the token's number.
pub fn session_of(jti: &str) -> Option<&str> {
    let (session, number) = jti.split_once('-')?;
    let ours = session.len() == ID_HEX && unhex(session).is_some() && number.parse::<u64>().is_ok();
    ours.then_some(session)
}

impl Session {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The network that it was begun from.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn begun_ms(&self) -> u64 {
        self.begun_ms
    }

    /// When somebody was there last, as far as the store has heard.
    pub fn active_ms(&self) -> u64 {
        self.active_ms
    }

    fn jti(&self, number: u64) -> String {
        format!("{}-{number}", self.id)
    }

    /// Ids and ends of the access tokens that may be good still.
    fn live(&self, now_ms: u64) -> impl Iterator<Item = (String, u64)> {
        self.live.iter().filter(move |(_, exp)| is_let_in(*exp, now_ms)).map(|(number, exp)| (self.jti(*number), *exp))
    }

    fn is_over(&self, now_ms: u64, times: &Times) -> bool {
        self.void || now_ms >= self.ends_ms || now_ms.saturating_sub(self.active_ms) >= times.idle_ms
    }

    /// An access token, and a refresh token in place of the one before.
    fn grant(&mut self, username: &str, family: &str, own: String, now_ms: u64, times: &Times) -> Grant {
        // In whole seconds, as `exp` is. It never outlives the session's idle time.
        let idle_left = (self.active_ms + times.idle_ms).saturating_sub(now_ms);
        let access_ms = (times.access_ms.min(idle_left) / 1000).max(1) * 1000;
        self.issued += 1;
        self.live.retain(|(_, exp)| is_let_in(*exp, now_ms));
        self.live.push((self.issued, now_ms.saturating_add(access_ms)));
        self.current = sha256(own.as_bytes());
        self.ends_ms = now_ms.saturating_add(times.refresh_ms);
        Grant {
            session: self.id.clone(),
            jti: self.jti(self.issued),
            access_ms,
            refresh: RefreshToken { username: username.to_owned(), session: self.id.clone(), family: family.to_owned(), own },
            refresh_ms: times.refresh_ms,
        }
    }
}

/// Three texts that nobody can guess.
pub struct Chance {
    pub session: String,
    pub family: String,
    pub own: String,
}

impl Chance {
    pub fn draw() -> Result<Chance, getrandom::Error> {
        let text = || -> Result<String, getrandom::Error> {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes)?;
            Ok(hex(&bytes))
        };
        Ok(Chance { session: text()?, family: text()?, own: text()? })
    }
}

impl Person {
    pub fn new(user_id: String, username: String, password: Hash, now_ms: u64) -> Person {
        Person {
            user_id,
            username,
            role: None,
            permissions: Vec::new(),
            password,
            disabled: false,
            totp: None,
            created_at_ms: now_ms,
            password_at_ms: now_ms,
            last_sign_in_ms: None,
            addresses: Vec::new(),
            sessions: Vec::new(),
        }
    }

    /// Whether a good sign-in came from there lately.
    pub fn is_known_from(&self, address: &str, now_ms: u64) -> bool {
        self.addresses.iter().any(|(known, last)| known == address && now_ms.saturating_sub(*last) < ADDRESS_MS)
    }

    /// Sessions that go on.
    pub fn sessions<'a>(&'a self, now_ms: u64, times: &'a Times) -> impl Iterator<Item = &'a Session> {
        self.sessions.iter().filter(move |session| !session.is_over(now_ms, times))
    }

    /// Begins a session. Where there are [`SESSIONS_MAX`], the one used longest ago ends, and its access tokens with it: they are
    /// the second part of the answer.
    pub fn sign_in(&mut self, address: &str, chance: &Chance, now_ms: u64, times: &Times) -> (Grant, Vec<(String, u64)>) {
        self.last_sign_in_ms = Some(now_ms);
        self.addresses.retain(|(known, last)| known != address && now_ms.saturating_sub(*last) < ADDRESS_MS);
        self.addresses.push((address.to_owned(), now_ms));
        if self.addresses.len() > ADDRESSES_MAX {
            self.addresses.remove(0);
        }
        self.tidy(now_ms, times);
        let mut ended = Vec::new();
        while self.sessions.len() >= SESSIONS_MAX {
            let Some(oldest) = (0..self.sessions.len()).min_by_key(|at| self.sessions[*at].active_ms) else { break };
            ended.extend(self.sessions.remove(oldest).live(now_ms));
        }
        let mut session = Session {
            id: chance.session.clone(),
            family: sha256(chance.family.as_bytes()),
            current: String::new(),
            issued: 0,
            live: Vec::new(),
            address: address.to_owned(),
            begun_ms: now_ms,
            active_ms: now_ms,
            ends_ms: 0,
            void: false,
        };
        let grant = session.grant(&self.username, &chance.family, chance.own.clone(), now_ms, times);
        self.sessions.push(session);
        (grant, ended)
    }

    /// Exchanges a refresh token. `active`: whether somebody has been there since the last time. After [`Stale::Reused`] and
    /// [`Stale::TimedOut`] the session is void, and the record has to be stored.
    pub fn refresh(
        &mut self,
        token: &RefreshToken,
        own: String,
        active: bool,
        now_ms: u64,
        times: &Times,
    ) -> Result<Grant, Stale> {
        let same =
            |kept: &str, shown: &str| verify_slices_are_equal(kept.as_bytes(), sha256(shown.as_bytes()).as_bytes()).is_ok();
        let session = self.sessions.iter_mut().find(|session| session.id == token.session).ok_or(Stale::Unknown)?;
        // The session's id stands in access tokens and in the audit trail: alone it must not be able to end anything.
        if !same(&session.family, &token.family) || session.void {
            return Err(Stale::Unknown);
        }
        if !same(&session.current, &token.own) {
            session.void = true;
            return Err(Stale::Reused);
        }
        if session.is_over(now_ms, times) {
            session.void = true;
            return Err(Stale::TimedOut);
        }
        session.live.retain(|(_, exp)| is_let_in(*exp, now_ms));
        let open = || session.live.iter().map(|(_, exp)| *exp).filter(|exp| *exp > now_ms);
        if open().count() >= LIVE_MAX {
            let first = open().min().unwrap_or(now_ms);
            return Err(Stale::TooOften(first.saturating_sub(now_ms)));
        }
        if active {
            session.active_ms = now_ms;
        }
        Ok(session.grant(&self.username, &token.family, own, now_ms, times))
    }

    /// Somebody uses the session. Whether that was worth noting.
    pub fn touch(&mut self, session: &str, now_ms: u64) -> bool {
        let Some(session) = self.sessions.iter_mut().find(|s| s.id == session && !s.void) else { return false };
        let later = now_ms > session.active_ms;
        if later {
            session.active_ms = now_ms;
        }
        later
    }

    /// Ends the sessions that began before this, Unix ms.
    pub fn end_begun_before(&mut self, before_ms: u64) {
        self.sessions.iter_mut().filter(|session| session.begun_ms < before_ms).for_each(|session| session.void = true);
    }

    /// Ends one session, or all. The access tokens that [`Person::void_tokens`] then names are still good.
    pub fn end(&mut self, session: Option<&str>) -> bool {
        let mut any = false;
        for one in self.sessions.iter_mut().filter(|one| session.is_none_or(|id| one.id == id)) {
            any |= !one.void;
            one.void = true;
        }
        any
    }

    /// Whether this token is of the session's family, so that its bearer may end it.
    pub fn owns(&self, token: &RefreshToken) -> bool {
        let is_it = |session: &&Session| session.id == token.session;
        self.sessions.iter().find(is_it).is_some_and(|session| {
            verify_slices_are_equal(session.family.as_bytes(), sha256(token.family.as_bytes()).as_bytes()).is_ok()
        })
    }

    /// Access tokens of ended sessions, to be blacklisted; [`Person::forget_void`] when they are.
    pub fn void_tokens(&self, now_ms: u64) -> Vec<(String, u64)> {
        self.sessions.iter().filter(|session| session.void).flat_map(|session| session.live(now_ms)).collect()
    }

    pub fn forget_void(&mut self) {
        self.sessions.retain(|session| !session.void);
    }

    /// Drops sessions that are over and have no access token left.
    fn tidy(&mut self, now_ms: u64, times: &Times) {
        self.sessions.retain(|session| !session.is_over(now_ms, times) || session.live(now_ms).next().is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { access_ms: 1_800_000, refresh_ms: 604_800_000, idle_ms: 1_800_000 };

    fn ana() -> Person {
        Person::new("7".into(), "ana".into(), Hash::import(&"0".repeat(64), 4).unwrap(), 0)
    }

    fn own(n: u8) -> String {
        hex(&[n; 16])
    }

    fn begin(person: &mut Person, now_ms: u64) -> Grant {
        person.sign_in("10.0.0.1", &Chance::draw().unwrap(), now_ms, &TIMES).0
    }

    #[test]
    fn names_are_looked_up_in_one_form() {
        for (written, expected) in [
            (" Ana ", Some("ana")),
            ("ANA@Example.com", Some("ana@example.com")),
            ("josé", Some("josé")),
            ("", None),
            ("a b", None),
            ("a\nb", None),
            ("a/b", None),
        ] {
            assert_eq!(normal(written).as_deref(), expected, "{written:?}");
        }
        assert!(normal(&"a".repeat(129)).is_none());
    }

    #[test]
    fn a_refresh_token_is_read_back_and_shows_nothing() {
        let grant = begin(&mut ana(), 1000);
        let text = grant.refresh.text();
        assert_eq!(RefreshToken::read(&text).as_ref(), Some(&grant.refresh));
        assert_eq!(session_of(&grant.jti), Some(grant.session.as_str()));
        assert!(!format!("{grant:?}").contains(&grant.refresh.own));
        for cut in 0..text.len() {
            assert_eq!(RefreshToken::read(&text[..cut]), None);
        }
        for bad in [format!("{text}0"), format!("{text}.0"), text.replace("acr1", "acr2"), text.to_uppercase(), "é".repeat(100)]
        {
            assert_eq!(RefreshToken::read(&bad), None, "{bad}");
        }
        for jti in ["", "a-1", &own(1), &format!("{}-x", own(1))] {
            assert_eq!(session_of(jti), None);
        }
    }

    #[test]
    fn each_refresh_token_is_good_once_and_a_second_time_ends_all() {
        let mut ana = ana();
        let first = begin(&mut ana, 1000);
        let second = ana.refresh(&first.refresh, own(1), true, 2000, &TIMES).unwrap();
        assert_ne!(second.jti, first.jti);
        let third = ana.refresh(&second.refresh, own(2), true, 3000, &TIMES).unwrap();
        assert_eq!(ana.refresh(&first.refresh, own(3), true, 4000, &TIMES), Err(Stale::Reused));
        assert_eq!(ana.refresh(&third.refresh, own(3), true, 4000, &TIMES), Err(Stale::Unknown));
        let void: Vec<String> = ana.void_tokens(4000).into_iter().map(|(jti, _)| jti).collect();
        assert_eq!(void, [first.jti, second.jti, third.jti]);
        ana.forget_void();
        assert_eq!(ana.sessions.len(), 0);
    }

    #[test]
    fn who_knows_only_the_sessions_id_ends_nothing() {
        let mut ana = ana();
        let grant = begin(&mut ana, 1000);
        let forged = RefreshToken { family: own(9), own: own(9), ..grant.refresh.clone() };
        assert_eq!(ana.refresh(&forged, own(1), true, 2000, &TIMES), Err(Stale::Unknown));
        assert!(!ana.owns(&forged) && ana.owns(&grant.refresh));
        assert!(ana.refresh(&grant.refresh, own(1), true, 2000, &TIMES).is_ok());
    }

    #[test]
    fn without_activity_a_session_ends() {
        let minute = 60_000;
        let mut ana = ana();
        let grant = begin(&mut ana, 0);
        assert_eq!((grant.access_ms, grant.refresh_ms), (30 * minute, 7 * 24 * 60 * minute));
        // Renewed, but nobody there: the access token ends with the session.
        let grant = ana.refresh(&grant.refresh, own(1), false, 25 * minute, &TIMES).unwrap();
        assert_eq!(grant.access_ms, 5 * minute);
        let grant = ana.refresh(&grant.refresh, own(2), true, 29 * minute, &TIMES).unwrap();
        assert_eq!(grant.access_ms, 30 * minute);
        assert!(ana.touch(&grant.session, 50 * minute));
        let grant = ana.refresh(&grant.refresh, own(3), false, 79 * minute, &TIMES).unwrap();
        assert_eq!(grant.access_ms, minute);
        assert_eq!(ana.refresh(&grant.refresh, own(4), true, 80 * minute, &TIMES), Err(Stale::TimedOut));
        assert_eq!(ana.sessions(80 * minute, &TIMES).count(), 0);
    }

    #[test]
    fn what_a_person_holds_is_bounded() {
        let mut ana = ana();
        let first = begin(&mut ana, 0);
        for n in 1..SESSIONS_MAX as u64 {
            begin(&mut ana, n);
        }
        let (_, ended) = ana.sign_in("10.0.0.2", &Chance::draw().unwrap(), 100, &TIMES);
        assert_eq!(ended, [(first.jti, 1_800_000)]);
        assert_eq!(ana.sessions.len(), SESSIONS_MAX);
        let times = Times { access_ms: 60_000, ..TIMES };
        let (mut grant, _) = ana.sign_in("10.0.0.3", &Chance::draw().unwrap(), 200, &times);
        for n in 1..LIVE_MAX as u8 {
            grant = ana.refresh(&grant.refresh, own(n), true, 200, &times).unwrap();
        }
        assert_eq!(ana.refresh(&grant.refresh, own(99), true, 200, &times), Err(Stale::TooOften(60_000)));
        assert!(ana.refresh(&grant.refresh, own(99), true, 60_200, &times).is_ok(), "it was not used up by that");
        for n in 0..100 {
            ana.sign_in(&format!("10.0.1.{n}"), &Chance::draw().unwrap(), 300, &TIMES);
        }
        assert_eq!(ana.addresses.len(), ADDRESSES_MAX);
        assert!(serde_json::to_string(&ana).unwrap().len() < 32 << 10);
    }

    #[test]
    fn an_address_is_known_for_a_month() {
        let mut ana = ana();
        begin(&mut ana, 0);
        assert!(ana.is_known_from("10.0.0.1", ADDRESS_MS - 1) && !ana.is_known_from("10.0.0.2", 1));
        assert!(!ana.is_known_from("10.0.0.1", ADDRESS_MS));
    }
}
