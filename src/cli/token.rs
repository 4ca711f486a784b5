//! `token`: issue, inspect, revoke.

use std::{
    io::Read,
    time::{Duration, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Failure, Global, duration_arg, reach, reach::Reach, terminal};
use crate::{
    auth::{self, Claims, journal::Entry},
    config::Config,
    metrics::unix_ms,
    store::StoreError,
    wire::{self, Sight},
};

/// For whoever is told that there is no key.
pub const HOW_TO_MAKE_A_SECRET: &str = "make one with: export JWT_SECRET_KEY=\"$(openssl rand -base64 48)\"";

#[derive(Clone, Debug, Args)]
pub struct Token {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Print a new token, and nothing else
    Issue(Issue),
    /// Show what a token says and whether it would be let in
    Inspect(Inspect),
    /// Revoke a token until it expires, or all that a user has had so far
    Revoke(Revoke),
}

#[derive(Clone, Debug, Args)]
pub struct Issue {
    /// User id
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// User name, as shown beside what its bearer does
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// Role; its permissions are those of [auth.roles]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Permission, such as audit.view; may be repeated
    #[arg(long = "permission", value_name = "NAME")]
    pub permissions: Vec<String>,
    /// Alerts and events below this severity are hidden from its bearer, for good
    #[arg(long, value_name = "SEVERITY", value_parser = ["low", "medium", "high", "critical"])]
    pub min_severity: Option<String>,
    /// Only types that fit this glob (auth.*) are shown to its bearer; may be repeated
    #[arg(long = "type", value_name = "GLOB")]
    pub types: Vec<String>,
    /// How long it is good
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = duration_arg)]
    pub ttl: Duration,
}

#[derive(Clone, Debug, Args)]
pub struct Inspect {
    /// The token; `-` reads it from standard input
    #[arg(value_name = "TOKEN", env = "AUDITCAST_TOKEN", hide_env_values = true)]
    pub token: String,
}

#[derive(Clone, Debug, Args)]
pub struct Revoke {
    /// The token; `-` reads it from standard input [env: AUDITCAST_TOKEN]
    // The variable is asked for by hand: it is there for other commands too, and then no contradiction to --jti.
    #[arg(value_name = "TOKEN", conflicts_with_all = ["jti", "user"])]
    pub token: Option<String>,
    /// Revoke by the token's id instead
    #[arg(long, value_name = "ID", conflicts_with = "user")]
    pub jti: Option<String>,
    /// Revoke all tokens of this user that were issued before --before, and those that do not say when they were (no iat)
    #[arg(long, value_name = "ID")]
    pub user: Option<String>,
    /// With --user: a time such as 2026-01-31T08:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = time_arg, requires = "user")]
    pub before: Option<u64>,
    /// With --jti: how long to hold it [default: auth.max_age, after which any token is refused]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration_arg, requires = "jti")]
    pub ttl: Option<Duration>,
}

pub async fn run(global: &Global, args: Token) -> Result<(), Failure> {
    let config = global.load()?;
    match args.action {
        Action::Issue(args) => issue(&config, args),
        Action::Inspect(args) => inspect(&config, &args).await,
        Action::Revoke(args) => revoke(&config, args).await,
    }
}

fn auth_options(config: &Config) -> Result<auth::Options, Failure> {
    let none = || Failure::usage(format!("no signing key is set: {HOW_TO_MAKE_A_SECRET}"));
    config.auth().ok_or_else(none)
}

fn issue(config: &Config, args: Issue) -> Result<(), Failure> {
    let options = auth_options(config)?;
    if args.ttl > options.max_age {
        return Err(Failure::usage(format!(
            "--for {} is longer than auth.max_age ({}), after which a token is refused",
            humantime::format_duration(args.ttl),
            humantime::format_duration(options.max_age)
        )));
    }
    if let Some(role) = args.role.as_ref().filter(|role| !options.roles.contains_key(&role.to_uppercase())) {
        let known: Vec<&str> = options.roles.keys().map(String::as_str).collect();
        let role = terminal::plain(role);
        return Err(Failure::usage(format!("there is no role {role} in [auth.roles], there are {}", known.join(", "))));
    }
    let mut filter = serde_json::Map::new();
    if let Some(severity) = args.min_severity {
        filter.insert("min_severity".to_owned(), severity.into());
    }
    if !args.types.is_empty() {
        filter.insert("types".to_owned(), args.types.into());
    }
    let sight = (!filter.is_empty()).then(|| Sight::from_claim(&Value::Object(filter))).transpose();
    let claims = Claims {
        user_id: args.user,
        sight: sight.map_err(|text| Failure::usage(format!("the filter {text}")))?,
        username: args.username,
        role: args.role,
        permissions: args.permissions,
        ttl: args.ttl,
        now_ms: unix_ms(),
        jti: None,
    };
    let token = auth::issue::issue(&options, &claims).map_err(|error| Failure::usage(error.to_string()))?;
    terminal::line(&token);
    Ok(())
}

