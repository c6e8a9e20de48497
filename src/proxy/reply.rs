//! A refusal on the wire, and what every response of the proxy port carries.

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr, Result};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::browser::Browsers;
use crate::firewall::denial::{Code, Denial};
use crate::gate::{Form, Refused};
use crate::json::write::number;
use crate::mcp::elicitation::{QUESTION, Sending};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-arbiter-request-id");
const WARNING: HeaderName = HeaderName::from_static("x-arbiter-warning");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// JSON-RPC code of a call that goes on after a person was on a page (2025-11-25).
const URL_ELICITATION_REQUIRED: i32 = -32042;
/// Text that a client shows to its person.
const FOR_A_PERSON: &str = "This call needs a person's approval. Open the page, sign in as an approver, \
                            decide, and let the call go on.";

/// Writes a refusal as the whole response.
pub(super) async fn write(
    session: &mut Session,
    refused: &Refused,
    challenge: Option<String>,
    browsers: &Browsers,
) -> Result<()> {
    let (mut header, body) = answer(refused, challenge)?;
    browsers.share(session.req_header(), &mut header)?;
    announce(&mut header, kept_secs(session))?;
    let without_body = session.req_header().method == http::Method::HEAD || body.is_empty();
    session.write_response_header(Box::new(header), without_body).await?;
    if !without_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// Writes a refusal as the whole response of a stream that no request came of.
pub(super) async fn on_stream(stream: &mut ServerSession, refused: &Refused) -> Result<()> {
    let (header, body) = answer(refused, None)?;
    stream.write_response_header(Box::new(header)).await?;
    stream.write_response_body(body, true).await?;
    stream.finish_body().await
}

/// The bytes of a refusal as the last answer on a connection of HTTP/1.1.
pub(super) fn last_answer(refused: &Refused, head_only: bool) -> Vec<u8> {
    let Ok((header, body)) = answer(refused, None) else { return Vec::new() };
    let reason = header.status.canonical_reason().unwrap_or_default();
    let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    let line = format!("HTTP/1.1 {} {reason}\r\nDate: {date}\r\n", header.status.as_u16());
    let mut bytes = line.into_bytes();
    for (name, value) in &header.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"Connection: close\r\n\r\n");
    if !head_only {
        bytes.extend_from_slice(&body);
    }
    bytes
}

/// The head and body of a refusal.
fn answer(refused: &Refused, challenge: Option<String>) -> Result<(ResponseHeader, Bytes)> {
    let (status, body) = render(refused);
    let denial = &refused.denial;
    let mut header = ResponseHeader::build(status, Some(8))?;
    decorate(&mut header, refused.request_id, &refused.warnings)?;
    header.insert_header(header::CACHE_CONTROL, "no-store")?;
    if refused.form == Form::Http {
        if let Some(secs) = denial.retry_after_secs {
            header.insert_header(header::RETRY_AFTER, secs)?;
        }
        if denial.code == Code::MethodNotAllowed {
            let allow = denial.details.get("allow").and_then(Value::as_str).unwrap_or("POST");
            header.insert_header(header::ALLOW, allow)?;
        }
        if let Some(challenge) = challenge {
            header.insert_header(header::WWW_AUTHENTICATE, challenge)?;
        }
    }
    if !body.is_empty() {
        header.insert_header(header::CONTENT_TYPE, "application/json")?;
    }
    header.insert_header(header::CONTENT_LENGTH, body.len())?;
    Ok((header, body))
}

/// Sets what every response carries.
pub(super) fn decorate(
    header: &mut ResponseHeader,
    request_id: Uuid,
    warnings: &[String],
) -> Result<()> {
    let mut buffer = Uuid::encode_buffer();
    let id: &str = request_id.as_hyphenated().encode_lower(&mut buffer);
    header.insert_header(REQUEST_ID, id)?;
    for warning in warnings {
        header.append_header(WARNING, warning.as_str())?;
    }
    Ok(())
}

