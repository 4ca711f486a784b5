//! `permission`: what people may see, as the store has it (contract §10).

use clap::{Args, Subcommand};

use super::{Failure, Global, reach, reach::Reach, terminal};
use crate::{
    auth::{
        journal::Entry,
        people::{self, person::Person},
    },
    config::Config,
    store::{Grant, StoreError, record::Table},
};

#[derive(Clone, Debug, Args)]
pub struct Permission {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Give a user permissions; who is connected has them at once
    Grant(Change),
    /// Take permissions from a user; who may no longer see is disconnected
    Revoke(Change),
    /// Print the permissions that the store grants a user, one a line
    List(List),
    /// Whether the store grants a user a permission: exit 0 or 1
    Check(Check),
    /// Give users the permissions of their role in [auth.roles]
    Setup(Setup),
}

#[derive(Clone, Debug, Args)]
pub struct Change {
    /// User id
    #[arg(value_name = "USER")]
    pub user: String,
    /// Permissions, such as audit.view: any text
    #[arg(value_name = "PERMISSION", required = true)]
    pub permissions: Vec<String>,
    /// For this resource alone; what is granted for the resource auditcast counts here
    #[arg(long, value_name = "ID")]
    pub resource: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct List {
    /// User id
    #[arg(value_name = "USER")]
    pub user: String,
    /// Those for this resource [default: all that count here]
    #[arg(long, value_name = "ID")]
    pub resource: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Check {
    /// User id
    #[arg(value_name = "USER")]
    pub user: String,
    /// Permission, such as audit.view
    #[arg(value_name = "PERMISSION")]
    pub permission: String,
    /// Among those for this resource [default: among all that count here]
    #[arg(long, value_name = "ID")]
    pub resource: Option<String>,
    /// Look also into what this role has in [auth.roles] [default: the role of the user's account, if he has one]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Setup {
    /// User id; may be repeated [default: everybody who has an account, each by the role of it]
    #[arg(long = "user", value_name = "ID", requires = "role")]
    pub users: Vec<String>,
    /// Their role
    #[arg(long, value_name = "ROLE", requires = "users")]
    pub role: Option<String>,
}

pub async fn run(global: &Global, args: Permission) -> Result<(), Failure> {
    let config = global.load()?;
    match args.action {
        Action::Grant(args) => change(&config, &args, Grant::Give).await,
        Action::Revoke(args) => change(&config, &args, Grant::Take).await,
        Action::List(args) => list(&config, &args).await,
        Action::Check(args) => check(&config, &args).await,
        Action::Setup(args) => setup(&config, &args).await,
    }
}

/// A failure of the store; names that it does not take are wrong usage.
fn failed(what: &str, error: &StoreError) -> Failure {
    match error {
        StoreError::Refused(text) if text.starts_with("a ") => Failure::usage(terminal::plain(text)),
        error => reach::failed(what, error),
    }
}

/// Names as a sentence has them.
fn named(names: &[String]) -> String {
    names.iter().map(|name| terminal::plain(name)).collect::<Vec<_>>().join(", ")
}

fn role(config: &Config, role: &str) -> Result<Vec<String>, Failure> {
    let roles = config.auth_with(crate::auth::Secret(Vec::new())).roles;
    roles.get(&role.trim().to_uppercase()).cloned().ok_or_else(|| {
        let known: Vec<&str> = roles.keys().map(String::as_str).collect();
        Failure::usage(format!("there is no role {} in [auth.roles], there are {}", terminal::plain(role), known.join(", ")))
    })
}

/// Everybody who has an account.
async fn everybody(store: &Reach) -> Result<Vec<Person>, StoreError> {
    let most = usize::try_from(Table::People.most()).unwrap_or(usize::MAX);
    let all = store.records(Table::People, "", most).await?;
    all.iter().map(|(name, body)| people::read(name, body)).collect()
}

async fn change(config: &Config, args: &Change, grant: Grant) -> Result<(), Failure> {
    let (what, done) = match grant {
        Grant::Give => ("grant the permissions", "granted"),
        Grant::Take => ("revoke the permissions", "revoked"),
    };
    let store = Reach::need(config, what).await?;
    let changed = write(config, &store, &args.user, args.resource.as_deref(), &args.permissions, grant).await;
    store.close().await;
    let changed = changed.map_err(|error| failed(what, &error))?;
    let user = terminal::plain(&args.user);
    let at = args.resource.as_deref().map(|resource| format!(" for {}", terminal::plain(resource))).unwrap_or_default();
    terminal::line(&match (changed.as_slice(), grant) {
        ([], Grant::Give) => format!("{user} had that already{at}"),
        ([], Grant::Take) => format!("{user} had none of that{at}"),
        (changed, Grant::Give) => format!("{done} {} to {user}{at}", named(changed)),
        (changed, Grant::Take) => format!("{done} {} from {user}{at}", named(changed)),
    });
    Ok(())
}

/// Changes what the store has, and notes it.
async fn write(
    config: &Config,
    store: &Reach,
    user: &str,
    resource: Option<&str>,
    permissions: &[String],
    grant: Grant,
) -> Result<Vec<String>, StoreError> {
    let changed = store.grant(user, resource, permissions, grant).await?;
    for name in &changed {
        let entry = match grant {
            Grant::Give => Entry::permission_granted(name, resource),
            Grant::Take => Entry::permission_revoked(name, resource),
        };
        store.note(config, entry.user(user, None)).await;
    }
    Ok(changed)
}

/// What is granted at one key, or all that counts here.
async fn granted(store: &Reach, user: &str, resource: Option<&str>) -> Result<Vec<String>, StoreError> {
    match resource {
        Some(resource) => store.permissions_at(user, Some(resource)).await,
        None => store.permissions(user).await,
    }
}

async fn list(config: &Config, args: &List) -> Result<(), Failure> {
    let what = "read the permissions";
    let store = Reach::need(config, what).await?;
    let found = granted(&store, &args.user, args.resource.as_deref()).await;
    store.close().await;
    for name in found.map_err(|error| failed(what, &error))? {
        terminal::line(&terminal::plain(&name));
    }
    Ok(())
}

async fn check(config: &Config, args: &Check) -> Result<(), Failure> {
    let mut has = args.role.as_ref().map_or(Ok(Vec::new()), |name| role(config, name))?;
    let what = "read the permissions";
    let store = Reach::need(config, what).await?;
    let asked = async {
        if args.role.is_none()
            && let Some(person) = everybody(&store).await?.into_iter().find(|person| person.user_id == args.user)
        {
            // A role that is in the table no more grants nothing.
            has.extend(person.role.and_then(|name| role(config, &name).ok()).unwrap_or_default());
            has.extend(person.permissions);
        }
        has.extend(granted(&store, &args.user, args.resource.as_deref()).await?);
        Ok(has)
    };
    let has = asked.await;
    store.close().await;
    let has = has.map_err(|error: StoreError| failed(what, &error))?.contains(&args.permission);
    let (user, permission) = (terminal::plain(&args.user), terminal::plain(&args.permission));
    terminal::line(&format!("{user} {} {permission}", if has { "has" } else { "does not have" }));
    if has { Ok(()) } else { Err(Failure::Run(String::new())) }
}

/// A's `setup_default_permissions`.
async fn setup(config: &Config, args: &Setup) -> Result<(), Failure> {
    let given = args.role.as_ref().map(|name| role(config, name)).transpose()?;
    let what = "write the permissions";
    let store = Reach::need(config, what).await?;
    let done = async {
        let mut wanted: Vec<(String, String, Vec<String>)> = Vec::new();
        match (given, &args.role) {
            (Some(permissions), Some(name)) => {
                wanted.extend(args.users.iter().map(|user| (user.clone(), name.clone(), permissions.clone())));
            }
            _ => {
                for person in everybody(&store).await? {
                    let known = person.role.and_then(|name| role(config, &name).ok().map(|permissions| (name, permissions)));
                    wanted.extend(known.map(|(name, permissions)| (person.user_id, name, permissions)));
                }
            }
        }
        for (user, name, permissions) in &wanted {
            let changed = write(config, &store, user, None, permissions, Grant::Give).await?;
            let (user, new, all, name) = (terminal::plain(user), changed.len(), permissions.len(), terminal::plain(name.trim()));
            terminal::line(&format!("{user}: {new} of the {all} permissions of {} are new", name.to_uppercase()));
        }
        Ok(wanted.is_empty())
    };
    let done = done.await;
    store.close().await;
    if done.map_err(|error: StoreError| failed(what, &error))? {
        terminal::line("nobody has an account with a role of [auth.roles]; name users by --user, with their --role");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::store::RESOURCE;

    #[test]
    fn the_help_names_the_resource_that_counts() {
        use clap::CommandFactory;
        let mut command = super::super::Cli::command();
        let grant = command.find_subcommand_mut("permission").unwrap().find_subcommand_mut("grant").unwrap();
        assert!(grant.render_help().to_string().contains(RESOURCE));
    }
}
