//! Globs: `*` is any text, also none; `?` is one character.

/// Linear in the text, but for what stands with a `?` between two `*`: that is tried at each place.
pub fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = behind(first, text) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // The first place that fits leaves the most to what follows, so it need not be looked for again.
    for part in parts {
        let Some(left) = found(part, rest) else { return false };
        rest = left;
    }
    ends(last, rest)
}

/// What follows `part` where the text begins with it.
fn behind<'t>(part: &str, text: &'t str) -> Option<&'t str> {
    if !part.contains('?') {
        return text.strip_prefix(part);
    }
    let mut rest = text.chars();
    part.chars().all(|wanted| rest.next().is_some_and(|found| wanted == '?' || wanted == found)).then_some(rest.as_str())
}

/// What follows the first place where `part` stands.
fn found<'t>(part: &str, text: &'t str) -> Option<&'t str> {
    if !part.contains('?') {
        return text.find(part).and_then(|at| text.get(at + part.len()..));
    }
    text.char_indices().find_map(|(at, _)| behind(part, text.get(at..)?))
}

fn ends(part: &str, text: &str) -> bool {
    if !part.contains('?') {
        return text.ends_with(part);
    }
    let mut rest = text.chars();
    part.chars().rev().all(|wanted| rest.next_back().is_some_and(|found| wanted == '?' || wanted == found))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::glob_matches;

    #[test]
    fn globs() {
        for (glob, text) in [
            ("*", ""),
            ("*", "a"),
            ("**", ""),
            ("a*c", "abbc"),
            ("a?c", "aäc"),
            ("a*b*c", "a1b2b3c"),
            ("*?ä", "äää"),
            ("?", "ä"),
            ("auth.*", "auth.failed"),
        ] {
            assert!(glob_matches(glob, text), "{glob} {text}");
        }
        for (glob, text) in [
            ("", "a"),
            ("?", ""),
            ("a*c", "ab"),
            ("a", "A"),
            ("a*b", "aac"),
            ("auth.?", "auth."),
            ("ab*bc", "abc"),
            ("*?a?*", "ab"),
        ] {
            assert!(!glob_matches(glob, text), "{glob} {text}");
        }
        assert!(!glob_matches(&"*a".repeat(60), &"b".repeat(10_000)));
    }

    #[test]
    fn a_long_glob_over_a_long_text_takes_no_time() {
        let began = std::time::Instant::now();
        assert!(!glob_matches(&format!("*{}b*", "a".repeat(4000)), &"a".repeat(1_000_000)));
        assert!(began.elapsed() < std::time::Duration::from_secs(2), "tried at each place it takes minutes");
    }

    /// As it is defined.
    fn defined(glob: &[char], text: &[char]) -> bool {
        match (glob.split_first(), text.split_first()) {
            (None, found) => found.is_none(),
            (Some(('*', after)), found) => defined(after, text) || found.is_some_and(|(_, rest)| defined(glob, rest)),
            (Some((wanted, after)), Some((found, rest))) => (*wanted == '?' || wanted == found) && defined(after, rest),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_glob_is_what_it_is_defined_as(glob in "[abä?*]{0,8}", text in "[abä]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(glob_matches(&glob, &text), defined(&chars(&glob), &chars(&text)));
        }
    }
}
