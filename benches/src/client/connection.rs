//! One connection of a node: `/ts2021`, Noise, HTTP/2.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use h2::{RecvStream, client::SendRequest};
use http::Request;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    net::TcpStream,
    task::JoinSet,
};

use super::{
    CAPVER, Identity, MapStream,
    handshake::{Initiator, RESPONSE_BYTES},
    record,
};

/// Bytes buffered between HTTP/2 and the record layer, each way: a few records.
const PIPE_BYTES: usize = 16 * 1024;
/// An answer to an HTTP/1.1 request is small; more than this is not one.
const HTTP1_BYTES_MAX: usize = 64 * 1024;
/// An answer to register or a lite update.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Asks `/key` for the server's Noise key.
///
/// # Errors
/// When the server does not answer 200 with a key.
pub async fn fetch_server_key(server: SocketAddr) -> Result<[u8; 32]> {
    let mut wire = TcpStream::connect(server).await?;
    let ask =
        format!("GET /key?v={CAPVER} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    wire.write_all(ask.as_bytes()).await?;
    let mut answer = Vec::new();
    wire.take(HTTP1_BYTES_MAX as u64)
        .read_to_end(&mut answer)
        .await?;
    let answer = String::from_utf8(answer).context("/key answered binary")?;
    ensure!(
        answer.starts_with("HTTP/1.1 200 "),
        "/key answered {:?}",
        answer.lines().next()
    );
    let (_, key) = answer
        .split_once("\"publicKey\":\"mkey:")
        .with_context(|| format!("no publicKey in {answer:?}"))?;
    let key = HEXLOWER.decode(key.get(..64).context("short key")?.as_bytes())?;
    key.try_into().ok().context("a key is 32 bytes")
}

/// How a node introduces itself.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// The pre-auth key; empty for an interactive login.
    pub auth_key: String,
    /// The host's name, from which the node's name is made.
    pub hostname: String,
    /// The login page that was shown, when this request waits for its approval.
    pub followup: String,
    /// Asks to be deleted when gone.
    pub ephemeral: bool,
    /// Subnet routes that it offers (`Hostinfo.RoutableIPs`).
    pub routes: Vec<String>,
}

/// What the server said to a registration.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The node may fetch a netmap.
    pub authorized: bool,
    /// The login page to show, or empty.
    pub auth_url: String,
    /// Why it was refused, or empty.
    pub error: String,
}

/// A node's HTTP/2 connection inside Noise. Closed when dropped.
pub struct Connection {
    requests: SendRequest<Bytes>,
    identity: Identity,
    // Dropping them cuts the connection.
    _tasks: Arc<JoinSet<()>>,
}

impl Connection {
    /// Connects to one replica, or to what stands in front of them.
    ///
    /// # Errors
    /// When the upgrade or the handshake is refused.
    pub async fn open(
        server: SocketAddr,
        server_key: &[u8; 32],
        identity: &Identity,
        capver: u16,
    ) -> Result<Self> {
        let initiator = Initiator::new(identity.machine_private(), server_key, capver)?;
        let mut wire = TcpStream::connect(server).await?;
        wire.set_nodelay(true)?;
        upgrade(&mut wire, server, &initiator.initiation).await?;
        let mut response = [0u8; RESPONSE_BYTES];
        wire.read_exact(&mut response)
            .await
            .context("handshake response")?;
        let keys = Arc::new(initiator.finish(&response)?);

        let (plain, inner) = duplex(PIPE_BYTES);
        let (inner_read, inner_write) = tokio::io::split(inner);
        let (wire_read, wire_write) = wire.into_split();
        let mut tasks = JoinSet::new();
        let outgoing = Arc::clone(&keys);
        // An end of either direction shows as the end of the HTTP/2 connection.
        tasks.spawn(async move {
            let _ = record::encrypt(&outgoing, inner_read, wire_write).await;
        });
        tasks.spawn(async move {
            let _ = record::decrypt(&keys, wire_read, inner_write).await;
        });
        let (requests, connection) = h2::client::handshake(plain).await?;
        tasks.spawn(async move {
            let _ = connection.await;
        });
        Ok(Self {
            requests,
            identity: identity.clone(),
            _tasks: Arc::new(tasks),
        })
    }

    /// Registers the node: `POST /machine/register`.
    ///
    /// # Errors
    /// When no answer comes back, or not 200. A refusal is not an error: see [`Registered::error`].
    pub async fn register(&mut self, registration: &Registration) -> Result<Registered> {
        let mut body = json!({
            "Version": CAPVER,
            "NodeKey": self.identity.node_key(),
            "OldNodeKey": format!("nodekey:{}", "0".repeat(64)),
            "Followup": registration.followup,
            "Ephemeral": registration.ephemeral,
            "Hostinfo": offering(&registration.hostname, &registration.routes),
        });
        if !registration.auth_key.is_empty()
            && let Some(fields) = body.as_object_mut()
        {
            fields.insert(
                "Auth".to_owned(),
                json!({ "AuthKey": registration.auth_key }),
            );
        }
        let answer = self.post("/machine/register", &body).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Ok(Registered {
            authorized: answer["MachineAuthorized"].as_bool().unwrap_or_default(),
            auth_url: text("AuthURL"),
            error: text("Error"),
        })
    }

