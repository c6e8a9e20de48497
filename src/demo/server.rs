//! The demo's MCP server: a real one, on the official Rust SDK, that holds nothing of value.

use std::net::SocketAddr;
use std::sync::Arc;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::schemars::{self, JsonSchema};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ServerHandler, tool, tool_handler, tool_router};
use serde::Deserialize;

use super::echoes::echoes;

#[derive(Deserialize, JsonSchema)]
struct Path {
    /// File to act on.
    path: String,
}

#[derive(Deserialize, JsonSchema)]
struct Transfer {
    /// Amount in euros.
    amount: f64,
    /// Account that receives it.
    to: String,
}

#[derive(Deserialize, JsonSchema)]
struct Login {
    /// The service's key; agents write `${CRED:name}`.
    token: String,
}

/// Six harmless tools.
#[derive(Clone)]
struct Tools;

#[tool_router]
impl Tools {
    #[tool(description = "Reads a file")]
    async fn read_file(&self, Parameters(Path { path }): Parameters<Path>) -> String {
        format!("contents of {path}")
    }

    #[tool(description = "Lists the files")]
    async fn list_files(&self) -> String {
        "a.txt, b.txt".to_owned()
    }

    #[tool(description = "Writes a file")]
    async fn write_file(&self, Parameters(Path { path }): Parameters<Path>) -> String {
        format!("wrote {path}")
    }

    #[tool(description = "Wipes the disk")]
    async fn wipe_disk(&self) -> String {
        "wiped".to_owned()
    }

    #[tool(description = "Transfers money")]
    async fn get_transfer_quote(
        &self,
        Parameters(Transfer { amount, to }): Parameters<Transfer>,
    ) -> String {
        format!("sending {amount} euros to {to} costs 1 euro")
    }

    /// Echoes what it must keep to itself, in the twelve ways in which careless servers have done
    /// it, each in a content item of its own.
    #[tool(description = "Gets a report from a service that needs a key")]
    async fn get_report(&self, Parameters(Login { token }): Parameters<Login>) -> CallToolResult {
        let report = std::iter::once("report: all is well".to_owned());
        let debug = echoes(&token).into_iter().map(|(way, echo)| format!("debug {way}: {echo}"));
        CallToolResult::success(report.chain(debug).map(ContentBlock::text).collect())
    }
}

#[tool_handler]
impl ServerHandler for Tools {}

/// Serves the tools on a free port until the runtime ends.
pub(super) async fn start() -> std::io::Result<SocketAddr> {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true);
    let service =
        StreamableHttpService::new(|| Ok(Tools), Arc::new(LocalSessionManager::default()), config);
    let router = axum::Router::new().nest_service("/mcp", service);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}
