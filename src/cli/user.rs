//! `user`: people who may sign in.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, Global, ask, reach, reach::Reach, terminal};
use crate::{
    auth::{
        LEEWAY_MAX, Secret,
        journal::{AccountChange, Entry},
        people::{
            self, Options,
            attempts::Attempts,
            password::Hash,
            person::{self, Person},
            totp,
        },
    },
    config::Config,
    metrics::unix_ms,
    store::{
        StoreError,
        record::{Body, Change, Changed, Table},
    },
    wire,
};

/// Looks at a record that others keep changing.
const TRIES: usize = 16;

#[derive(Clone, Debug, Args)]
pub struct User {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Let somebody sign in
    Add(Add),
    /// Give somebody another role or other permissions; ends his sessions
    Change(Role),
    /// Set a password; ends the sessions of its owner
    Passwd(Passwd),
    /// Let somebody no longer sign in; ends his sessions
    Disable(Name),
    /// Let somebody sign in again
    Enable(Name),
    /// Forget failed attempts at a name, and so its lock-outs
    Unlock(Name),
    /// Show who may sign in
    List(List),
    /// Remove somebody; ends his sessions
    Delete(Name),
    /// Set up a second factor: prints its secret once, and asks for a code of it
    Totp(Totp),
}

#[derive(Clone, Debug, Args)]
pub struct Add {
    #[command(flatten)]
    pub who: Name,
    #[command(flatten)]
    pub rights: Rights,
    /// The user_id of his tokens, where the application has one for him already [default: a new one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Take over a hash of his password, bcrypt's or SHA-256 in hexadecimal, instead of a password; `-` reads it from standard input
    #[arg(long, value_name = "HASH", conflicts_with = "password_file")]
    pub hash: Option<String>,
    #[command(flatten)]
    pub password: PasswordFile,
}

#[derive(Clone, Debug, Args)]
pub struct Role {
    #[command(flatten)]
    pub who: Name,
    #[command(flatten)]
    pub rights: Rights,
}

