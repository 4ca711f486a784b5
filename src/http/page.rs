//! The page and its assets, compiled in. Each has an ETag and is asked for again each time, so a new version shows at once.

use std::sync::LazyLock;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};

/// One file of the page.
pub(super) struct Asset {
    pub(super) path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

pub(super) static ASSETS: [Asset; 5] = [
    Asset { path: "/", content_type: "text/html; charset=utf-8", bytes: include_bytes!("page/index.html") },
    Asset { path: "/app.js", content_type: "text/javascript; charset=utf-8", bytes: include_bytes!("page/app.js") },
    Asset { path: "/board.js", content_type: "text/javascript; charset=utf-8", bytes: include_bytes!("page/board.js") },
    Asset { path: "/signin.js", content_type: "text/javascript; charset=utf-8", bytes: include_bytes!("page/signin.js") },
    Asset { path: "/style.css", content_type: "text/css; charset=utf-8", bytes: include_bytes!("page/style.css") },
];

/// The documents of the API and of the feed.
pub(super) static DOCUMENTS: [Asset; 2] = [
    Asset { path: "/openapi.json", content_type: "application/json", bytes: include_bytes!("openapi.json") },
    Asset { path: "/asyncapi.json", content_type: "application/json", bytes: include_bytes!("asyncapi.json") },
];

static ETAGS: LazyLock<Vec<(&'static str, HeaderValue)>> =
    LazyLock::new(|| ASSETS.iter().chain(&DOCUMENTS).filter_map(|asset| Some((asset.path, etag(asset.bytes)?))).collect());

fn etag(bytes: &[u8]) -> Option<HeaderValue> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{hex}\"")).ok()
}

/// The file, or 304 where the client has it.
pub(super) fn answer(asset: &'static Asset, request: &HeaderMap) -> Response {
    let etag = ETAGS.iter().find(|(path, _)| *path == asset.path).map(|(_, etag)| etag.clone());
    let has = etag.as_ref().is_some_and(|etag| {
        request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(','))
            .any(|known| {
                let known = known.trim();
                known == "*" || Some(known.trim_start_matches("W/")) == etag.to_str().ok()
            })
    });
    let mut response = Response::new(if has { Body::empty() } else { Body::from(asset.bytes) });
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Some(etag) = etag {
        headers.insert(header::ETAG, etag);
    }
    if has {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    }
    response
}
