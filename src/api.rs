//! REST v1 as headscale serves it, and the cluster administration routes.
