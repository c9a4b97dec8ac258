//! What clients reach: plain HTTP routes and the routes inside Noise.
