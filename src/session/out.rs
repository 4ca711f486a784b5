//! A frame on its way to one client.

use std::sync::Arc;

use crate::{
    hub::{AlertFrame, Frame},
    wire::{self, Pos},
};

/// One frame to be sent.
pub(super) struct Out {
    /// Its `type`, the `event:` of SSE.
    pub(super) name: &'static str,
    pub(super) frame: Frame,
    /// Of the alert log, or a `position`: the `id:` of SSE.
    pub(super) pos: Option<At>,
    /// Arrival of what caused a live alert, Unix ms.
    pub(super) received_at_ms: Option<u64>,
}

/// Where a frame stands in the alert log.
pub(super) enum At {
    Alert(Arc<AlertFrame>),
    Position(Pos),
}

impl At {
    pub(super) fn pos(&self) -> &Pos {
        match self {
            At::Alert(alert) => &alert.pos,
            At::Position(pos) => pos,
        }
    }
}

impl Out {
    pub(super) fn new(name: &'static str, frame: String) -> Out {
        Out { name, frame: frame.into(), pos: None, received_at_ms: None }
    }

    pub(super) fn position(pos: &Pos) -> Out {
        Out { pos: Some(At::Position(pos.clone())), ..Out::new("position", wire::position(&pos.to_string())) }
    }
}

/// Puts a frame of the alert log among what is to be sent; gives its bytes.
pub(super) fn send(alert: &Arc<AlertFrame>, replayed: bool, out: &mut Vec<Out>) -> usize {
    let frame = if replayed { alert.replayed().clone() } else { alert.frame.clone() };
    let len = frame.wire_len();
    let name = match alert.view.frame_type.as_str() {
        "alert_acknowledged" => "alert_acknowledged",
        "alert_unacknowledged" => "alert_unacknowledged",
        _ => "security_alert",
    };
    let received_at_ms = alert.view.received_at_ms.filter(|_| !replayed);
    out.push(Out { name, frame, pos: Some(At::Alert(alert.clone())), received_at_ms });
    len
}
