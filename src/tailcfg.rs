//! Control-protocol JSON types (`tailcfg`), one file per message family.
