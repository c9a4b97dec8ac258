//! What each path answers (`derp/derpserver/handler.go`, `cmd/derper`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use aws_lc_rs::digest;
use data_encoding::BASE64;

use super::head::RequestHead;
use super::response::Response;
use super::{Site, challenge};
use crate::derp::bootstrap::BootstrapDns;

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// Answer it.
    Answer(Response),
    /// Answer it, and then speak DERP.
    Upgrade(Response),
    /// Speak DERP at once: the client has gone on already.
    FastStart,
    /// Answer it, and then speak DERP inside binary WebSocket messages.
    WebSocket(Response),
}

/// Decides about a request.
pub(super) fn route(head: &RequestHead, site: &Site<'_>) -> Routed {
    let reads_only = |answer: fn(&RequestHead, &Site<'_>) -> Response| {
        Routed::Answer(if head.is_read() {
            answer(head, site)
        } else {
            Response::method_not_allowed()
        })
    };
    match head.path.as_str() {
        "/derp" => upgrade(head, site),
        "/derp/probe" | "/derp/latency-check" => {
            reads_only(|_, _| Response::new("200 OK", "").with("Access-Control-Allow-Origin", "*"))
        }
        "/generate_204" => reads_only(|head, _| generate_204(&head.challenge)),
        "/bootstrap-dns" => reads_only(|head, site| bootstrap_dns(&head.query, site.bootstrap)),
        "/robots.txt" => {
            reads_only(|_, _| Response::text("200 OK", "User-agent: *\nDisallow: /\n"))
        }
        "/" => reads_only(|_, _| home_page()),
        _ => Routed::Answer(Response::text("404 Not Found", "no such page\n")),
    }
}

/// Any method will do: tailscale-rs posts. Old clients asked for a WebSocket and then spoke plain
/// DERP; those that mean it name the subprotocol.
fn upgrade(head: &RequestHead, site: &Site<'_>) -> Routed {
    let means_websocket = head
        .websocket_protocols
        .split(',')
        .any(|name| name.trim() == "derp");
    match head.upgrade.as_str() {
        "websocket" if means_websocket => websocket(head),
        "derp" | "websocket" if head.fast_start => Routed::FastStart,
        "derp" | "websocket" => Routed::Upgrade(
            Response::bodiless("101 Switching Protocols")
                .with("Upgrade", "DERP")
                .with("Connection", "Upgrade")
                .with("Derp-Version", "2")
                .with("Derp-Public-Key", site.public_key_hex.to_owned()),
        ),
        _ => Routed::Answer(Response::text(
            "426 Upgrade Required",
            "DERP requires connection upgrade\n",
        )),
    }
}

/// RFC 6455 §4.2.2. Any origin may: what is inside is sealed with the node's key.
fn websocket(head: &RequestHead) -> Routed {
    let Some(key) = &head.websocket_key else {
        let response = Response::text(
            "400 Bad Request",
            "a WebSocket needs version 13 and a key\n",
        )
        .with("Sec-WebSocket-Version", "13");
        return Routed::Answer(response);
    };
    Routed::WebSocket(
        Response::bodiless("101 Switching Protocols")
            .with("Upgrade", "websocket")
            .with("Connection", "Upgrade")
            .with("Sec-WebSocket-Accept", websocket_accept(key))
            .with("Sec-WebSocket-Protocol", "derp"),
    )
}

fn websocket_accept(key: &str) -> String {
    let mut sha1 = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(sha1.finish().as_ref())
}

fn generate_204(challenge: &str) -> Response {
    let response = Response::bodiless("204 No Content").with(
        "Cache-Control",
        "no-cache, no-store, must-revalidate, no-transform, max-age=0",
    );
    match challenge::response(challenge) {
        Some(echo) => response.with("X-Tailscale-Response", echo),
        None => response,
    }
}

/// Addresses of one name, or of all when it is unknown or absent.
fn bootstrap_dns(query: &str, names: &dyn BootstrapDns) -> Response {
    let asked = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("q="))
        .unwrap_or_default();
    let asked = asked.trim_end_matches('.').to_ascii_lowercase();
    let mut answer = names.addresses();
    if answer.contains_key(&asked) {
        answer.retain(|name, _| *name == asked);
    }
    Response::new("200 OK", to_json(&answer))
        .with("Content-Type", "application/json")
        .closing()
}

fn to_json(answer: &BTreeMap<String, Vec<IpAddr>>) -> String {
    // maps from strings to lists of strings always encode
    serde_json::to_string(answer).unwrap_or_else(|_| "{}".to_owned())
}

