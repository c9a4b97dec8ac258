//! What arrives at the peer listener from those who are not, or not quite, a replica.
