//! The embedded store passes the suite of `tests/suite`.

mod suite;

all_scenarios!(embedded);
