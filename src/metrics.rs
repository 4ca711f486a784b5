//! Every Prometheus series, by name, in one place (contract §8).
