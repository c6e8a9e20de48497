//! A bare pass-through on Pingora: what forwarding alone costs, for the side-by-side run.
//!
//! `bare_proxy <listen port> <upstream port>`, both on 127.0.0.1. It checks nothing. Crate, profile,
//! allocator and Pingora's settings are those of Arbiter, so that only Arbiter's work differs.

#![expect(clippy::panic, reason = "a wrong call of a measuring tool ends it")]

use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use pingora::Result;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct PassThrough {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

fn main() {
    let mut ports = std::env::args().skip(1).map_while(|port| port.parse::<u16>().ok());
    let (Some(listen), Some(upstream)) = (ports.next(), ports.next()) else {
        panic!("usage: bare_proxy <listen port> <upstream port>");
    };
    let conf =
        ServerConf { threads: 1, upstream_keepalive_pool_size: 1_024, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, upstream));
    let mut service = http_proxy_service(&server.configuration, PassThrough { upstream });
    service.add_tcp(&SocketAddr::from((Ipv4Addr::LOCALHOST, listen)).to_string());
    server.add_service(service);
    server.run_forever();
}
