//! The only wiring: bind → run → drain; owns the only `JoinSet`.
