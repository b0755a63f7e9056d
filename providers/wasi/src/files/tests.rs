//! Roots as files on this host, without guests.
