//! A's permissions, in whatever shape its application has written them: `permissions:user:{user_id}`,
//! `permissions:resource:{resource_id}:{user_id}`.

use serde_json::Value as Json;

use super::*;
use crate::store::standing::{Grant, RESOURCE, changed};

/// What the keys begin with, for whoever watches them.
pub(super) const PERMISSIONS: &str = "permissions:";
const USER: &str = "permissions:user:";
const OURS: &str = "permissions:resource:auditcast:";
/// Keys looked at in one question.
const KEYS_AT_ONCE: usize = 512;
/// A key that somebody else writes to meanwhile is read again so often.
const TRIES: usize = 5;

/// What a grant is, in a hash or an object that has none yet to show how its writer says yes.
const YES: &str = "1";

fn key(user_id: &str, resource: Option<&str>) -> String {
    match resource {
        None => format!("{USER}{user_id}"),
        Some(resource) => format!("permissions:resource:{resource}:{user_id}"),
    }
}

/// The keys that count here.
pub(super) fn keys(user_id: &str) -> [String; 2] {
    [key(user_id, None), key(user_id, Some(RESOURCE))]
}

/// Whose permissions a changed key is about; none where it is a resource's that does not count here.
pub(super) fn user_of(key: &str) -> Option<&str> {
    key.strip_prefix(USER).or_else(|| key.strip_prefix(OURS))
}