/// The token itself, or standard input's for `-`.
fn given(token: &str) -> Result<String, Failure> {
    if token != "-" {
        return Ok(token.trim().to_owned());
    }
    let mut text = String::new();
    let limit = u64::try_from(auth::token::TOKEN_BYTES_MAX).unwrap_or(u64::MAX) + 2;
    let read = std::io::stdin().lock().take(limit).read_to_string(&mut text);
    read.map_err(|error| Failure::run(format!("could not read the token from standard input: {error}")))?;
    Ok(text.trim().to_owned())
}

async fn inspect(config: &Config, args: &Inspect) -> Result<(), Failure> {
    let token = given(&args.token)?;
    let (header, claims) = auth::token::inspect(&token).map_err(|refusal| Failure::usage(refusal.to_string()))?;
    let mut told = json!({ "header": header, "claims": claims });
    if let Some(exp) = claims.get("exp").and_then(Value::as_f64).filter(|s| (0.0..=253_402_300_799.0).contains(s)) {
        let at = UNIX_EPOCH + Duration::from_secs_f64(exp);
        told["expires_at"] = humantime::format_rfc3339_millis(at).to_string().into();
    }
    let mut refused = None;
    let mut options = config.auth();
    if let Some(options) = options.as_mut().filter(|options| auth::token::signed_by(options, &token).is_err()) {
        // Perhaps by a key that must be fetched.
        for remote in std::mem::take(&mut options.remotes) {
            match remote.fetch().await {
                Ok(set) => options.keys.extend(set.keys),
                Err(text) => told["unknown_keys"][remote.from.as_str()] = format!("the set of keys {text}").into(),
            }
        }
    }
    if let Some(key) = options.as_ref().and_then(|options| auth::token::signed_by(options, &token).ok()) {
        told["key"] = key.into();
    }
    match options {
        None => refused = Some("no signing key is set, so the signature was not checked".to_owned()),
        Some(options) => match auth::token::verify(&options, &token, unix_ms()) {
            Err(refusal) => refused = Some(refusal.to_string()),
            Ok(mut principal) => {
                match ask(config, principal.jti.as_deref(), &principal.user_id).await {
                    Ok((blacklisted, cut_off_ms, granted)) => {
                        principal.grant(granted);
                        let before = cut_off_ms.filter(|before| auth::is_cut_off(principal.issued_at_ms, *before));
                        if blacklisted {
                            refused = Some("the token is blacklisted".to_owned());
                        } else if let Some(before_ms) = before {
                            let before = wire::rfc3339(before_ms);
                            refused =
                                Some(format!("the token is blacklisted: the user's tokens issued before {before} are revoked"));
                        } else if principal.jti.is_some() {
                            told["revoked"] = false.into();
                        }
                    }
                    Err(text) => told["revoked"] = format!("unknown: {text}").into(),
                }
                told["user_id"] = principal.user_id.clone().into();
                told["permissions"] = principal.permissions.clone().into();
                told["may_see"] = principal.may_see().into();
                if !principal.may_see() {
                    let user = &principal.user_id;
                    told["hint"] = format!(
                        "seeing alerts needs audit.view or admin.access: from the token, its role, or permissions:user:{user} in the store"
                    )
                    .into();
                }
            }
        },
    }
    told["valid"] = refused.is_none().into();
    if let Some(reason) = &refused {
        told["reason"] = reason.clone().into();
    }
    let text = serde_json::to_string_pretty(&told).unwrap_or_default();
    // The pretty form has line ends of its own; everything else that steers is escaped.
    let shown: Vec<String> = text.lines().map(terminal::plain_json).collect();
    terminal::line(&shown.join("\n"));
    match refused {
        None => Ok(()),
        Some(_) => Err(Failure::Run(String::new())),
    }
}

