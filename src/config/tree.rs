//! A configuration as a tree of values that know where they were set, before any of them is understood.

use std::sync::Arc;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::fault::{Fault, Origin};

/// `Debug` is left out on purpose: a tree holds secrets.
#[derive(Clone)]
pub(super) struct Node {
    pub value: Value,
    pub origin: Origin,
}

#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// From the environment or the command line: what it is depends on the key.
    Raw(String),
    /// A date, or an integer beyond 64 bits: no key takes one.
    Other(&'static str),
}

/// Keys in the order of the file.
#[derive(Clone, Default)]
pub(super) struct Table {
    pub entries: Vec<(String, Node)>,
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, node)| node)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.iter_mut().find(|(k, _)| k == key).map(|(_, node)| node)
    }

    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let at = self.entries.iter().position(|(k, _)| k == key)?;
        Some(self.entries.remove(at).1)
    }

    pub fn set(&mut self, key: &str, node: Node) {
        match self.get_mut(key) {
            Some(old) => *old = node,
            None => self.entries.push((key.to_owned(), node)),
        }
    }

    /// Puts a value at a path, making tables on the way. A value that is in the way is replaced.
    pub fn set_path(&mut self, path: &[&str], node: Node) {
        let Some((first, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            return self.set(first, node);
        }
        if !matches!(self.get(first), Some(Node { value: Value::Table(_), .. })) {
            self.set(first, Node { value: Value::Table(Table::default()), origin: node.origin.clone() });
        }
        if let Some(Node { value: Value::Table(table), .. }) = self.get_mut(first) {
            table.set_path(rest, node);
        }
    }

    pub fn path(&self, path: &[&str]) -> Option<&Node> {
        let (first, rest) = path.split_first()?;
        let node = self.get(first)?;
        match (&node.value, rest.is_empty()) {
            (_, true) => Some(node),
            (Value::Table(table), false) => table.path(rest),
            _ => None,
        }
    }

    /// Lays `over` on top: tables merge, anything else replaces. A threshold that says `below` takes back an `above` from beneath
    /// it, and the other way round.
    pub fn merge(&mut self, over: Table) {
        self.merge_at(over, 0);
    }

    fn merge_at(&mut self, over: Table, depth: usize) {
        for (key, node) in over.entries {
            match (self.get_mut(&key), node.value) {
                (Some(Node { value: Value::Table(under), .. }), Value::Table(table)) => {
                    if depth == 0 && key == "threshold" {
                        for (name, rule) in &table.entries {
                            let (Value::Table(rule), Some(Node { value: Value::Table(old), .. })) =
                                (&rule.value, under.get_mut(name))
                            else {
                                continue;
                            };
                            if rule.get("above").is_some() || rule.get("below").is_some() {
                                old.remove("above");
                                old.remove("below");
                            }
                        }
                    }
                    under.merge_at(table, depth + 1);
                }
                (_, value) => self.set(&key, Node { value, origin: node.origin }),
            }
        }
    }

    /// `[[source]]`, `[[threshold]]` and `[[rule]]` as tables by name, so that they merge and can be named by a path.
    pub fn name_members(&mut self, faults: &mut Vec<Fault>) {
        for list in ["source", "threshold", "rule"] {
            let Some(node) = self.get_mut(list) else { continue };
            let Value::List(members) = &mut node.value else { continue };
            let mut named = Table::default();
            for (i, member) in std::mem::take(members).into_iter().enumerate() {
                let at = format!("{list}[{i}]");
                let fault = |text: &str| Fault { origin: member.origin.clone(), key: Some(at.clone()), text: text.to_owned() };
                let Value::Table(mut table) = member.value else {
                    faults.push(fault(&format!("expected a table, [[{list}]]")));
                    continue;
                };
                match table.remove("name").map(|n| n.value) {
                    Some(Value::Text(name)) if named.get(&name).is_some() => {
                        faults.push(fault(&format!("the name \"{}\" is there twice", name.escape_debug())));
                    }
                    Some(Value::Text(name)) => named.set(&name, Node { value: Value::Table(table), origin: member.origin }),
                    Some(_) => faults.push(fault("expected a text as its name")),
                    None => faults.push(fault("expected a name")),
                }
            }
            node.value = Value::Table(named);
        }
    }
}

/// Where a file's lines end, to say where a value stands: one of a megabyte has a hundred thousand of both.
struct Lines {
    ends: Vec<usize>,
    /// `None`: the defaults.
    path: Option<Arc<str>>,
}

impl Lines {
    fn new(text: &str, path: Option<&str>) -> Lines {
        Lines { ends: text.match_indices('\n').map(|(at, _)| at).collect(), path: path.map(Arc::from) }
    }

    fn origin(&self, at: usize) -> Origin {
        let line = self.ends.partition_point(|end| *end < at) + 1;
        match &self.path {
            Some(path) => Origin::File { path: path.clone(), line },
            None => Origin::Default { line },
        }
    }
}

/// Reads a TOML file. `path` is how faults name it; `None` is the compiled-in one.
pub(super) fn parse_file(text: &str, path: Option<&str>) -> Result<Table, Vec<Fault>> {
    let lines = Lines::new(text, path);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let fault = |error: toml::de::Error| Fault {
            origin: lines.origin(error.span().map_or(0, |span| span.start)),
            key: None,
            // The message alone: the rendered error would show the line, and with it perhaps a secret.
            text: format!("not TOML: {}", error.message().replace('\n', ", ")),
        };
        return Err(errors.into_iter().take(20).map(fault).collect());
    }
    Ok(read_table(table.get_ref(), &|at| lines.origin(at)))
}

/// Reads a value written in the environment (`["a", "b"]`, `{ x = "low" }`); all of it has one origin.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Option<Value> {
    let value = DeValue::parse(text).ok()?;
    Some(read_value(&value, &|_| origin.clone()).value)
}

fn read_table(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Table {
    // The parser's map is sorted by key; the order of the file matters to `severity.overrides`.
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let entries = entries.into_iter().map(|(key, value)| {
        let node = Node { origin: origin(key.span().start), ..read_value(value, origin) };
        (key.get_ref().to_string(), node)
    });
    Table { entries: entries.collect() }
}

fn read_value(value: &Spanned<DeValue<'_>>, origin: &dyn Fn(usize) -> Origin) -> Node {
    let read = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(n) => {
            i64::from_str_radix(n.as_str(), n.radix()).map_or(Value::Other("integer beyond 64 bits"), Value::Integer)
        }
        DeValue::Float(n) => n.as_str().parse().map_or(Value::Other("float"), Value::Float),
        DeValue::Boolean(b) => Value::Boolean(*b),
        DeValue::Datetime(_) => Value::Other("date"),
        DeValue::Array(list) => Value::List(list.iter().map(|item| read_value(item, origin)).collect()),
        DeValue::Table(table) => Value::Table(read_table(table, origin)),
    };
    Node { value: read, origin: origin(value.span().start) }
}
