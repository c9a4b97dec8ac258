//! MagicDNS names and the DNS part of a netmap.
