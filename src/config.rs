//! config.toml, environment, flags → each room's `Options`.