/// Sets on a server's response what every response carries, and forgets how its names were spelt.
pub(super) fn decorate_passed(
    header: &mut ResponseHeader,
    request_id: &HeaderValue,
    warnings: &[String],
) -> Result<()> {
    let reason = header.get_reason_phrase();
    let reason = (reason != header.status.canonical_reason()).then(|| reason.map(str::to_owned));
    // As parts it has no second map, of how each name was spelt.
    let nothing = http::Response::new(()).into_parts().0;
    let mut parts: Parts = std::mem::replace(header, nothing.into()).into();
    let mut add = || -> Result<()> {
        parts.headers.insert(REQUEST_ID, request_id.clone());
        for warning in warnings {
            let value = HeaderValue::from_str(warning)
                .or_err(ErrorType::InvalidHTTPHeader, "a header of the gateway's")?;
            parts.headers.append(WARNING, value);
        }
        Ok(())
    };
    let added = add();
    *header = parts.into();
    if let Some(reason) = reason {
        header.set_reason_phrase(reason.as_deref())?;
    }
    added
}

/// Seconds for which a connection of HTTP/1.1 waits for another request after this answer; none if
/// the answer is its last.
pub(super) fn kept_secs(session: &mut Session) -> Option<u64> {
    let session = &mut session.downstream_session;
    let is_last = session.get_keepalive_reuses_remaining() == Some(0);
    session.get_keepalive().filter(|_| !is_last && session.is_body_done())
}

/// Announces for how long the connection is kept, so that the client gives it up first.
pub(super) fn announce(header: &mut ResponseHeader, kept_secs: Option<u64>) -> Result<()> {
    let Some(secs) = kept_secs else { return Ok(()) };
    let mut text = Vec::with_capacity("timeout=".len() + 20);
    text.extend_from_slice(b"timeout=");
    number(&mut text, secs);
    header.insert_header(KEEP_ALIVE, text)
}

fn data(refused: &Refused) -> Value {
    let Denial { code, message: _, retry_after_secs: _, cause: _, details } = &refused.denial;
    let mut data = Map::new();
    data.insert("code".to_owned(), code.name().into());
    data.insert("stage".to_owned(), code.row().stage.as_str().into());
    data.insert("request_id".to_owned(), refused.request_id.to_string().into());
    data.extend(details.clone());
    Value::Object(data)
}

