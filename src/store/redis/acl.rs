//! Who auditcast is to the server.

use std::collections::BTreeMap;

use super::*;

impl RedisStore {
    /// `user`, and of that one `flags`, `commands`, `keys`, as `ACL GETUSER` says them; without what may not be asked.
    pub async fn acl(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let mut facts = BTreeMap::new();
        let mut command = cmd("ACL");
        command.arg("WHOAMI");
        let user = match self.link.one(command).await {
            Ok(user) => value::text(user).ok_or_else(|| self.link.garbled())?,
            Err(StoreError::Refused(_)) => return Ok(facts),
            Err(error) => return Err(error),
        };
        let mut command = cmd("ACL");
        command.arg("GETUSER").arg(&user);
        facts.insert("user".to_owned(), user);
        let pairs = match self.link.one(command).await {
            Ok(told) => value::pairs(told).unwrap_or_default(),
            Err(StoreError::Refused(_)) => return Ok(facts),
            Err(error) => return Err(error),
        };
        for (name, told) in pairs {
            let Some(name) = value::text(name) else { continue };
            // Digests of passwords are nobody's business. Lists up to 6.2, texts since 7.
            if matches!(name.as_str(), "flags" | "commands" | "keys") {
                let text = match told {
                    Value::Array(items) | Value::Set(items) => {
                        items.into_iter().filter_map(value::text).collect::<Vec<_>>().join(" ")
                    }
                    told => value::text(told).unwrap_or_default(),
                };
                facts.insert(name, text);
            }
        }
        Ok(facts)
    }
}
