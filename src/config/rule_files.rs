//! The built-in rules, and the rule files of `rules.dir`: laid under what the configuration says of rules.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use super::{
    ask::quoted,
    fault::{Fault, Origin},
    layers,
    tree::{Node, Table, Value, parse_file},
    trial::{self, Trial},
};

const BUILT_IN: [(&str, &str); 3] = [
    ("built-in/logins.toml", include_str!("../detect/builtin/logins.toml")),
    ("built-in/accounts.toml", include_str!("../detect/builtin/accounts.toml")),
    ("built-in/access.toml", include_str!("../detect/builtin/access.toml")),
];

const FILES_MAX: usize = 256;

/// The built-in rules as they are read: the same whenever a configuration is.
static BUILT_IN_READ: LazyLock<BuiltIn> = LazyLock::new(|| {
    let mut read = BuiltIn::default();
    for (name, text) in BUILT_IN {
        match parse_file(text, Some(name)) {
            Ok(file) => take(file, &mut read.rules, &mut read.trials, &mut read.faults),
            Err(wrong) => read.faults.extend(wrong),
        }
    }
    for trial in &mut read.trials {
        trial.built_in = true;
    }
    read
});

#[derive(Default)]
struct BuiltIn {
    rules: Table,
    trials: Vec<Trial>,
    /// None, or the tests of the rules fail.
    faults: Vec<Fault>,
}

/// Lays the rules under the tree; gives their tests. `config` is the file that names the directory.
pub(super) fn lay(tree: &mut Table, config: Option<&Path>, faults: &mut Vec<Fault>) -> Vec<Trial> {
    let built_in = &*BUILT_IN_READ;
    let (mut rules, mut trials) = (built_in.rules.clone(), built_in.trials.clone());
    faults.extend(built_in.faults.iter().cloned());
    let dir = match tree.path(&["rules", "dir"]) {
        Some(Node { value: Value::Text(dir) | Value::Raw(dir), origin }) if !dir.is_empty() => Some((dir, origin)),
        _ => None,
    };
    if let Some((dir, origin)) = dir {
        let beside = config.and_then(Path::parent).filter(|_| matches!(origin, Origin::File { .. }));
        let dir = beside.map_or_else(|| PathBuf::from(dir), |beside| beside.join(dir));
        match files(&dir) {
            Ok(files) => {
                for path in files {
                    if let Some(file) = layers::read_config(&path, faults) {
                        take(file, &mut rules, &mut trials, faults);
                    }
                }
            }
            Err(error) => {
                let text = format!("the directory {} cannot be read: {error}", quoted(&dir.display().to_string()));
                faults.push(Fault { origin: origin.clone(), key: Some("rules.dir".to_owned()), text });
            }
        }
    }
    let (mut under, mut over) = (Table::default(), Table::default());
    under.set("rule", Node { value: Value::Table(rules), origin: Origin::Default { line: 0 } });
    if let Some(own) = tree.remove("rule") {
        over.set("rule", own);
    }
    under.merge(over);
    if let Some(all) = under.remove("rule") {
        tree.set("rule", all);
    }
    trials
}

/// The rule files of a directory, by name; or the one file that it is.
fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    if dir.is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        // A pipe's end may never come.
        if !path.is_file() {
            let name = path.file_name().unwrap_or_default().display().to_string();
            return Err(std::io::Error::other(format!("{} in it is no regular file", quoted(&name))));
        }
        files.push(path);
    }
    files.sort();
    if files.len() > FILES_MAX {
        return Err(std::io::Error::other(format!("it has more than the {FILES_MAX} files that are allowed")));
    }
    Ok(files)
}

/// Takes in one file: `[[rule]]` and `[[test]]`, nothing else, and no rule that is there already.
fn take(mut file: Table, rules: &mut Table, trials: &mut Vec<Trial>, faults: &mut Vec<Fault>) {
    file.name_members(faults);
    let own = trial::take(&mut file, faults);
    let mut names = Table::default();
    for (key, node) in file.entries {
        let fault = |text: String| Fault { origin: node.origin.clone(), key: Some(key.clone()), text };
        match node.value {
            Value::Table(table) if key == "rule" => {
                for (name, rule) in table.entries {
                    if let Some(there) = rules.get(&name) {
                        let text = format!("the rule {} is there already ({})", quoted(&name), there.origin);
                        faults.push(Fault { origin: rule.origin, key: Some(format!("rule.{name}")), text });
                    } else {
                        names.set(&name, rule.clone());
                        rules.set(&name, rule);
                    }
                }
            }
            _ => faults.push(fault("unknown section, a rule file has [[rule]] and [[test]]".to_owned())),
        }
    }
    for name in trial::untested(&own, &names) {
        if let Some(rule) = names.get(&name) {
            let text = "expected at least one [[test]] where it fires, and one where it does not".to_owned();
            faults.push(Fault { origin: rule.origin.clone(), key: Some(format!("rule.{name}")), text });
        }
    }
    trials.extend(own);
}