/// The status and body of a refusal. The id is echoed as it was written.
fn render(refused: &Refused) -> (StatusCode, Bytes) {
    let row = refused.denial.code.row();
    let id = refused.id.as_deref().unwrap_or("null");
    let message = &refused.denial.message;
    let error = || {
        let error = json!({"code": row.rpc, "message": message, "data": data(refused)});
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
    };
    match refused.form {
        Form::Http => {
            let status = StatusCode::from_u16(row.status).unwrap_or(StatusCode::FORBIDDEN);
            (status, error().into())
        }
        Form::RpcError => (StatusCode::OK, error().into()),
        Form::ToolResult { modern } => {
            let mut result = json!({
                "content": [{"type": "text", "text": message}],
                "isError": true,
                "_meta": {"arbiter/refusal": data(refused)},
            });
            if modern && let Some(members) = result.as_object_mut() {
                members.insert("resultType".to_owned(), "complete".into());
            }
            (StatusCode::OK, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#).into())
        }
        Form::Accepted => (StatusCode::ACCEPTED, Bytes::new()),
        Form::ToPage(sending) => (StatusCode::OK, to_page(refused, id, sending).into()),
    }
}

/// The message that sends the client's person to the page of an approval.
fn to_page(refused: &Refused, id: &str, sending: Sending) -> String {
    let mut data = data(refused);
    let mut taken = |name| data.as_object_mut().and_then(|data| data.remove(name));
    let (url, state) = (taken("url"), taken("request_state"));
    match sending {
        Sending::ByError => {
            let elicitation = json!({
                "mode": "url", "elicitationId": data.get("approval_id"), "url": url,
                "message": FOR_A_PERSON,
            });
            if let Some(members) = data.as_object_mut() {
                members.insert("elicitations".to_owned(), json!([elicitation]));
            }
            let message = &refused.denial.message;
            let error = json!({"code": URL_ELICITATION_REQUIRED, "message": message, "data": data});
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
        }
        Sending::ByResult => {
            let params = json!({"mode": "url", "url": url, "message": FOR_A_PERSON});
            let question = json!({"method": "elicitation/create", "params": params});
            let result = json!({
                "resultType": "input_required",
                "inputRequests": {QUESTION: question},
                "requestState": state,
                "_meta": {"arbiter/refusal": data},
            });
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
        }
    }
}

/// The JSON-RPC message that tells of a refusal to a request whose id is known.
pub(super) fn message(refused: &Refused) -> Option<Bytes> {
    refused.id.as_ref()?;
    Some(render(refused).1)
}

/// Ends a response that has begun with this as its last bytes.
pub(super) async fn end_with(session: &mut Session, last: Bytes) -> Result<()> {
    session.downstream_session.write_response_body(last, true).await?;
    session.downstream_session.finish_body().await
}

/// Writes a whole JSON or text answer of the gateway's own.
pub(super) async fn plain(
    session: &mut Session,
    status: StatusCode,
    content_type: &'static str,
    body: String,
    browsers: &Browsers,
) -> Result<()> {
    let mut header = ResponseHeader::build(status, Some(4))?;
    header.insert_header(header::CONTENT_TYPE, content_type)?;
    header.insert_header(header::CONTENT_LENGTH, body.len())?;
    decorate(&mut header, Uuid::new_v4(), &[])?;
    browsers.share(session.req_header(), &mut header)?;
    announce(&mut header, kept_secs(session))?;
    let head_only = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(header), head_only).await?;
    if head_only {
        return Ok(());
    }
    session
        .write_response_body(Some(Bytes::from(body)), true)
        .await
        .or_err(ErrorType::WriteError, "while answering locally")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(form: Form) -> Refused {
        Refused {
            denial: Denial::new(Code::RateLimited, "wait").retry_after(3).with("limit", 5),
            request_id: Uuid::nil(),
            id: Some("\"a\\u0062\"".into()),
            form,
            warnings: Vec::new(),
        }
    }

    fn body(form: Form) -> (u16, String) {
        let (status, body) = render(&refused(form));
        (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn a_refusal_has_three_shapes_and_echoes_the_id_as_written() {
        let data = r#"{"code":"RateLimited","stage":"session","request_id":"00000000-0000-0000-0000-000000000000","limit":5}"#;
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let (status, text) = body(Form::Http);
        assert_eq!(status, 429);
        assert!(text.contains(r#""id":"a\u0062","error""#), "{text}");
        assert_eq!(parse(&text)["error"]["data"], parse(data));
        let (status, text) = body(Form::ToolResult { modern: true });
        assert_eq!(status, 200);
        assert_eq!(parse(&text)["result"]["isError"], true);
        assert_eq!(parse(&text)["result"]["resultType"], "complete");
        assert_eq!(parse(&text)["result"]["_meta"]["arbiter/refusal"], parse(data));
        assert_eq!(body(Form::Accepted), (202, String::new()));
        assert_eq!(body(Form::RpcError).0, 200);
    }

    #[test]
    fn a_person_is_sent_to_a_page_by_an_error_or_a_result() {
        let mut refused = refused(Form::ToPage(Sending::ByError));
        refused.denial = Denial::new(Code::EscalationRequired, "ask")
            .with("approval_id", "a-1")
            .with("url", "https://arbiter.example/a-1")
            .with("request_state", "sealed");
        let parse = |refused: &Refused| {
            let (status, text) = render(refused);
            assert_eq!(status, StatusCode::OK);
            serde_json::from_slice::<Value>(&text).unwrap()
        };
        let error = &parse(&refused)["error"];
        assert_eq!(error["code"], -32042);
        let data = &error["data"];
        assert_eq!(
            (&data["code"], &data["approval_id"]),
            (&json!("EscalationRequired"), &json!("a-1"))
        );
        let elicitation = &data["elicitations"][0];
        assert_eq!(elicitation["url"], "https://arbiter.example/a-1");
        assert_eq!(
            (&elicitation["mode"], &elicitation["elicitationId"]),
            (&json!("url"), &json!("a-1"))
        );
        refused.form = Form::ToPage(Sending::ByResult);
        let result = &parse(&refused)["result"];
        assert_eq!(
            (&result["resultType"], &result["requestState"]),
            (&json!("input_required"), &json!("sealed"))
        );
        let question = &result["inputRequests"]["arbiter/approval"];
        assert_eq!(question["method"], "elicitation/create");
        assert_eq!(question["params"]["url"], "https://arbiter.example/a-1");
        assert_eq!(result["_meta"]["arbiter/refusal"]["code"], "EscalationRequired");
        assert_eq!(result["_meta"]["arbiter/refusal"]["request_state"], Value::Null);
    }
}
