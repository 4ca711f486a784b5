//! What is known of people: revoked tokens, cut-offs, permissions.

use std::time::Duration;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::{
    EmbeddedStore, Watch,
    tables::{BLACKLIST, CUT_OFFS, Done, Fault, Group, Kind, PERMISSIONS, RESOURCES, expiry_key, put_block},
    timed::{NAME_BYTES_MAX, check_name, ends_ms},
    writer::Shared,
};
use crate::store::{
    CUT_OFFS_MAX, Change, RESOURCE, Standing, StoreError, check_name as check_text,
    standing::{Grant, changed, check_names},
};

impl EmbeddedStore {
    pub async fn blacklisted(&self, jti: &str) -> Result<bool, StoreError> {
        let (now, jti) = (self.inner.shared.clock.now_ms(), jti.to_owned());
        self.read(move |txn| blacklisted(txn, now, &jti)).await
    }

    pub async fn blacklisted_among(&self, jtis: &[String]) -> Result<Vec<String>, StoreError> {
        let (now, jtis) = (self.inner.shared.clock.now_ms(), jtis.to_vec());
        let look = move |txn: &ReadTransaction| {
            let mut found = Vec::new();
            for jti in jtis {
                if blacklisted(txn, now, &jti)? {
                    found.push(jti);
                }
            }
            Ok(found)
        };
        self.read(look).await
    }

    pub async fn blacklist(&self, jti: &str, ttl: Duration) -> Result<(), StoreError> {
        let jti = jti.to_owned();
        self.write(move |group| blacklist(group, &jti, ttl)).await
    }

    pub async fn cut_off(&self, user_id: &str, before_ms: u64) -> Result<u64, StoreError> {
        check_text("a user id", user_id)?;
        let user_id = user_id.to_owned();
        self.write(move |group| cut_off(group, &user_id, before_ms)).await
    }

    pub async fn cut_offs(&self, user_ids: &[String]) -> Result<Vec<(String, u64)>, StoreError> {
        let user_ids = user_ids.to_vec();
        let look = move |txn: &ReadTransaction| {
            let mut found = Vec::new();
            for user_id in user_ids {
                if let Some(before_ms) = cut_off_of(txn, &user_id)? {
                    found.push((user_id, before_ms));
                }
            }
            Ok(found)
        };
        self.read(look).await
    }

    pub async fn standing(&self, user_id: &str, jti: Option<&str>) -> Result<Standing, StoreError> {
        let (now, user_id, jti) = (self.inner.shared.clock.now_ms(), user_id.to_owned(), jti.map(str::to_owned));
        let look = move |shared: &Shared| {
            let (blacklisted, cut_off_ms) = shared.read(|txn| revocations(txn, now, &user_id, jti.as_deref()))?;
            Ok(Standing { blacklisted, cut_off_ms, permissions: shared.read(|txn| permissions(txn, &user_id)) })
        };
        self.view().look(look).await
    }

    pub async fn revocations(&self, user_id: &str, jti: Option<&str>) -> Result<(bool, Option<u64>), StoreError> {
        let (now, user_id, jti) = (self.inner.shared.clock.now_ms(), user_id.to_owned(), jti.map(str::to_owned));
        self.read(move |txn| revocations(txn, now, &user_id, jti.as_deref())).await
    }

    pub async fn permissions(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let user_id = user_id.to_owned();
        self.read(move |txn| permissions(txn, &user_id)).await
    }

    pub async fn permissions_among(&self, user_ids: &[String]) -> Result<Vec<Vec<String>>, StoreError> {
        let user_ids = user_ids.to_vec();
        self.read(move |txn| user_ids.iter().map(|user_id| permissions(txn, user_id)).collect()).await
    }

    pub async fn permissions_at(&self, user_id: &str, resource: Option<&str>) -> Result<Vec<String>, StoreError> {
        check_names(user_id, resource, &[])?;
        let (user_id, resource) = (user_id.to_owned(), resource.map(str::to_owned));
        self.read(move |txn| permissions_at(txn, &user_id, resource.as_deref())).await
    }

    pub async fn grant(
        &self,
        user_id: &str,
        resource: Option<&str>,
        names: &[String],
        grant: Grant,
    ) -> Result<Vec<String>, StoreError> {
        check_names(user_id, resource, names)?;
        let (user_id, resource, names) = (user_id.to_owned(), resource.map(str::to_owned), names.to_vec());
        self.write(move |group| give(group, &user_id, resource.as_deref(), &names, grant)).await
    }

    /// Replaces a user's permissions; in Redis that is the application's own doing.
    pub async fn permissions_put(&self, user_id: &str, names: &[String]) -> Result<(), StoreError> {
        let (user_id, names) = (user_id.to_owned(), names.to_vec());
        self.write(move |group| put(group, &user_id, None, &names)).await
    }

    pub fn watch(&self) -> Watch {
        Watch::new(&self.inner.shared.bells.changes)
    }
}

fn blacklist(group: &mut Group<'_, '_>, jti: &str, ttl: Duration) -> Done<()> {
    check_name("a token id", jti)?;
    let expiry = ends_ms(group.clock.now_ms(), ttl);
    group.changes.writes += 1;
    group.tables.blacklist.insert(jti.as_bytes(), expiry)?;
    group.tables.expiries.insert(&expiry_key(expiry, Kind::Blacklist, jti.as_bytes())[..], ())?;
    group.told.push(Change::Token(jti.to_owned()));
    Ok(())
}

