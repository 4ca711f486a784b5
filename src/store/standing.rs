//! What the store knows of people: revoked tokens, cut-offs, permissions (contract §10).

use super::{Duration, Store, StoreError, Watch};

/// The resource whose permissions count here: `permissions:resource:auditcast:{user_id}` grants what `permissions:user:{user_id}`
/// does. Those of any other resource are the application's own business.
pub const RESOURCE: &str = "auditcast";
/// Users with a cut-off that are kept; beyond, the one whose tokens were cut off at the earliest time goes.
pub const CUT_OFFS_MAX: usize = 100_000;
/// Permissions that one key may be given.
pub const PERMISSIONS_MAX: usize = 1000;
/// Longest user id, resource, permission, bytes.
const NAME_BYTES_MAX: usize = 256;

/// What the store knows of a token and of whom it speaks for.
#[derive(Debug)]
pub struct Standing {
    pub blacklisted: bool,
    /// Tokens of this user that were issued before this are revoked, Unix ms.
    pub cut_off_ms: Option<u64>,
    /// As [`Store::permissions`] answers.
    pub permissions: Result<Vec<String>, StoreError>,
}

/// A user id, a resource or a permission as auditcast writes it: any text of 1 to 256 bytes without control characters. A
/// resource has no colon, which would make it another resource's user.
pub fn check_name(what: &str, name: &str) -> Result<(), StoreError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(StoreError::Refused(format!("{what} has 1 to {NAME_BYTES_MAX} bytes and no control characters")));
    }
    if what == "a resource" && name.contains(':') {
        return Err(StoreError::Refused("a resource has no colon".to_owned()));
    }
    Ok(())
}

pub(super) fn check_names(user_id: &str, resource: Option<&str>, names: &[String]) -> Result<(), StoreError> {
    check_name("a user id", user_id)?;
    resource.map_or(Ok(()), |resource| check_name("a resource", resource))?;
    names.iter().try_for_each(|name| check_name("a permission", name))
}

/// What a change of permissions does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    Give,
    Take,
}

impl Store {
    /// Whether `jwt:blacklist:{jti}` is there.
    pub async fn blacklisted(&self, jti: &str) -> Result<bool, StoreError> {
        both!(self, s => s.blacklisted(jti).await)
    }

    /// Those of these tokens that are on the blacklist. A question of a few commands, however many they are.
    pub async fn blacklisted_among(&self, jtis: &[String]) -> Result<Vec<String>, StoreError> {
        both!(self, s => s.blacklisted_among(jtis).await)
    }

    /// Sets `jwt:blacklist:{jti}` for `ttl`.
    pub async fn blacklist(&self, jti: &str, ttl: Duration) -> Result<(), StoreError> {
        both!(self, s => s.blacklist(jti, ttl).await)
    }

    /// Revokes every token of this user that was issued before `before_ms` (Unix ms), and those that do not say when. For good, and
    /// for every node. An earlier time than the one that is stored changes nothing; gives the one in force.
    pub async fn cut_off(&self, user_id: &str, before_ms: u64) -> Result<u64, StoreError> {
        check_name("a user id", user_id)?;
        both!(self, s => s.cut_off(user_id, before_ms).await)
    }

    /// The cut-offs of those of these users who have one. A question of a few commands, however many they are.
    pub async fn cut_offs(&self, user_ids: &[String]) -> Result<Vec<(String, u64)>, StoreError> {
        both!(self, s => s.cut_offs(user_ids).await)
    }

    /// [`blacklisted`](Store::blacklisted), for a token that has an id, the user's cut-off, and [`permissions`](Store::permissions),
    /// asked together.
    pub async fn standing(&self, user_id: &str, jti: Option<&str>) -> Result<Standing, StoreError> {
        both!(self, s => s.standing(user_id, jti).await)
    }

    /// The same without the permissions.
    pub async fn revocations(&self, user_id: &str, jti: Option<&str>) -> Result<(bool, Option<u64>), StoreError> {
        both!(self, s => s.revocations(user_id, jti).await)
    }

    /// What `permissions:user:{user_id}` and `permissions:resource:auditcast:{user_id}` grant together: each a SET, a HASH with true
    /// values, or JSON text, an array or an object (contract §10). Sorted. `Broken` where a key of another shape leaves nothing.
    pub async fn permissions(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        both!(self, s => s.permissions(user_id).await)
    }

    /// The same of many users, in their order; a key of another shape grants nothing.
    pub async fn permissions_among(&self, user_ids: &[String]) -> Result<Vec<Vec<String>>, StoreError> {
        both!(self, s => s.permissions_among(user_ids).await)
    }

    /// What one key grants: the user's own, or his for a resource. Sorted.
    pub async fn permissions_at(&self, user_id: &str, resource: Option<&str>) -> Result<Vec<String>, StoreError> {
        check_names(user_id, resource, &[])?;
        both!(self, s => s.permissions_at(user_id, resource).await)
    }

    /// Gives or takes permissions at one key, which keeps its type; gives those that this changed. Nothing is changed where the
    /// key would get more than [`PERMISSIONS_MAX`].
    pub async fn grant(
        &self,
        user_id: &str,
        resource: Option<&str>,
        names: &[String],
        grant: Grant,
    ) -> Result<Vec<String>, StoreError> {
        check_names(user_id, resource, names)?;
        both!(self, s => s.grant(user_id, resource, names, grant).await)
    }

    /// Tells of changes about people who are in already.
    pub fn watch(&self) -> Watch {
        match self {
            Store::Redis(s) => Watch::Redis(Box::new(s.watch())),
            Store::Embedded(s) => Watch::Embedded(s.watch()),
        }
    }
}

/// Those of `names` that a change of what is `there` concerns, each once; refuses what would be too many.
pub(super) fn changed(there: &[String], names: &[String], grant: Grant) -> Result<Vec<String>, StoreError> {
    let mut changed: Vec<String> = Vec::new();
    for name in names {
        if there.contains(name) == (grant == Grant::Take) && !changed.contains(name) {
            changed.push(name.clone());
        }
    }
    if grant == Grant::Give && there.len() + changed.len() > PERMISSIONS_MAX {
        let text =
            format!("that would be {} permissions at one key, at most {PERMISSIONS_MAX} are given", there.len() + changed.len());
        return Err(StoreError::Refused(text));
    }
    Ok(changed)
}
