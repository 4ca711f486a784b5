//! What is noted within a second, made small: alike entries become one, and a flood of a type becomes its first entries and a
//! count. Time is a parameter.

use ahash::AHashMap;

use super::{
    Options,
    entry::{Entry, Key},
};

/// One entry that is written, and how many it stands for.
struct Noted {
    entry: Entry,
    at_ms: u64,
    count: u64,
}

/// What a type of event may still write.
struct Allowance {
    left: f64,
    at_ms: u64,
    /// Beyond it, since the last [`Gather::take`], and when the first of them was.
    beyond: u64,
    beyond_ms: u64,
}

#[derive(Default)]
pub(super) struct Gather {
    noted: Vec<Noted>,
    by_key: AHashMap<Key, usize>,
    /// By type, and whether a user is named: what is made up must not take the room of what happens to people. As many as there are
    /// constructors, twice.
    allowances: AHashMap<(&'static str, bool), Allowance>,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// It will be written.
    Own,
    /// It counts in one that will be written.
    Merged,
    /// It counts in the summary of its type.
    Summarised,
}

impl Gather {
    pub(super) fn note(&mut self, entry: Entry, now_ms: u64, options: &Options) -> Became {
        let key = entry.key();
        if let Some(noted) = self.by_key.get(&key).and_then(|at| self.noted.get_mut(*at)) {
            noted.count += 1;
            return Became::Merged;
        }
        let burst = f64::from(options.burst);
        let new = || Allowance { left: burst, at_ms: now_ms, beyond: 0, beyond_ms: 0 };
        let allowance = self.allowances.entry((entry.event_type, entry.names_user())).or_insert_with(new);
        let passed_s = now_ms.saturating_sub(allowance.at_ms) as f64 / 1000.0;
        allowance.left = (allowance.left + passed_s * f64::from(options.rate)).min(burst);
        allowance.at_ms = allowance.at_ms.max(now_ms);
        if allowance.left < 1.0 {
            if allowance.beyond == 0 {
                allowance.beyond_ms = now_ms;
            }
            allowance.beyond += 1;
            return Became::Summarised;
        }
        allowance.left -= 1.0;
        self.by_key.insert(key, self.noted.len());
        self.noted.push(Noted { entry, at_ms: now_ms, count: 1 });
        Became::Own
    }

    /// The bodies of what was noted since the last time, in order; the summaries behind them.
    pub(super) fn take(&mut self) -> Vec<String> {
        self.by_key.clear();
        let mut bodies: Vec<String> = self.noted.drain(..).map(|noted| noted.entry.body(noted.at_ms, noted.count)).collect();
        let mut summaries: Vec<(&'static str, u64, u64)> = Vec::new();
        for ((event_type, _), allowance) in &mut self.allowances {
            if allowance.beyond > 0 {
                let beyond = std::mem::take(&mut allowance.beyond);
                match summaries.iter_mut().find(|summary| summary.0 == *event_type) {
                    Some((_, at_ms, count)) => (*at_ms, *count) = (allowance.beyond_ms.min(*at_ms), *count + beyond),
                    None => summaries.push((event_type, allowance.beyond_ms, beyond)),
                }
            }
        }
        summaries.sort_unstable();
        bodies.extend(summaries.into_iter().map(|(event_type, at_ms, count)| Entry::summary(event_type, at_ms, count)));
        bodies
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{super::entry::LoginFailure, *};

    const OPTIONS: Options = Options { enabled: true, burst: 10, rate: 2, queue: 100 };

    fn failed(user: u32) -> Entry {
        Entry::login_failed(LoginFailure::WrongPassword).user(&user.to_string(), None).from([192, 0, 2, 1].into())
    }

    fn taken(gather: &mut Gather) -> Vec<(String, String, u64)> {
        let read = |body: String| {
            let value: Value = serde_json::from_str(&body).unwrap();
            let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
            (text(&value["event_type"]), text(&value["user_id"]), value["details"]["count"].as_u64().unwrap_or(1))
        };
        gather.take().into_iter().map(read).collect()
    }

    #[test]
    fn alike_within_a_second_is_one() {
        let mut gather = Gather::default();
        for _ in 0..1000 {
            gather.note(failed(1), 5000, &OPTIONS);
        }
        gather.note(failed(2), 5001, &OPTIONS);
        gather.note(failed(1).from([192, 0, 2, 2].into()), 5002, &OPTIONS);
        let name = || "auth.failed_login".to_owned();
        assert_eq!(taken(&mut gather), [(name(), "1".into(), 1000), (name(), "2".into(), 1), (name(), "1".into(), 1)]);
        assert!(gather.take().is_empty());
        assert_eq!(gather.note(failed(1), 6000, &OPTIONS), Became::Own, "the next second's is its own");
    }

    #[test]
    fn a_flood_is_its_beginning_and_a_count() {
        let mut gather = Gather::default();
        for user in 0..10_000 {
            gather.note(failed(user), 5000, &OPTIONS);
        }
        let entries = taken(&mut gather);
        assert_eq!(entries.len(), 11);
        assert_eq!(entries[10], ("auth.failed_login".to_owned(), "-".to_owned(), 9990));
        for second in 1..100 {
            for user in 0..1000 {
                gather.note(failed(user), 5000 + second * 1000, &OPTIONS);
            }
            assert_eq!(taken(&mut gather).iter().map(|(_, _, n)| n).sum::<u64>(), 1000);
        }
        for user in 0..10 {
            gather.note(failed(user), 200_000, &OPTIONS);
        }
        assert_eq!(taken(&mut gather).len(), 10, "a quiet time gives the burst back");
    }

    #[test]
    fn a_flood_of_one_type_leaves_the_others_alone() {
        let mut gather = Gather::default();
        for user in 0..10_000 {
            gather.note(failed(user), 5000, &OPTIONS);
        }
        assert_eq!(gather.note(Entry::login_success("s"), 5000, &OPTIONS), Became::Own);
        assert_eq!(gather.note(Entry::config_refused(), 5000, &OPTIONS), Became::Own);
    }

    #[test]
    fn a_flood_of_made_up_names_hides_nobody_who_is_known() {
        let mut gather = Gather::default();
        for n in 0..10_000_u32 {
            gather.note(Entry::login_failed(LoginFailure::UnknownUser).from(n.to_be_bytes().into()), 5000, &OPTIONS);
        }
        assert_eq!(gather.note(failed(1), 5000, &OPTIONS), Became::Own);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let mut gather = Gather::default();
        let own = |gather: &mut Gather, at| (0..50).filter(|u| gather.note(failed(*u), at, &OPTIONS) == Became::Own).count();
        assert_eq!(own(&mut gather, 10_000), 10);
        gather.take();
        assert_eq!(own(&mut gather, 1000), 0);
        gather.take();
        assert_eq!(own(&mut gather, 10_000), 0);
    }
}