fn blacklisted(txn: &ReadTransaction, now: u64, jti: &str) -> Done<bool> {
    let expiry = txn.open_table(BLACKLIST)?.get(jti.as_bytes())?.map(|v| v.value());
    Ok(expiry.is_some_and(|e| e > now))
}

fn revocations(txn: &ReadTransaction, now: u64, user_id: &str, jti: Option<&str>) -> Done<(bool, Option<u64>)> {
    let blacklisted = jti.map_or(Ok(false), |jti| blacklisted(txn, now, jti))?;
    Ok((blacklisted, cut_off_of(txn, user_id)?))
}

fn cut_off(group: &mut Group<'_, '_>, user_id: &str, before_ms: u64) -> Done<u64> {
    let there = group.tables.cut_offs.get(user_id.as_bytes())?.map(|v| v.value());
    if let Some(there) = there.filter(|there| *there >= before_ms) {
        return Ok(there);
    }
    if there.is_none() && group.tables.cut_offs.len()? >= CUT_OFFS_MAX as u64 {
        let mut earliest: Option<(u64, Vec<u8>)> = None;
        for row in group.tables.cut_offs.iter()? {
            let (user, before) = row?;
            if earliest.as_ref().is_none_or(|(known, _)| before.value() < *known) {
                earliest = Some((before.value(), user.value().to_vec()));
            }
        }
        if let Some((earliest_ms, user)) = earliest {
            if earliest_ms >= before_ms {
                let text = format!("{CUT_OFFS_MAX} users have had later tokens cut off, more are not kept");
                return Err(Fault::Refused(StoreError::Refused(text)));
            }
            group.changes.writes += 1;
            group.tables.cut_offs.remove(&user[..])?;
        }
    }
    group.changes.writes += 1;
    group.tables.cut_offs.insert(user_id.as_bytes(), before_ms)?;
    group.told.push(Change::CutOffs);
    Ok(before_ms)
}

fn cut_off_of(txn: &ReadTransaction, user_id: &str) -> Done<Option<u64>> {
    Ok(txn.open_table(CUT_OFFS)?.get(user_id.as_bytes())?.map(|v| v.value()))
}

fn row(user_id: &str, resource: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(4 + resource.len() + user_id.len());
    put_block(&mut row, resource.as_bytes());
    row.extend_from_slice(user_id.as_bytes());
    row
}

fn names(json: &[u8]) -> Done<Vec<String>> {
    let mut names: Vec<String> = serde_json::from_slice(json).map_err(|_| Fault::Damaged("permissions"))?;
    names.sort();
    names.dedup();
    Ok(names)
}

/// What counts here.
fn permissions(txn: &ReadTransaction, user_id: &str) -> Done<Vec<String>> {
    let mut all = permissions_at(txn, user_id, None)?;
    all.extend(permissions_at(txn, user_id, Some(RESOURCE))?);
    all.sort();
    all.dedup();
    Ok(all)
}

fn permissions_at(txn: &ReadTransaction, user_id: &str, resource: Option<&str>) -> Done<Vec<String>> {
    let found = match resource {
        None => txn.open_table(PERMISSIONS)?.get(user_id.as_bytes())?,
        Some(resource) => txn.open_table(RESOURCES)?.get(&row(user_id, resource)[..])?,
    };
    found.map_or_else(|| Ok(Vec::new()), |found| names(found.value()))
}

fn give(group: &mut Group<'_, '_>, user_id: &str, resource: Option<&str>, wanted: &[String], grant: Grant) -> Done<Vec<String>> {
    let there = match resource {
        None => group.tables.permissions.get(user_id.as_bytes())?.map(|found| names(found.value())),
        Some(resource) => group.tables.resources.get(&row(user_id, resource)[..])?.map(|found| names(found.value())),
    };
    let mut there = there.transpose()?.unwrap_or_default();
    let changed = changed(&there, wanted, grant).map_err(Fault::Refused)?;
    if !changed.is_empty() {
        match grant {
            Grant::Give => there.extend(changed.iter().cloned()),
            Grant::Take => there.retain(|name| !changed.contains(name)),
        }
        put(group, user_id, resource, &there)?;
    }
    Ok(changed)
}

/// Replaces what is there; an empty list takes all.
fn put(group: &mut Group<'_, '_>, user_id: &str, resource: Option<&str>, names: &[String]) -> Done<()> {
    check_name("a user id", user_id)?;
    let json = serde_json::to_vec(names).map_err(|e| Fault::Refused(StoreError::Broken(e.to_string())))?;
    // As many as may be given, each as long as it may be, and a little more for how JSON writes them.
    if json.len() > 128 * NAME_BYTES_MAX {
        return Err(Fault::broken(format!("the permissions of {user_id} take {} bytes", json.len())));
    }
    let (table, key) = match resource {
        None => (&mut group.tables.permissions, user_id.as_bytes().to_vec()),
        Some(resource) => (&mut group.tables.resources, row(user_id, resource)),
    };
    group.changes.writes += 1;
    if names.is_empty() {
        table.remove(&key[..])?;
    } else {
        table.insert(&key[..], &json[..])?;
    }
    if resource.is_none_or(|resource| resource == RESOURCE) {
        group.told.push(Change::Permissions(user_id.to_owned()));
    }
    Ok(())
}
