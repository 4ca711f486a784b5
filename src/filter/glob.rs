//! Globs: `*` is any text, also none; `?` is one character.

/// Linear but for `*`, which goes back at most once per character.
pub fn glob_matches(glob: &str, text: &str) -> bool {
    let (mut glob_rest, mut text_rest) = (glob, text);
    let mut star: Option<(&str, &str)> = None;
    loop {
        let mut ahead = glob_rest.chars();
        match (ahead.next(), text_rest.chars().next()) {
            (Some('*'), _) => {
                glob_rest = ahead.as_str();
                star = Some((glob_rest, text_rest));
                continue;
            }
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                glob_rest = ahead.as_str();
                text_rest = text_rest.get(found.len_utf8()..).unwrap_or_default();
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((after_star, from)) = star else { return false };
        let Some(skipped) = from.chars().next() else { return false };
        text_rest = from.get(skipped.len_utf8()..).unwrap_or_default();
        star = Some((after_star, text_rest));
        glob_rest = after_star;
    }
}

#[cfg(test)]
mod tests {
    use super::glob_matches;

    #[test]
    fn globs() {
        for (glob, text) in
            [("*", ""), ("*", "a"), ("a*c", "abbc"), ("a?c", "aäc"), ("a*b*c", "a1b2b3c"), ("?", "ä"), ("auth.*", "auth.failed")]
        {
            assert!(glob_matches(glob, text), "{glob} {text}");
        }
        for (glob, text) in [("", "a"), ("?", ""), ("a*c", "ab"), ("a", "A"), ("a*b", "aac"), ("auth.?", "auth.")] {
            assert!(!glob_matches(glob, text), "{glob} {text}");
        }
        assert!(!glob_matches(&"*a".repeat(60), &"b".repeat(10_000)));
    }
}
