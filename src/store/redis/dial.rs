//! Getting through to Redis: one server, a cluster, or the primary that sentinels name.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    Pipeline, RedisConnectionInfo, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
};

use super::fault::RedisFault;
use crate::config::{self, RedisLogin, RedisShape};

/// Nothing is asked twice, not even by the library: keys that have moved within a cluster are found by
/// the next connection.
const RETRIES: u32 = 0;

/// A connection that many may use at once.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// Upper limit of the library's own waits for the nodes of a cluster: longer than any caller's.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(30);

/// Connects and logs in.
pub(super) async fn dial(config: &config::Redis) -> Result<Connection, RedisFault> {
    let servers = &config.servers;
    let certificates = certificates(config).await?;
    Ok(match &servers.shape {
        RedisShape::One => {
            let address = address(config, &servers.nodes).next().ok_or(RedisFault::Unexpected)?;
            let info = address.into_connection_info()?.set_redis_settings(settings(config));
            let client = match certificates {
                Some(certificates) => Client::build_with_tls(info, certificates)?,
                None => Client::open(info)?,
            };
            one(&client, config).await?
        }
        RedisShape::Cluster => {
            let nodes: RedisResult<Vec<ConnectionInfo>> =
                address(config, &servers.nodes).map(ConnectionAddr::into_connection_info).collect();
            let mut builder = ClusterClient::builder(nodes?)
                .retries(RETRIES)
                .connection_timeout(config.timeout)
                .response_timeout(CLUSTER_PATIENCE)
                .overall_response_timeout(Some(CLUSTER_PATIENCE));
            let RedisLogin { user, password } = &servers.login;
            if let Some(user) = user {
                builder = builder.username(user);
            }
            if let Some(password) = password {
                builder = builder.password(password.expose());
            }
            if servers.tls {
                builder = builder.tls(TlsMode::Secure);
            }
            if let Some(certificates) = certificates {
                builder = builder.certs(certificates);
            }
            Connection::Cluster(builder.build()?.get_async_connection().await?)
        }
        RedisShape::Sentinel { service, login } => {
            let sentinels = address(config, &servers.nodes);
            let mut builder =
                SentinelClientBuilder::new(sentinels, service, SentinelServerType::Master)?
                    .set_client_to_redis_db(servers.database);
            if let Some(user) = &servers.login.user {
                builder = builder.set_client_to_redis_username(user);
            }
            if let Some(password) = &servers.login.password {
                builder = builder.set_client_to_redis_password(password.expose());
            }
            if let Some(user) = &login.user {
                builder = builder.set_client_to_sentinel_username(user);
            }
            if let Some(password) = &login.password {
                builder = builder.set_client_to_sentinel_password(password.expose());
            }
            if servers.tls {
                builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            }
            if let Some(certificates) = certificates {
                builder = builder
                    .set_client_to_redis_certificates(certificates.clone())
                    .set_client_to_sentinel_certificates(certificates);
            }
            let client = builder.build()?.async_get_client().await?;
            one(&client, config).await?
        }
    })
}

async fn one(client: &Client, config: &config::Redis) -> RedisResult<Connection> {
    // The caller bounds the time that an answer may take.
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.timeout))
        .set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
    Ok(Connection::One(connection))
}

fn address(
    config: &config::Redis,
    nodes: &[(String, u16)],
) -> impl Iterator<Item = ConnectionAddr> {
    let tls = config.servers.tls;
    nodes.iter().map(move |(host, port)| {
        let (host, port) = (host.clone(), *port);
        if tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    })
}

fn settings(config: &config::Redis) -> RedisConnectionInfo {
    let RedisLogin { user, password } = &config.servers.login;
    let mut settings = RedisConnectionInfo::default().set_db(config.servers.database);
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    if let Some(password) = password {
        settings = settings.set_password(password.expose());
    }
    settings
}

/// Read again for every connection, so that a renewed file counts.
async fn certificates(config: &config::Redis) -> Result<Option<TlsCertificates>, RedisFault> {
    let Some(path) = config.ca_file.as_ref().filter(|_| config.servers.tls) else {
        return Ok(None);
    };
    let failed = |why: String| RedisFault::CaFile { path: path.clone(), why };
    let pem = tokio::fs::read(path).await.map_err(|error| failed(error.to_string()))?;
    // The library takes a file without any for one that trusts nobody.
    if !pem.windows(27).any(|part| part == b"-----BEGIN CERTIFICATE-----") {
        return Err(failed("it holds no PEM certificate".to_owned()));
    }
    Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(pem) }))
}