    /// Reports endpoints and the home relay: `POST /machine/map` without a stream.
    ///
    /// # Errors
    /// When the server does not answer 200.
    pub async fn update(
        &mut self,
        hostname: &str,
        home_derp: u32,
        endpoints: &[&str],
    ) -> Result<()> {
        let mut hostinfo = hostinfo(hostname);
        hostinfo["NetInfo"] = json!({ "PreferredDERP": home_derp });
        let body = json!({
            "Version": CAPVER,
            "NodeKey": self.identity.node_key(),
            "DiscoKey": self.identity.disco_key(),
            "OmitPeers": true,
            "Hostinfo": hostinfo,
            "Endpoints": endpoints,
        });
        self.post("/machine/map", &body).await.map(drop)
    }

    /// Opens the map stream: `POST /machine/map` with `Stream`.
    ///
    /// # Errors
    /// When the server does not answer 200.
    pub async fn stream(&mut self, hostname: &str) -> Result<MapStream> {
        self.stream_offering(hostname, &[]).await
    }

    /// As [`Connection::stream`], by a node that offers subnet routes.
    ///
    /// # Errors
    /// When the server does not answer 200.
    pub async fn stream_offering(
        &mut self,
        hostname: &str,
        routes: &[String],
    ) -> Result<MapStream> {
        let body = json!({
            "Version": CAPVER,
            "NodeKey": self.identity.node_key(),
            "DiscoKey": self.identity.disco_key(),
            "Stream": true,
            "KeepAlive": true,
            "Compress": "zstd",
            "Hostinfo": offering(hostname, routes),
        });
        let answer = self.request("/machine/map", &body).await?;
        Ok(MapStream::new(answer, Arc::clone(&self._tasks)))
    }

    async fn post(&mut self, path: &str, body: &Value) -> Result<Vec<u8>> {
        let mut answer = self.request(path, body).await?;
        read_all(&mut answer).await
    }

    async fn request(&mut self, path: &str, body: &Value) -> Result<RecvStream> {
        let request = Request::post(format!("https://unused{path}"))
            .header("ts-lb", self.identity.node_key())
            .body(())?;
        self.requests = self.requests.clone().ready().await?;
        let (answer, mut send) = self.requests.send_request(request, false)?;
        send.send_data(Bytes::from(serde_json::to_vec(body)?), true)?;
        let (head, mut body) = answer.await?.into_parts();
        if head.status != http::StatusCode::OK {
            let text = read_all(&mut body).await.unwrap_or_default();
            bail!(
                "{path} answered {}: {}",
                head.status,
                String::from_utf8_lossy(&text).trim()
            );
        }
        Ok(body)
    }
}

async fn upgrade(wire: &mut TcpStream, server: SocketAddr, initiation: &[u8]) -> Result<()> {
    let ask = format!(
        "POST /ts2021 HTTP/1.1\r\nHost: {server}\r\nConnection: upgrade\r\n\
         Upgrade: tailscale-control-protocol\r\nX-Tailscale-Handshake: {}\r\n\
         Content-Length: 0\r\n\r\n",
        BASE64.encode(initiation),
    );
    wire.write_all(ask.as_bytes()).await?;
    // Byte by byte up to the blank line: what follows belongs to Noise already.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(
            head.len() < HTTP1_BYTES_MAX,
            "endless answer to the upgrade"
        );
        head.push(wire.read_u8().await.context("answer to the upgrade")?);
    }
    let status = String::from_utf8_lossy(&head)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        status.starts_with("HTTP/1.1 101"),
        "/ts2021 answered {status:?}"
    );
    Ok(())
}

fn hostinfo(hostname: &str) -> Value {
    json!({ "OS": "linux", "Hostname": hostname, "GoArch": "amd64", "IPNVersion": "1.103.0" })
}

fn offering(hostname: &str, routes: &[String]) -> Value {
    let mut hostinfo = hostinfo(hostname);
    if !routes.is_empty() {
        hostinfo["RoutableIPs"] = json!(routes);
    }
    hostinfo
}

async fn read_all(body: &mut RecvStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        all.extend_from_slice(&piece);
        ensure!(
            all.len() <= ANSWER_BYTES_MAX,
            "answer of more than {ANSWER_BYTES_MAX} bytes"
        );
    }
    Ok(all)
}