#[derive(Clone, Debug, Args)]
pub struct Rights {
    /// Role; its permissions are those of [auth.roles]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Permission beside the role's, such as audit.view; may be repeated
    #[arg(long = "permission", value_name = "NAME")]
    pub permissions: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Passwd {
    #[command(flatten)]
    pub who: Name,
    #[command(flatten)]
    pub password: PasswordFile,
}

#[derive(Clone, Debug, Args)]
pub struct PasswordFile {
    /// Read the password from a file, `-` from standard input [default: asked for]
    #[arg(long, value_name = "PATH")]
    pub password_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct Name {
    /// User name; case does not matter
    #[arg(value_name = "NAME")]
    pub name: String,
}

#[derive(Clone, Debug, Args)]
pub struct List {
    /// As JSON, an object per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Totp {
    #[command(flatten)]
    pub who: Name,
    /// Take the second factor away instead
    #[arg(long)]
    pub remove: bool,
}

/// A store, and what is in force.
struct Desk<'a> {
    config: &'a Config,
    options: &'a Options,
    store: Reach,
    now_ms: u64,
}

pub async fn run(global: &Global, args: User) -> Result<(), Failure> {
    let config = global.load()?;
    match args.action {
        Action::Add(args) => add(&config, args).await,
        Action::Change(args) => change(&config, args).await,
        Action::Passwd(args) => passwd(&config, args).await,
        Action::Disable(args) => disable(&config, &args, true).await,
        Action::Enable(args) => disable(&config, &args, false).await,
        Action::Unlock(args) => unlock(&config, &args).await,
        Action::List(args) => list(&config, &args).await,
        Action::Delete(args) => delete(&config, &args).await,
        Action::Totp(args) => second_factor(&config, args).await,
    }
}

impl Name {
    fn normal(&self) -> Result<String, Failure> {
        person::normal(&self.name).ok_or_else(|| {
            Failure::usage(format!(
                "`{}` is no user name: 1 to 128 bytes of letters, digits and ._@+-",
                terminal::plain(&self.name).chars().take(64).collect::<String>()
            ))
        })
    }
}

impl Rights {
    /// The role as it is listed, and the permissions.
    fn read(&self, config: &Config) -> Result<(Option<String>, Vec<String>), Failure> {
        let roles = config.auth_with(Secret(Vec::new())).roles;
        let role = self.role.as_ref().map(|role| role.to_uppercase());
        if let Some(role) = role.as_ref().filter(|role| !roles.contains_key(*role)) {
            let known: Vec<&str> = roles.keys().map(String::as_str).collect();
            let role = terminal::plain(role);
            return Err(Failure::usage(format!("there is no role {role} in [auth.roles], there are {}", known.join(", "))));
        }
        let bad = |name: &String| name.is_empty() || name.len() > 128 || name.chars().any(char::is_control);
        if self.permissions.len() > 64 || self.permissions.iter().any(bad) {
            return Err(Failure::usage("a user has at most 64 permissions of 1 to 128 bytes without control characters"));
        }
        let mut permissions = self.permissions.clone();
        permissions.sort_unstable();
        permissions.dedup();
        if role.is_none() && permissions.is_empty() {
            return Err(Failure::usage(
                "a role or a permission is needed (--role, --permission), or he could sign in and see nothing",
            ));
        }
        Ok((role, permissions))
    }
}

async fn hashed(options: &Options, file: &PasswordFile) -> Result<Hash, Failure> {
    let password = ask::new_password(file.password_file.as_deref()).await?;
    options.policy.check(&password).map_err(Failure::usage)?;
    let cost = options.bcrypt_cost;
    let made = tokio::task::spawn_blocking(move || Hash::make(&password, cost)).await;
    made.map_err(|error| Failure::run(error.to_string()))?.map_err(Failure::run)
}

impl<'a> Desk<'a> {
    async fn open(config: &'a Config, what: &str) -> Result<Desk<'a>, Failure> {
        Ok(Desk { config, options: &config.sign_in, store: Reach::need(config, what).await?, now_ms: unix_ms() })
    }

    async fn note(&self, person: &Person, change: AccountChange) {
        let entry = Entry::account(change).user(&person.user_id, Some(&person.username));
        self.store.note(self.config, entry).await;
    }

    async fn person(&self, name: &str) -> Result<Person, Failure> {
        Ok(self.found(name).await?.0)
    }

    /// A person, and the text in the store that says so.
    async fn found(&self, name: &str) -> Result<(Person, Body), Failure> {
        let failed = |error: StoreError| reach::failed("look the user up", &error);
        let unknown = || Failure::run(format!("there is no user {name}; `auditcast user list` shows who is there"));
        let body = self.store.record(Table::People, name).await.map_err(failed)?.ok_or_else(unknown)?;
        Ok((people::read(name, &body).map_err(failed)?, body))
    }

    /// Changes somebody's record, again on what stands there where a daemon was faster.
    async fn edit<T>(
        &self,
        name: &str,
        mut change: impl FnMut(&mut Person) -> Result<T, Failure>,
    ) -> Result<(Person, T), Failure> {
        for _ in 0..TRIES {
            let (mut person, before) = self.found(name).await?;
            let failed = |error: StoreError| reach::failed("change the user", &error);
            let done = change(&mut person)?;
            let after = people::write(&person).map_err(failed)?;
            let change =
                Change { table: Table::People, name: name.to_owned(), before: Some(before), after: Some(after), ttl_ms: None };
            if self.store.record_change(&change).await.map_err(failed)? == Changed::Done {
                return Ok((person, done));
            }
        }
        Err(Failure::run(format!("could not change the user: the record of {name} keeps changing")))
    }

    /// Blacklists the access tokens of sessions that have ended, then forgets these. Interrupted, the same command does the rest.
    async fn bury(&self, person: &Person) -> Result<(), Failure> {
        for (jti, exp_ms) in person.void_tokens(self.now_ms) {
            let ttl = Duration::from_millis(exp_ms.saturating_sub(self.now_ms)) + LEEWAY_MAX;
            let done = self.store.blacklist(&jti, ttl).await;
            done.map_err(|error| reach::failed("revoke the tokens of the user's sessions; try again", &error))?;
        }
        let forget = |person: &mut Person| {
            person.forget_void();
            Ok(())
        };
        self.edit(&person.username, forget).await.map(drop)
    }
}

/// Closes the store whatever came of the work.
macro_rules! at {
    ($config:expr, $what:expr, $desk:ident => $work:expr) => {{
        let $desk = Desk::open($config, $what).await?;
        let done: Result<(), Failure> = async { $work }.await;
        $desk.store.close().await;
        done
    }};
}

async fn add(config: &Config, args: Add) -> Result<(), Failure> {
    let name = args.who.normal()?;
    let (role, permissions) = args.rights.read(config)?;
    if let Some(id) = args.id.as_ref().filter(|id| id.is_empty() || id.len() > 256 || id.chars().any(char::is_control)) {
        return Err(Failure::usage(format!("a user id has 1 to 256 bytes and no control characters, not {}", id.len())));
    }
    let hash = match args.hash.as_deref() {
        Some("-") => Hash::import(&ask::visible("").await?, config.sign_in.bcrypt_cost).map_err(Failure::usage)?,
        Some(hash) => Hash::import(hash, config.sign_in.bcrypt_cost).map_err(Failure::usage)?,
        None => hashed(&config.sign_in, &args.password).await?,
    };
    let id = match args.id {
        Some(id) => id,
        None => people::new_user_id().map_err(Failure::run)?,
    };
    at!(config, "add the user", desk => {
        // Two who are added at the same moment may still get one id; both are an administrator's doing.
        let all = everybody(&desk).await?;
        if let Some(other) = all.iter().find(|person| person.user_id == id) {
            return Err(Failure::run(format!("the user id {} is {}'s already", terminal::plain(&id), other.username)));
        }
        let mut person = Person::new(id, name.clone(), hash, desk.now_ms);
        (person.role, person.permissions) = (role, permissions);
        let body = people::write(&person).map_err(|error| reach::failed("add the user", &error))?;
        let change = Change { table: Table::People, name: name.clone(), before: None, after: Some(body), ttl_ms: None };
        match desk.store.record_change(&change).await.map_err(|error| reach::failed("add the user", &error))? {
            Changed::Done => {
                desk.note(&person, AccountChange::Created).await;
                terminal::line(&format!("added {name} ({})", terminal::plain(&person.user_id)));
                Ok(())
            }
            Changed::Other => Err(Failure::run(format!("there is a user {name} already; `auditcast user change` and `passwd` change him"))),
            Changed::Full => Err(Failure::run(format!("there are {} users already, which is all that may be", Table::People.most()))),
        }
    })
}

async fn change(config: &Config, args: Role) -> Result<(), Failure> {
    let name = args.who.normal()?;
    let (role, permissions) = args.rights.read(config)?;
    at!(config, "change the user", desk => {
        let edited = desk.edit(&name, |person| {
            (person.role, person.permissions) = (role.clone(), permissions.clone());
            person.end(None);
            Ok(())
        });
        let (person, ()) = edited.await?;
        desk.bury(&person).await?;
        desk.note(&person, AccountChange::RoleChanged).await;
        terminal::line(&format!("changed {name}"));
        Ok(())
    })
}

async fn passwd(config: &Config, args: Passwd) -> Result<(), Failure> {
    let name = args.who.normal()?;
    let hash = hashed(&config.sign_in, &args.password).await?;
    at!(config, "set the password", desk => {
        let edited = desk.edit(&name, |person| {
            (person.password, person.password_at_ms) = (hash.clone(), desk.now_ms);
            person.end(None);
            Ok(())
        });
        let (person, ()) = edited.await?;
        desk.bury(&person).await?;
        desk.note(&person, AccountChange::PasswordChanged).await;
        terminal::line(&format!("set the password of {name}"));
        Ok(())
    })
}

async fn disable(config: &Config, args: &Name, disabled: bool) -> Result<(), Failure> {
    let name = args.normal()?;
    at!(config, if disabled { "disable the user" } else { "enable the user" }, desk => {
        let edited = desk.edit(&name, |person| {
            person.disabled = disabled;
            if disabled {
                person.end(None);
            }
            Ok(())
        });
        let (person, ()) = edited.await?;
        if disabled {
            desk.bury(&person).await?;
        }
        desk.note(&person, if disabled { AccountChange::Disabled } else { AccountChange::Enabled }).await;
        terminal::line(&format!("{} {name}", if disabled { "disabled" } else { "enabled" }));
        Ok(())
    })
}

async fn unlock(config: &Config, args: &Name) -> Result<(), Failure> {
    let name = args.normal()?;
    at!(config, "unlock the user", desk => {
        let person = desk.person(&name).await?;
        let key = people::attempts_key(&name);
        let failed = |error: StoreError| reach::failed("unlock the user", &error);
        for _ in 0..TRIES {
            let before = desk.store.record(Table::Attempts, &key).await.map_err(failed)?;
            let change = Change { table: Table::Attempts, name: key.clone(), before, after: None, ttl_ms: None };
            if desk.store.record_change(&change).await.map_err(failed)? == Changed::Done {
                desk.note(&person, AccountChange::Unlocked).await;
                terminal::line(&format!("unlocked {name}"));
                return Ok(());
            }
        }
        Err(Failure::run(format!("could not unlock the user: attempts at {name} go on; try again")))
    })
}

async fn delete(config: &Config, args: &Name) -> Result<(), Failure> {
    let name = args.normal()?;
    at!(config, "delete the user", desk => {
        // Disabled first: nothing new begins between the end of his sessions and his own.
        let edited = desk.edit(&name, |person| {
            person.disabled = true;
            person.end(None);
            Ok(())
        });
        let (person, ()) = edited.await?;
        desk.bury(&person).await?;
        let failed = |error: StoreError| reach::failed("delete the user", &error);
        for _ in 0..TRIES {
            let before = desk.store.record(Table::People, &name).await.map_err(failed)?;
            let change = Change { table: Table::People, name: name.clone(), before, after: None, ttl_ms: None };
            if desk.store.record_change(&change).await.map_err(failed)? == Changed::Done {
                desk.note(&person, AccountChange::Deleted).await;
                terminal::line(&format!("deleted {name}"));
                return Ok(());
            }
        }
        Err(Failure::run(format!("could not delete the user: the record of {name} keeps changing; try again")))
    })
}

async fn second_factor(config: &Config, args: Totp) -> Result<(), Failure> {
    let name = args.who.normal()?;
    if config.sample_encryption_key {
        return Err(Failure::usage(
            "ENCRYPTION_KEY is the sample text of the guide, which everybody knows; make one of your own",
        ));
    }
    at!(config, "set up the second factor", desk => {
        desk.person(&name).await?;
        if args.remove {
            let edited = desk.edit(&name, |person| {
                person.totp = None;
                person.end(None);
                Ok(())
            });
            let (person, ()) = edited.await?;
            desk.bury(&person).await?;
            desk.note(&person, AccountChange::SecondFactorRemoved).await;
            terminal::line(&format!("{name} signs in without a second factor"));
            return Ok(());
        }
        let secret = totp::fresh().map_err(Failure::run)?;
        terminal::line(&totp::uri(&name, &secret));
        terminal::line(&totp::base32(&secret.0));
        let code = ask::visible("A code of it: ").await?;
        let step = totp::step_of(&secret, &code, unix_ms(), 0).ok_or_else(|| {
            Failure::run("the code is not one of this secret, so nothing was changed: take the secret into the app, and look at this machine's clock")
        })?;
        let stored = totp::Stored::seal(&secret, &name, desk.options.encryption_key.as_ref()).map_err(Failure::run)?;
        let edited = desk.edit(&name, |person| {
            person.totp = Some(person::Totp { secret: stored.clone(), last_step: step });
            person.end(None);
            Ok(())
        });
        let (person, ()) = edited.await?;
        desk.bury(&person).await?;
        desk.note(&person, AccountChange::SecondFactorAdded).await;
        let sealed = if stored.is_sealed() { "sealed with ENCRYPTION_KEY" } else { "as it is, because there is no ENCRYPTION_KEY" };
        terminal::line(&format!("{name} needs a code at each sign-in from now on; the store keeps the secret {sealed}"));
        Ok(())
    })
}

async fn everybody(desk: &Desk<'_>) -> Result<Vec<Person>, Failure> {
    let failed = |error: StoreError| reach::failed("list the users", &error);
    let most = usize::try_from(Table::People.most()).unwrap_or(usize::MAX);
    let all = desk.store.records(Table::People, "", most).await.map_err(failed)?;
    all.iter().map(|(name, body)| people::read(name, body).map_err(failed)).collect()
}

async fn list(config: &Config, args: &List) -> Result<(), Failure> {
    at!(config, "list the users", desk => {
        let time = |ms: Option<u64>| ms.map(wire::rfc3339);
        let mut rows = vec![["NAME", "ID", "ROLE", "STATE", "SECOND FACTOR", "SESSIONS", "LAST SIGN-IN"].map(str::to_owned)];
        for person in everybody(&desk).await? {
            let attempts = desk.store.record(Table::Attempts, &people::attempts_key(&person.username)).await;
            let attempts = attempts.map_err(|error| reach::failed("list the users", &error))?;
            let attempts: Attempts = attempts.and_then(|body| serde_json::from_str(&body.0).ok()).unwrap_or_default();
            let locked = attempts.locked(desk.now_ms);
            let state = match (person.disabled, &locked) {
                (true, _) => "disabled",
                (false, Some((Some(_), _))) => "locked out (new addresses)",
                (false, Some((None, _))) => "locked out (some addresses)",
                (false, None) => "active",
            };
            let times = desk.options.times();
            if args.json {
                let told = json!({
                    "username": person.username,
                    "user_id": person.user_id,
                    "role": person.role,
                    "permissions": person.permissions,
                    "disabled": person.disabled,
                    "locked": locked.is_some(),
                    "totp": person.totp.is_some(),
                    "legacy_password": person.password.is_legacy(),
                    "sessions": person.sessions(desk.now_ms, &times).map(|session| json!({
                        "session_id": session.id(),
                        "address": session.address(),
                        "since": wire::rfc3339(session.begun_ms()),
                        "active_at": wire::rfc3339(session.active_ms()),
                    })).collect::<Vec<_>>(),
                    "created_at": wire::rfc3339(person.created_at_ms),
                    "last_sign_in": time(person.last_sign_in_ms),
                });
                terminal::line(&terminal::plain_json(&told.to_string()));
                continue;
            }
            let sessions = person.sessions(desk.now_ms, &times).count();
            let role = person.role.unwrap_or_else(|| person.permissions.join(","));
            rows.push([
                person.username,
                person.user_id,
                role,
                state.to_owned(),
                if person.totp.is_some() { "yes" } else { "no" }.to_owned(),
                sessions.to_string(),
                time(person.last_sign_in_ms).unwrap_or_else(|| "never".to_owned()),
            ]);
        }
        if !args.json {
            table(&rows);
        }
        Ok(())
    })
}

fn table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{:width$}", terminal::plain(cell))).collect();
        terminal::line(cells.join("  ").trim_end());
    }
}
