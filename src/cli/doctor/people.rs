//! People who sign in: second factors, passwords in the guide's old form. Nothing is said where there is nobody.

use super::{super::reach::Reach, Report};
use crate::{
    auth::people::{self, person::Person},
    cli::terminal,
    store::record::Table,
};

/// Named in a line; the rest is counted.
const NAMED_MAX: usize = 5;

pub(super) async fn check(report: &mut Report, reach: &Reach) {
    let most = usize::try_from(Table::People.most()).unwrap_or(usize::MAX);
    let records = match reach.records(Table::People, "", most).await {
        Ok(records) => records,
        Err(error) => return report.fail("users", error.to_string(), "the accounts of people cannot be read"),
    };
    let mut people = Vec::new();
    for (name, body) in &records {
        match people::read(name, body) {
            Ok(person) if person.disabled => {}
            Ok(person) => people.push(person),
            Err(error) => report.fail("users", error.to_string(), "delete the account and add it again"),
        }
    }
    if people.is_empty() {
        return;
    }
    let who = |lacks: fn(&Person) -> bool| -> Vec<&str> {
        people.iter().filter(|person| lacks(person)).map(|person| person.username.as_str()).collect()
    };
    match who(|person| person.totp.is_none()).as_slice() {
        [] => report.ok("users", format!("{} may sign in, all with a second factor", people.len())),
        bare => {
            let text = format!("{} of {} sign in without a second factor: {}", bare.len(), people.len(), named(bare));
            report.warn("users", text, "give them one: auditcast user totp NAME");
        }
    }
    if let old @ [_, ..] = who(|person| person.password.is_legacy()).as_slice() {
        let text = format!("{} still have SHA-256 hashes of the guide's application: {}", old.len(), named(old));
        report.warn(
            "passwords",
            text,
            "let them sign in once, which makes bcrypt of it, or set others: auditcast user passwd NAME",
        );
    }
}

fn named(names: &[&str]) -> String {
    let mut shown = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED_MAX {
        shown.push_str(", …");
    }
    terminal::plain(&shown)
}
