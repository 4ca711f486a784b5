//! `permission`: what people may see, as the store has it (contract §10).

use clap::{Args, Subcommand};

use super::{Failure, Global, reach, reach::Reach, terminal};
use crate::{
    config::Config,
    store::{Grant, StoreError},
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
    #[arg(value_name = "PERMISSION")]
    pub permission: String,
    /// Among those for this resource [default: among all that count here]
    #[arg(long, value_name = "ID")]
    pub resource: Option<String>,
    /// Look also into what this role has in [auth.roles]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Setup {
    /// User id; may be repeated
    #[arg(long = "user", value_name = "ID", required = true)]
    pub users: Vec<String>,
    /// Their role
    #[arg(long, value_name = "ROLE")]
    pub role: String,
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

async fn change(config: &Config, args: &Change, grant: Grant) -> Result<(), Failure> {
    let (what, done) = match grant {
        Grant::Give => ("grant the permissions", "granted"),
        Grant::Take => ("revoke the permissions", "revoked"),
    };
    let store = Reach::need(config, what).await?;
    let changed = store.grant(&args.user, args.resource.as_deref(), &args.permissions, grant).await;
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

/// What is granted at one key, or all that counts here.
async fn granted(config: &Config, user: &str, resource: Option<&str>) -> Result<Vec<String>, Failure> {
    let what = "read the permissions";
    let store = Reach::need(config, what).await?;
    let found = match resource {
        Some(resource) => store.permissions_at(user, Some(resource)).await,
        None => store.permissions(user).await,
    };
    store.close().await;
    found.map_err(|error| failed(what, &error))
}

async fn list(config: &Config, args: &List) -> Result<(), Failure> {
    for name in granted(config, &args.user, args.resource.as_deref()).await? {
        terminal::line(&terminal::plain(&name));
    }
    Ok(())
}

async fn check(config: &Config, args: &Check) -> Result<(), Failure> {
    let by_role = args.role.as_ref().map_or(Ok(Vec::new()), |name| role(config, name))?;
    let (user, permission) = (terminal::plain(&args.user), terminal::plain(&args.permission));
    let has = by_role.contains(&args.permission)
        || granted(config, &args.user, args.resource.as_deref()).await?.contains(&args.permission);
    if has {
        terminal::line(&format!("{user} has {permission}"));
        return Ok(());
    }
    terminal::line(&format!("{user} does not have {permission}"));
    Err(Failure::Run(String::new()))
}

/// A's `setup_default_permissions`.
async fn setup(config: &Config, args: &Setup) -> Result<(), Failure> {
    let permissions = role(config, &args.role)?;
    let what = "write the permissions";
    let store = Reach::need(config, what).await?;
    let mut outcome = Ok(());
    for user in &args.users {
        match store.grant(user, None, &permissions, Grant::Give).await {
            Ok(changed) => {
                let (user, new, all) = (terminal::plain(user), changed.len(), permissions.len());
                terminal::line(&format!("{user}: {new} of the {all} permissions of {} are new", args.role.trim().to_uppercase()));
            }
            Err(error) => {
                outcome = Err(failed(what, &error));
                break;
            }
        }
    }
    store.close().await;
    outcome
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
