//! The composition root: configuration in, running replica out.
