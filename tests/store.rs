//! Redis passes the suite of `tests/suite`, and what only Redis can do or suffer. Every test has a redis-server of its own.

mod suite;

all_scenarios!(redis);
