//! Files of the console's own: style, script, icon.

use axum::http::Method as Verb;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::layout;
use crate::admin::{ApiError, Code};

const FILES: [(&str, &str, &str); 3] = [
    ("console.css", "text/css; charset=utf-8", include_str!("files/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("files/console.js")),
    ("icon.svg", "image/svg+xml", include_str!("files/icon.svg")),
];

/// Answers with a file of the console's own.
pub(super) fn file(name: &str, method: &Verb) -> Response {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    match found {
        Some((_, kind, text)) if method == Verb::GET || method == Verb::HEAD => {
            ([(CONTENT_TYPE, *kind)], *text).into_response()
        }
        Some(_) => {
            layout::bare_error(&ApiError::new(Code::MethodNotAllowed, "files are only read"))
        }
        None => layout::bare_error(&ApiError::not_found("file")),
    }
}
