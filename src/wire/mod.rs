//! What clients see: frames, requests, close codes, JSON of the API (contract §5, §7). Pure.
