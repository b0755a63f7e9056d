//! What controllers and their servers have in common: leader election, TLS, connections.