/// What several keys grant together. One that is broken takes nothing from the others.
pub(super) fn union(keys: Vec<Result<Vec<String>, StoreError>>) -> Result<Vec<String>, StoreError> {
    let mut permissions = Vec::new();
    let mut broken = None;
    for found in keys {
        match found {
            Ok(found) => permissions.extend(found),
            Err(error @ StoreError::Broken(_)) => broken = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let (true, Some(error)) = (permissions.is_empty(), broken) {
        return Err(error);
    }
    permissions.sort_unstable();
    permissions.dedup();
    Ok(permissions)
}

impl RedisStore {
    pub async fn permissions(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        union(self.permissions_of(&keys(user_id)).await?)
    }

    pub async fn permissions_among(&self, user_ids: &[String]) -> Result<Vec<Vec<String>>, StoreError> {
        let mut all = Vec::with_capacity(user_ids.len());
        for part in user_ids.chunks(KEYS_AT_ONCE / 2) {
            let keys: Vec<String> = part.iter().flat_map(|user_id| keys(user_id)).collect();
            // Most users have none, and most chunks nobody who has.
            let mut command = cmd("EXISTS");
            command.arg(&keys);
            if value::number(&self.link.one(command).await?) == Some(0) {
                all.resize(all.len() + part.len(), Vec::new());
                continue;
            }
            let mut found = self.permissions_of(&keys).await?.into_iter();
            for _ in part {
                let pair = found.by_ref().take(2).collect();
                all.push(match union(pair) {
                    Err(StoreError::Broken(why)) => {
                        tracing::debug!("{why}");
                        Vec::new()
                    }
                    answer => answer?,
                });
            }
        }
        Ok(all)
    }

    pub async fn permissions_at(&self, user_id: &str, resource: Option<&str>) -> Result<Vec<String>, StoreError> {
        union(self.permissions_of(&[key(user_id, resource)]).await?)
    }

    /// What each key grants. `Broken` for one of another shape: it grants nothing, and somebody should know.
    async fn permissions_of(&self, keys: &[String]) -> Result<Vec<Result<Vec<String>, StoreError>>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline.cmd("TYPE").arg(key);
        }
        let kinds = self.link.ask(&pipeline).await?;
        self.permissions_by_kind(keys, kinds).await
    }

    /// `kinds`: what `TYPE` has said of each.
    pub(super) async fn permissions_by_kind(
        &self,
        keys: &[String],
        kinds: Vec<Value>,
    ) -> Result<Vec<Result<Vec<String>, StoreError>>, StoreError> {
        let mut pipeline = Pipeline::new();
        let mut kinds_of = Vec::with_capacity(keys.len());
        for (key, kind) in keys.iter().zip(kinds) {
            let kind = value::text(self.link.reply(Some(kind))?).ok_or_else(|| self.link.garbled())?;
            if let Some(read) = match kind.as_str() {
                "set" => Some("SMEMBERS"),
                "hash" => Some("HGETALL"),
                "string" => Some("GET"),
                _ => None,
            } {
                pipeline.cmd(read).arg(key);
            }
            kinds_of.push(kind);
        }
        let mut replies = self.link.ask(&pipeline).await?.into_iter();
        let mut all = Vec::with_capacity(keys.len());
        for (key, kind) in keys.iter().zip(kinds_of) {
            all.push(match kind.as_str() {
                "none" => Ok(Vec::new()),
                "set" | "hash" | "string" => match self.link.reply(replies.next()) {
                    Ok(reply) => self.granted(key, &kind, reply),
                    // It has become something else between the two questions.
                    Err(error @ StoreError::Broken(_)) => Err(error),
                    Err(error) => return Err(error),
                },
                other => Err(shapeless(key, &format!("is a {other}"))),
            });
        }
        Ok(all)
    }

    fn granted(&self, key: &str, kind: &str, reply: Value) -> Result<Vec<String>, StoreError> {
        let mut permissions: Vec<String> = match kind {
            "set" => {
                let members = value::items(reply).ok_or_else(|| self.link.garbled())?;
                members.into_iter().filter_map(value::text).collect()
            }
            "hash" => {
                let pairs = value::pairs(reply).ok_or_else(|| self.link.garbled())?;
                let granted = |(name, value)| truthy(&value::text(value)?).then(|| value::text(name)).flatten();
                pairs.into_iter().filter_map(granted).collect()
            }
            _ => match value::text(reply) {
                // Gone between the two questions: nothing granted.
                None => Vec::new(),
                Some(text) => {
                    let granted = serde_json::from_str(&text).ok().and_then(|json: Json| granted_by(&json));
                    granted.ok_or_else(|| shapeless(key, "holds no such text"))?
                }
            },
        };
        permissions.sort_unstable();
        permissions.dedup();
        Ok(permissions)
    }

    pub async fn grant(
        &self,
        user_id: &str,
        resource: Option<&str>,
        names: &[String],
        grant: Grant,
    ) -> Result<Vec<String>, StoreError> {
        let key = key(user_id, resource);
        for _ in 0..TRIES {
            let mut command = cmd("TYPE");
            command.arg(&key);
            let kind = value::text(self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
            let read = |name| {
                let mut command = cmd(name);
                command.arg(&key);
                self.link.one(command)
            };
            let done = match kind.as_str() {
                "none" if grant == Grant::Take => Some(Vec::new()),
                "none" | "set" => {
                    let reply = if kind == "set" { read("SMEMBERS").await } else { Ok(Value::Nil) };
                    let changed = changed(&self.granted(&key, "set", reply?)?, names, grant)?;
                    let mut command = cmd(if grant == Grant::Give { "SADD" } else { "SREM" });
                    command.arg(&key).arg(&changed);
                    self.write(&changed, command).await?
                }
                "hash" => {
                    let pairs = value::pairs(read("HGETALL").await?).ok_or_else(|| self.link.garbled())?;
                    let yes = pairs.iter().filter_map(|(_, value)| value::text(value.clone())).find(|value| truthy(value));
                    let changed = changed(&self.granted(&key, "hash", Value::Map(pairs))?, names, grant)?;
                    let mut command = cmd(if grant == Grant::Give { "HSET" } else { "HDEL" });
                    command.arg(&key);
                    for name in &changed {
                        command.arg(name);
                        if grant == Grant::Give {
                            command.arg(yes.as_deref().unwrap_or(YES));
                        }
                    }
                    self.write(&changed, command).await?
                }
                "string" => match value::text(read("GET").await?) {
                    None => None,
                    Some(text) => {
                        let json: Option<Json> = serde_json::from_str(&text).ok();
                        let there = json.as_ref().and_then(granted_by);
                        let (Some(mut json), Some(there)) = (json, there) else {
                            return Err(shapeless(&key, "holds no such text"));
                        };
                        let changed = changed(&there, names, grant)?;
                        rewrite(&mut json, &changed, grant);
                        let args = [text, json.to_string()];
                        let done = changed.is_empty() || {
                            let reply = self.link.run(&scripts::REPLACE, &[&key], &args).await;
                            matches!(reply, Ok(reply) if value::number(&reply) == Some(1))
                        };
                        done.then_some(changed)
                    }
                },
                other => return Err(shapeless(&key, &format!("is a {other}"))),
            };
            if let Some(changed) = done {
                return Ok(changed);
            }
        }
        Err(StoreError::Unavailable(format!("the key {key} is being written to by somebody else all the time")))
    }

    /// `None`: the key has become something else meanwhile.
    async fn write(&self, changed: &[String], command: redis::Cmd) -> Result<Option<Vec<String>>, StoreError> {
        if changed.is_empty() {
            return Ok(Some(Vec::new()));
        }
        match self.link.one(command).await {
            Ok(_) => Ok(Some(changed.to_vec())),
            Err(StoreError::Broken(text)) if text.contains("WRONGTYPE") => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn shapeless(key: &str, what: &str) -> StoreError {
    StoreError::Broken(format!(
        "the key {key} {what}: neither a set, a hash, nor JSON text with an array or object of permissions"
    ))
}

/// What applications write for "yes".
fn truthy(text: &str) -> bool {
    ["1", "true", "yes", "y", "on", "t", "granted", "allow", "allowed"].iter().any(|yes| text.trim().eq_ignore_ascii_case(yes))
}

fn is_yes(value: &Json) -> bool {
    match value {
        Json::Bool(yes) => *yes,
        Json::Number(n) => n.as_u64() == Some(1),
        Json::String(text) => truthy(text),
        _ => false,
    }
}

/// An array of texts, an object whose true members are granted, or an object with such an array as `permissions`.
fn granted_by(json: &Json) -> Option<Vec<String>> {
    match json {
        Json::Array(list) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        Json::Object(members) => match members.get("permissions") {
            Some(list @ Json::Array(_)) => granted_by(list),
            _ => Some(members.iter().filter(|(_, value)| is_yes(value)).map(|(name, _)| name.clone()).collect()),
        },
        _ => None,
    }
}

/// Changes what [`granted_by`] can read, in its own shape.
fn rewrite(json: &mut Json, changed: &[String], grant: Grant) {
    match json {
        Json::Array(list) if grant == Grant::Give => list.extend(changed.iter().cloned().map(Json::from)),
        Json::Array(list) => list.retain(|item| !changed.iter().any(|name| item.as_str() == Some(name))),
        Json::Object(members) => {
            if let Some(list @ Json::Array(_)) = members.get_mut("permissions") {
                return rewrite(list, changed, grant);
            }
            let yes = members.values().find(|value| is_yes(value)).cloned().unwrap_or(Json::Bool(true));
            for name in changed {
                if grant == Grant::Give {
                    members.insert(name.clone(), yes.clone());
                } else {
                    members.remove(name);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_every_shape_is_read_and_changed_in_its_own() {
        for (text, granted, given, taken) in [
            (r#"["b","a"]"#, Some("a b"), r#"["b","a","n"]"#, r#"["b"]"#),
            ("[]", Some(""), r#"["n"]"#, "[]"),
            (
                r#"{"a":true,"b":false,"c":"yes","d":0,"e":1}"#,
                Some("a c e"),
                r#"{"a":true,"b":false,"c":"yes","d":0,"e":1,"n":true}"#,
                r#"{"b":false,"c":"yes","d":0,"e":1}"#,
            ),
            (
                r#"{"permissions":["a"],"by":"x"}"#,
                Some("a"),
                r#"{"by":"x","permissions":["a","n"]}"#,
                r#"{"by":"x","permissions":[]}"#,
            ),
            ("{}", Some(""), r#"{"n":true}"#, "{}"),
            (r#"["a",1]"#, None, "", ""),
            (r#""a""#, None, "", ""),
            ("null", None, "", ""),
        ] {
            let json: Json = serde_json::from_str(text).unwrap();
            let mut found = granted_by(&json);
            if let Some(found) = &mut found {
                found.sort();
            }
            assert_eq!(found.map(|found| found.join(" ")).as_deref(), granted, "{text}");
            if granted.is_some() {
                let (mut more, mut less) = (json.clone(), json);
                rewrite(&mut more, &["n".to_owned()], Grant::Give);
                rewrite(&mut less, &["a".to_owned()], Grant::Take);
                assert_eq!((more.to_string().as_str(), less.to_string().as_str()), (given, taken), "{text}");
            }
        }
    }

    #[test]
    fn keys_name_their_user() {
        assert_eq!(keys("a:b"), ["permissions:user:a:b", "permissions:resource:auditcast:a:b"]);
        for key in keys("a:b") {
            assert_eq!(user_of(&key), Some("a:b"));
        }
        assert_eq!(user_of("permissions:resource:payroll:7"), None);
    }
}
