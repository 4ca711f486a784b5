//! Whom a token speaks for.

use std::sync::Arc;

use crate::wire::Sight;

/// Sees the feed and the API.
pub const AUDIT_VIEW: &str = "audit.view";
/// Sees and acts.
pub const ADMIN_ACCESS: &str = "admin.access";
/// Writes audit events.
pub const AUDIT_WRITE: &str = "audit.write";

/// Whether one of these is a permission to see.
pub fn may_see(permissions: &[String]) -> bool {
    permissions.iter().any(|name| name == ADMIN_ACCESS || name == AUDIT_VIEW)
}

/// A verified token's bearer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Text, whatever it was in the token; 1 to 256 bytes.
    pub user_id: String,
    pub username: Option<String>,
    /// `role`, then `roles`, as the token writes them.
    pub roles: Vec<String>,
    /// The union of the token's, its roles' and the store's; sorted, each once.
    pub permissions: Vec<String>,
    /// The part of them that the token and its roles bring, and the part that the store grants.
    pub claimed: Vec<String>,
    pub granted: Vec<String>,
    /// `exp`, Unix ms: a live connection ends here.
    pub expires_at_ms: u64,
    /// `iat`, Unix ms.
    pub issued_at_ms: Option<u64>,
    /// `jti`, else `token_id`.
    pub jti: Option<String>,
    /// The `filter` claim: what of alerts and events its bearer sees at all. `None`: everything.
    pub sight: Option<Arc<Sight>>,
}

impl Principal {
    pub fn has(&self, permission: &str) -> bool {
        self.permissions.iter().any(|p| p == permission)
    }

    /// The feed, the API, the page.
    pub fn may_see(&self) -> bool {
        may_see(&self.permissions)
    }

    /// Ending connections, later acknowledging and silencing.
    pub fn may_act(&self) -> bool {
        self.has(ADMIN_ACCESS)
    }

    /// `POST /api/v1/events`.
    pub fn may_write(&self) -> bool {
        self.has(AUDIT_WRITE)
    }

    /// What the store grants, beside the token.
    pub(crate) fn is_granted(&mut self, granted: Vec<String>) {
        self.grant(granted.clone());
        self.granted = granted;
    }

    pub(crate) fn grant(&mut self, permissions: Vec<String>) {
        self.permissions.extend(permissions);
        self.permissions.sort_unstable();
        self.permissions.dedup();
    }
}
