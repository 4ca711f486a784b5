//! What reading a regular expression costs, and looking for it. Its size when compiled says nothing of that: where case does not matter, every class is
//! gone through code point by code point, so that a line of `[a-\x{10ffff}]` behind `(?i)` keeps a core busy for seconds and
//! compiles to next to nothing. And at each character of a text it may be tried at as many places as it has itself. Filters come from
//! people, also from those who have not shown a token yet.

use std::convert::Infallible;

use regex_syntax::ast::{
    Ast, ClassAsciiKind, ClassPerlKind, ClassSetBinaryOp, ClassSetItem, Flag, Flags, RepetitionKind, RepetitionRange, Visitor,
    parse::ParserBuilder, visit,
};

/// All code points there are.
const ALL: u32 = 0x11_0000;
/// No fewer than are letters, digits or underscores.
const WORDS: u32 = 150_000;
/// No fewer than are digits, or white space.
const FEW: u32 = 1000;

/// What an expression costs, at most.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Code points that are gone through to read it.
    pub code_points: u32,
    /// Characters and classes, each as often as it is repeated by a count.
    pub characters: u32,
}

/// A fault in `pattern` weighs nothing: it is told by who compiles it.
pub(super) fn weigh(pattern: &str, nest_limit: u32) -> Weight {
    let Ok(ast) = ParserBuilder::new().nest_limit(nest_limit).build().parse(pattern) else { return Weight::default() };
    let code_points = visit(&ast, Scales::default()).unwrap_or_else(|never| match never {});
    Weight { code_points, characters: characters(&ast) }
}

/// No deeper than the limit that it was parsed with.
fn characters(ast: &Ast) -> u32 {
    let sum = |parts: &[Ast]| parts.iter().map(characters).fold(0, u32::saturating_add);
    match ast {
        Ast::Empty(_) | Ast::Flags(_) | Ast::Assertion(_) => 0,
        Ast::Literal(_) | Ast::Dot(_) | Ast::ClassUnicode(_) | Ast::ClassPerl(_) | Ast::ClassBracketed(_) => 1,
        Ast::Group(group) => characters(&group.ast),
        Ast::Alternation(all) => sum(&all.asts),
        Ast::Concat(all) => sum(&all.asts),
        Ast::Repetition(repetition) => {
            let times = match &repetition.op.kind {
                RepetitionKind::Range(RepetitionRange::Exactly(n) | RepetitionRange::Bounded(_, n)) => *n,
                RepetitionKind::Range(RepetitionRange::AtLeast(n)) => n.saturating_add(1),
                _ => 1,
            };
            characters(&repetition.ast).saturating_mul(times)
        }
    }
}

#[derive(Default)]
struct Scales {
    weight: u32,
    /// Classes and operations around: what is in them may be gone through for each once more.
    depth: u32,
    /// Somewhere case does not matter.
    insensitive: bool,
}

impl Scales {
    fn put(&mut self, code_points: u32) {
        self.weight = self.weight.saturating_add(code_points.saturating_mul(self.depth + 1));
    }

    fn flags(&mut self, flags: &Flags) {
        self.insensitive |= flags.flag_state(Flag::CaseInsensitive) == Some(true);
    }
}

impl Visitor for Scales {
    type Output = u32;
    type Err = Infallible;

    fn finish(self) -> Result<u32, Infallible> {
        Ok(if self.insensitive { self.weight } else { 0 })
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Infallible> {
        match ast {
            Ast::Flags(set) => self.flags(&set.flags),
            Ast::Group(group) => group.flags().into_iter().for_each(|flags| self.flags(flags)),
            Ast::ClassUnicode(_) => self.put(ALL),
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Infallible> {
        match item {
            ClassSetItem::Empty(_) | ClassSetItem::Union(_) => {}
            ClassSetItem::Literal(_) => self.put(1),
            ClassSetItem::Range(range) => self.put(u32::from(range.end.c).saturating_sub(u32::from(range.start.c)) + 1),
            ClassSetItem::Ascii(class) => self.put(match class.kind {
                _ if class.negated => ALL,
                ClassAsciiKind::Word | ClassAsciiKind::Alnum => 63,
                _ => 128,
            }),
            ClassSetItem::Perl(class) => self.put(match class.kind {
                _ if class.negated => ALL,
                ClassPerlKind::Word => WORDS,
                ClassPerlKind::Digit | ClassPerlKind::Space => FEW,
            }),
            ClassSetItem::Unicode(_) => self.put(ALL),
            ClassSetItem::Bracketed(inner) => {
                if inner.negated {
                    self.put(ALL);
                }
                self.depth += 1;
            }
        }
        Ok(())
    }

    fn visit_class_set_item_post(&mut self, item: &ClassSetItem) -> Result<(), Infallible> {
        if let ClassSetItem::Bracketed(_) = item {
            self.depth -= 1;
        }
        Ok(())
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ClassSetBinaryOp) -> Result<(), Infallible> {
        self.depth += 1;
        Ok(())
    }

    fn visit_class_set_binary_op_post(&mut self, _: &ClassSetBinaryOp) -> Result<(), Infallible> {
        self.depth -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_gone_through_weighs() {
        for (pattern, weight) in [
            ("[a-\u{10ffff}]", 0),
            ("(?-i)[^a]", 0),
            ("(?i)^(curl|python)[^/]*\\W", 1),
            ("(?i)[a-z]", 26),
            ("(?i:[a-z]|[0-9])", 36),
            ("a(?si)[[:^alpha:]]", ALL),
            (r"(?i)\pL\PN", 2 * ALL),
            (r"(?i)[\w\d]", WORDS + FEW),
            ("(?i)[[^a]b]", ALL + 2 + 1),
            ("(?i)[[[a-c]]]", 9),
            ("(?i)[a&&b--c]", 3 + 3 + 2),
            ("(?i)[a", 0),
        ] {
            assert_eq!(weigh(pattern, 32).code_points, weight, "{pattern}");
        }
    }

    #[test]
    fn what_is_counted_is_there_so_often() {
        for (pattern, characters) in [
            ("", 0),
            ("^ab|c$", 3),
            ("(?:a[b-z]*){3}", 6),
            (r"(\w{2,5}.)+", 6),
            ("a{900}", 900),
            ("(a{99999}){99999}", u32::MAX),
            ("(", 0),
        ] {
            assert_eq!(weigh(pattern, 32).characters, characters, "{pattern}");
        }
    }
}
