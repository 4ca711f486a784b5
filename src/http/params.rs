//! Query parameters: only known names, each once, and a sentence for what is wrong.

use axum::{extract::Query, http::Uri};

use super::problem::Problem;

pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query; refuses names that are not in `known` and any that stands twice.
    pub(super) fn read(uri: &Uri, known: &[&str]) -> Result<Params, Problem> {
        let Query(pairs) =
            Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| Problem::bad_request("the query cannot be read"))?;
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let list = if known.is_empty() { "none".to_owned() } else { format!("`{}`", known.join("`, `")) };
                return Err(Problem::bad_request(format!("`{}` is not a parameter here: {list}", short(name))));
            }
            if pairs.iter().skip(at + 1).any(|(other, _)| other == name) {
                return Err(Problem::bad_request(format!("`{name}` stands twice")));
            }
        }
        Ok(Params(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A count from 1 on; above `max` it is `max`.
    pub(super) fn count(&self, name: &str, default: usize, max: usize) -> Result<usize, Problem> {
        let Some(text) = self.get(name) else { return Ok(default) };
        match text.parse::<usize>() {
            Ok(n) if n >= 1 => Ok(n.min(max)),
            _ => Err(Problem::bad_request(format!("`{name}` is a count from 1 to {max}, not `{}`", short(text)))),
        }
    }
}

pub(super) use crate::wire::short;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Params, String> {
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        Params::read(&uri, &["after", "limit"]).map_err(|problem| problem.detail)
    }

    #[test]
    fn known_names_once() {
        let params = read("after=1-00c0ffee&limit=5").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(params.get("after"), Some("1-00c0ffee"));
        assert_eq!(params.get("order"), None);
        assert!(read("order=asc").is_err_and(|text| text.contains("`order`")));
        assert!(read("limit=1&limit=2").is_err_and(|text| text.contains("twice")));
    }

    #[test]
    fn a_count_has_bounds() {
        let count = |query: &str| read(query).unwrap_or_else(|error| panic!("{error}")).count("limit", 100, 1000);
        assert_eq!(count("").ok(), Some(100));
        assert_eq!(count("limit=7").ok(), Some(7));
        assert_eq!(count("limit=99999").ok(), Some(1000));
        for bad in ["limit=0", "limit=-1", "limit=x", "limit=", "limit=1.5"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }
}
