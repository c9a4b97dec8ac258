//! The YAML configuration: headscale's keys plus the `cluster:` block.