/// What the store says: whether the token is revoked, by itself or with all earlier ones, and what its user may do beside it.
async fn ask(config: &Config, jti: Option<&str>, user_id: &str) -> Result<(bool, Option<u64>, Vec<String>), String> {
    let store = Reach::open(config).await.map_err(|error| error.to_string())?;
    let asked = async {
        let blacklisted = match jti {
            Some(jti) => store.blacklisted(jti).await?,
            None => false,
        };
        let granted = match store.permissions(user_id).await {
            // A key of another shape grants nothing.
            Err(StoreError::Broken(_)) => Vec::new(),
            answer => answer?,
        };
        Ok((blacklisted, store.cut_off_of(user_id).await?, granted))
    };
    let answer = asked.await.map_err(|error: StoreError| error.to_string());
    store.close().await;
    answer
}

/// Unix ms.
fn time_arg(text: &str) -> Result<u64, String> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    let ms = time.ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    ms.ok_or_else(|| "expected a time such as 2026-01-31T08:00:00Z".to_owned())
}

/// Revokes what a user has had so far.
async fn revoke_all(config: &Config, user: &str, before: Option<u64>) -> Result<(), Failure> {
    let now_ms = unix_ms();
    let before_ms = before.unwrap_or(now_ms);
    if before_ms > now_ms {
        return Err(Failure::usage("--before is in the future: tokens that are yet to be issued cannot be revoked"));
    }
    let store = Reach::need(config, "revoke the tokens").await?;
    let done = store.cut_off(user, before_ms).await;
    if done.is_ok() {
        store.note(config, Entry::tokens_revoked().user(user, None)).await;
    }
    store.close().await;
    let in_force = done.map_err(|error| match error {
        StoreError::Refused(text) if text.starts_with("a user id") => Failure::usage(text),
        error => reach::failed("revoke the tokens", &error),
    })?;
    terminal::line(&format!("revoked the tokens of {} issued before {}", terminal::plain(user), wire::rfc3339(in_force)));
    Ok(())
}

async fn revoke(config: &Config, args: Revoke) -> Result<(), Failure> {
    if let Some(user) = &args.user {
        return revoke_all(config, user, args.before).await;
    }
    let from_environment = || std::env::var("AUDITCAST_TOKEN").ok().filter(|token| !token.is_empty());
    let (jti, ttl) = match (args.jti, args.token.or_else(from_environment)) {
        (Some(jti), _) => (jti, args.ttl.unwrap_or(config.auth_with(auth::Secret(Vec::new())).max_age)),
        (None, Some(token)) => until_expiry(&given(&token)?)?,
        (None, None) => {
            return Err(Failure::usage("a token is needed (or AUDITCAST_TOKEN), or --jti with the id of one, or --user"));
        }
    };
    if jti.is_empty() || jti.len() > 256 || jti.chars().any(char::is_control) {
        return Err(Failure::usage("a token id has 1 to 256 bytes and no control characters"));
    }
    if ttl.is_zero() {
        terminal::line("the token has expired already");
        return Ok(());
    }
    let store = Reach::need(config, "revoke the token").await?;
    let done = store.blacklist(&jti, ttl).await;
    if done.is_ok() {
        store.note(config, Entry::token_revoked(&jti)).await;
    }
    store.close().await;
    done.map_err(|error| reach::failed("revoke the token", &error))?;
    let ttl = Duration::from_secs(ttl.as_secs().max(1));
    terminal::line(&format!("revoked {} for {}", terminal::plain(&jti), humantime::format_duration(ttl)));
    Ok(())
}

/// A token's id and the time it has left. Its signature does not matter: who can write the blacklist can write any id.
fn until_expiry(token: &str) -> Result<(String, Duration), Failure> {
    let (_, claims) = auth::token::inspect(token).map_err(|refusal| Failure::usage(refusal.to_string()))?;
    let id = ["jti", "token_id"].into_iter().find_map(|name| claims.get(name));
    let jti = match id {
        Some(Value::String(jti)) => jti.clone(),
        Some(Value::Number(jti)) => jti.to_string(),
        _ => return Err(Failure::usage("the token has no jti, so it cannot be revoked by itself")),
    };
    let exp = claims.get("exp").and_then(Value::as_f64).filter(|s| (0.0..=253_402_300_799.0).contains(s));
    let exp = exp.ok_or_else(|| Failure::usage("the token has no exp that can be read"))?;
    // Beyond its end by the leeway, within which it would still be let in.
    let end = Duration::from_secs_f64(exp) + auth::LEEWAY_MAX;
    Ok((jti, end.saturating_sub(Duration::from_millis(unix_ms()))))
}