/// No `Strict-Transport-Security`: it would hold for every port of the host, and a control plane
/// beside the relay may be served without TLS.
fn home_page() -> Response {
    const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>DERP relay</title></head>\n<body><h1>DERP relay</h1>\n<p>This is a relay of a Hydrascale tailnet. There is nothing to see.</p>\n</body></html>\n";
    Response::new("200 OK", PAGE)
        .with("Content-Type", "text/html; charset=utf-8")
        .with(
            "Content-Security-Policy",
            "default-src 'none'; frame-ancestors 'none'",
        )
        .with("X-Frame-Options", "DENY")
        .with("X-Content-Type-Options", "nosniff")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derp::bootstrap::StaticNames;
    use crate::derp::metrics::RelayMetrics;

    /// The answer as text; upgrades are marked.
    fn ask(request: &str) -> String {
        let names = StaticNames::from_iter([
            (
                "control.example".to_owned(),
                vec!["192.0.2.1".parse().unwrap()],
            ),
            (
                "relay.example".to_owned(),
                vec!["2001:db8::1".parse().unwrap()],
            ),
        ]);
        let metrics = RelayMetrics::default();
        let site = Site {
            public_key_hex: "5e",
            bootstrap: &names,
            metrics: &metrics,
        };
        let request = format!("{request}\r\n\r\n");
        let (head, _) = RequestHead::parse(request.as_bytes()).unwrap().unwrap();
        let (mark, response) = match route(&head, &site) {
            Routed::Answer(response) => ("", response),
            Routed::Upgrade(response) => ("UPGRADE ", response),
            Routed::WebSocket(response) => ("WEBSOCKET ", response),
            Routed::FastStart => return "FAST START".to_owned(),
        };
        mark.to_owned() + std::str::from_utf8(&response.encode(!head.is_head())).unwrap()
    }

    #[test]
    fn derp_upgrades_by_get_and_post_and_for_old_clients() {
        for request in [
            "GET /derp HTTP/1.1\r\nUpgrade: DERP",
            "POST /derp HTTP/1.1\r\nUpgrade: derp\r\nContent-Length: 0",
            "GET /derp HTTP/1.1\r\nUpgrade: WebSocket",
        ] {
            assert!(
                ask(request).starts_with("UPGRADE HTTP/1.1 101 "),
                "{request}"
            );
        }
    }

    #[test]
    fn derp_without_a_fitting_upgrade_is_told_so() {
        let answer = ask("GET /derp HTTP/1.1");
        assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
        assert!(answer.ends_with("\r\n\r\nDERP requires connection upgrade\n"));
        assert!(ask("GET /derp HTTP/1.1\r\nUpgrade: h2c").starts_with("HTTP/1.1 426 "));
    }

    #[test]
    fn a_websocket_is_accepted_with_its_subprotocol() {
        let asked = "GET /derp HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Protocol: derp\r\nOrigin: https://elsewhere.example";
        // Key and answer are those of RFC 6455 §1.3.
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        assert_eq!(
            ask(&format!("{asked}\r\nSec-WebSocket-Version: 13\r\n{key}")),
            "WEBSOCKET HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Protocol: derp\r\n\r\n"
        );
        for lacking in [
            asked.to_owned(),
            format!("{asked}\r\nSec-WebSocket-Version: 13"),
            format!("{asked}\r\nSec-WebSocket-Version: 8\r\n{key}"),
        ] {
            let answer = ask(&lacking);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(answer.contains("Sec-WebSocket-Version: 13\r\n"), "{answer}");
        }
    }

    #[test]
    fn a_fast_start_gets_no_head() {
        let request = "GET /derp HTTP/1.1\r\nUpgrade: DERP\r\nDerp-Fast-Start: ";
        assert_eq!(ask(&format!("{request}1")), "FAST START");
        assert!(ask(&format!("{request}0")).starts_with("UPGRADE "));
    }

    #[test]
    fn probes_are_empty_and_open_to_other_origins() {
        for path in ["/derp/probe", "/derp/latency-check"] {
            let expected = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\n\
                            Content-Length: 0\r\n\r\n";
            assert_eq!(ask(&format!("GET {path} HTTP/1.1")), expected);
            assert_eq!(ask(&format!("HEAD {path} HTTP/1.1")), expected);
            assert!(ask(&format!("POST {path} HTTP/1.1")).starts_with("HTTP/1.1 405 "));
        }
    }

    #[test]
    fn generate_204_echoes_the_challenge() {
        let answer = ask("GET /generate_204 HTTP/1.1\r\nX-Tailscale-Challenge: ts_relay");
        assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n"));
        assert!(answer.contains("X-Tailscale-Response: response ts_relay\r\n"));
        assert!(!answer.contains("Content-Length"));
        let refused = ask("GET /generate_204 HTTP/1.1\r\nX-Tailscale-Challenge: <b>");
        assert!(!refused.contains("X-Tailscale-Response"));
    }

    #[test]
    fn bootstrap_dns_answers_the_name_asked_for_or_all() {
        let body = |query: &str| {
            let answer = ask(&format!("GET /bootstrap-dns{query} HTTP/1.1"));
            assert!(answer.contains("Connection: close\r\n"));
            answer.split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        let control = r#"{"control.example":["192.0.2.1"]}"#;
        assert_eq!(body("?q=control.example"), control);
        assert_eq!(body("?a=b&q=Control.Example."), control);
        let all = r#"{"control.example":["192.0.2.1"],"relay.example":["2001:db8::1"]}"#;
        assert_eq!(body(""), all);
        assert_eq!(body("?q=unknown"), all);
    }

    #[test]
    fn the_rest_is_quiet() {
        assert!(ask("GET /robots.txt HTTP/1.1").ends_with("User-agent: *\nDisallow: /\n"));
        assert!(ask("GET / HTTP/1.1").contains("X-Frame-Options: DENY\r\n"));
        assert!(ask("GET /debug HTTP/1.1").starts_with("HTTP/1.1 404 "));
        assert!(ask("DELETE / HTTP/1.1").starts_with("HTTP/1.1 405 "));
    }
}
