//! From a file, variables and flags to one tree: command line over environment over file over default (contract §2).

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    ask::quoted,
    fault::{Fault, Origin},
    tree::{Node, Table, Value, parse_file, parse_value},
};

/// The documented defaults, as they stand at the repository's root.
pub const DEFAULTS: &str = include_str!("../../config.toml");

const FILE_BYTES_MAX: u64 = 1 << 20;
const SECRET_FILE_BYTES_MAX: u64 = 64 << 10;
const PREFIX: &str = "AUDITCAST__";

/// What a configuration is made of.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file; it must exist. See [`find`]. `None`: the defaults alone.
    pub path: Option<PathBuf>,
    /// The process's variables.
    pub env: BTreeMap<String, String>,
    /// A file of variables (A's `.env`), under those of the process.
    pub env_file: Option<PathBuf>,
    /// Dotted key, value, and the flag it came by.
    pub overrides: Vec<(String, String, String)>,
}

/// Which file is read: the one named, else `$AUDITCAST_CONFIG`, `./config.toml`, `/etc/auditcast/config.toml`, else none.
pub fn find(named: Option<PathBuf>, env: &BTreeMap<String, String>) -> Option<PathBuf> {
    named
        .or_else(|| env.get("AUDITCAST_CONFIG").filter(|p| !p.is_empty()).map(PathBuf::from))
        .or_else(|| ["config.toml", "/etc/auditcast/config.toml"].into_iter().map(PathBuf::from).find(|path| path.exists()))
}

/// How a variable of A's or B's becomes a value.
#[derive(Clone, Copy)]
enum Convert {
    Same,
    /// As it is; `…_FILE` names a file that holds it.
    Secret,
    /// A whole number of a unit.
    Unit(&'static str, &'static str),
    /// Comma-separated.
    List,
    Level,
}

const ALIASES: [(&str, &[&str], Convert); 15] = [
    ("REDIS_URL", &["store", "url"], Convert::Secret),
    ("REDIS_PASSWORD", &["store", "password"], Convert::Secret),
    ("JWT_SECRET_KEY", &["auth", "secret"], Convert::Secret),
    ("JWT_EXPIRATION_HOURS", &["auth", "max_age"], Convert::Unit("h", "hours")),
    ("SESSION_TIMEOUT_MINUTES", &["auth", "session_timeout"], Convert::Unit("m", "minutes")),
    ("REFRESH_TOKEN_MINUTES", &["auth", "refresh_ttl"], Convert::Unit("m", "minutes")),
    ("RATE_LIMIT_GENERAL", &["limits", "rate_general"], Convert::Same),
    ("RATE_LIMIT_AUTH", &["limits", "rate_auth"], Convert::Same),
    ("RATE_LIMIT_WINDOW", &["limits", "rate_window"], Convert::Unit("s", "seconds")),
    ("AUDIT_LOG_RETENTION_DAYS", &["alerts", "retention"], Convert::Unit("d", "days")),
    ("AUDIT_LOG_LEVEL", &["log", "level"], Convert::Level),
    ("SECURITY_HEADERS_ENABLED", &["listen", "security_headers"], Convert::Same),
    ("CORS_ORIGINS", &["listen", "cors_origins"], Convert::List),
    ("ENCRYPTION_KEY", &["encryption", "key"], Convert::Secret),
    ("ENCRYPTION_ALGORITHM", &["encryption", "algorithm"], Convert::Same),
];

/// The keys whose value may also stand in a file, as `AUDITCAST__SECTION__KEY_FILE`.
const SECRET_KEYS: [[&str; 2]; 5] =
    [["store", "url"], ["store", "password"], ["auth", "secret"], ["encryption", "key"], ["listen", "metrics_token"]];

/// As [`SECRET_KEYS`], but each of the file's lines is one.
const SECRET_LISTS: [[&str; 2]; 1] = [["auth", "previous_secrets"]];

/// Reads all layers. On faults the tree is as far as it could be read, so that the rest can be looked at too.
pub(super) fn tree(sources: &Sources, faults: &mut Vec<Fault>) -> Table {
    let mut tree = match parse_file(DEFAULTS, None) {
        Ok(table) => table,
        Err(wrong) => {
            faults.extend(wrong);
            Table::default()
        }
    };
    tree.name_members(faults);
    if let Some(path) = &sources.path
        && let Some(mut file) = read_config(path, faults)
    {
        file.name_members(faults);
        if file.get("source").is_some() {
            tree.remove("source");
        }
        tree.merge(file);
    }
    let variables = variables(sources, faults);
    aliases(&variables, &mut tree, faults);
    own_variables(&variables, &mut tree, faults);
    for (key, value, flag) in &sources.overrides {
        let path: Vec<&str> = key.split('.').collect();
        lay(&mut tree, &path, value, Origin::Flag { flag: flag.clone() }, faults);
    }
    tree
}

pub(super) fn read_config(path: &Path, faults: &mut Vec<Fault>) -> Option<Table> {
    let shown = path.display().to_string();
    let text = match read_text(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) => {
            let origin = Origin::File { path: Arc::from(shown.as_str()), line: 0 };
            faults.push(Fault { origin, key: None, text: format!("cannot be read: {error}") });
            return None;
        }
    };
    parse_file(&text, Some(&shown)).map_err(|wrong| faults.extend(wrong)).ok()
}

pub(super) fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    // Not by its length: a device has none, and no end either.
    let mut text = String::new();
    let length = fs::File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if length as u64 > bytes_max {
        return Err(io::Error::other(format!("it has more than the {bytes_max} bytes that are allowed")));
    }
    Ok(text)
}

type Variables = BTreeMap<String, (String, Origin)>;

/// The process's variables over those of the file. A's and B's that are empty count as not set, as compose files leave them.
fn variables(sources: &Sources, faults: &mut Vec<Fault>) -> Variables {
    let mut variables = Variables::new();
    if let Some(path) = &sources.env_file {
        let shown: Arc<str> = Arc::from(path.display().to_string());
        let origin = |line| Origin::File { path: shown.clone(), line };
        match read_text(path, FILE_BYTES_MAX) {
            Err(error) => faults.push(Fault { origin: origin(0), key: None, text: format!("cannot be read: {error}") }),
            Ok(text) => {
                for pair in dotenvy::from_read_iter(text.as_bytes()) {
                    match pair {
                        Ok((name, value)) => {
                            let origin = Origin::EnvFile { path: shown.clone(), name: name.clone() };
                            variables.insert(name, (value, origin));
                        }
                        // The error's own text holds the line, and with it perhaps a secret.
                        Err(dotenvy::Error::LineParse(wrong, _)) => {
                            let line = text.lines().position(|l| l.contains(wrong.trim_end())).map_or(0, |n| n + 1);
                            faults.push(Fault { origin: origin(line), key: None, text: "expected NAME=VALUE".to_owned() });
                        }
                        Err(_) => {
                            faults.push(Fault { origin: origin(0), key: None, text: "expected lines of NAME=VALUE".to_owned() });
                        }
                    }
                }
            }
        }
    }
    for (name, value) in &sources.env {
        variables.insert(name.clone(), (value.clone(), Origin::Environment { name: name.clone() }));
    }
    variables.retain(|name, (value, _)| name.starts_with(PREFIX) || !value.trim().is_empty());
    variables
}

fn aliases(variables: &Variables, tree: &mut Table, faults: &mut Vec<Fault>) {
    for (name, path, convert) in ALIASES {
        let file = format!("{name}_FILE");
        if matches!(convert, Convert::Secret)
            && let Some((named, origin)) = variables.get(&file)
        {
            if variables.contains_key(name) {
                faults.push(Fault {
                    origin: origin.clone(),
                    key: None,
                    text: format!("{name} is set as well, one of them must go"),
                });
            } else if let Some(text) = secret_file(named, origin, faults) {
                lay(tree, path, &text, origin.clone(), faults);
            }
        }
        let Some((value, origin)) = variables.get(name) else { continue };
        let fault = |expected: &str| Fault {
            origin: origin.clone(),
            key: None,
            text: format!("expected {expected}, found {}", quoted(value)),
        };
        match convert {
            Convert::Same | Convert::Secret => lay(tree, path, value, origin.clone(), faults),
            Convert::Unit(unit, units) => match value.trim().parse::<u32>() {
                Ok(n) => lay(tree, path, &format!("{n}{unit}"), origin.clone(), faults),
                Err(_) => faults.push(fault(&format!("a whole number of {units}"))),
            },
            Convert::Level => match level(value) {
                Some(level) => lay(tree, path, level, origin.clone(), faults),
                None => faults.push(fault("one of DEBUG, INFO, WARNING, ERROR, CRITICAL")),
            },
            Convert::List => {
                let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
                let items = items.map(|item| Node { value: Value::Text(item.to_owned()), origin: origin.clone() }).collect();
                tree.set_path(path, Node { value: Value::List(items), origin: origin.clone() });
            }
        }
    }
}

/// A level of Python's logging, or one of ours.
fn level(text: &str) -> Option<&'static str> {
    Some(match text.trim().to_ascii_lowercase().as_str() {
        "notset" | "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warning" | "warn" => "warn",
        "error" | "critical" | "fatal" => "error",
        "off" => "off",
        _ => return None,
    })
}

fn own_variables(variables: &Variables, tree: &mut Table, faults: &mut Vec<Fault>) {
    // In the order of their names, so that AUDITCAST__SOURCE (a whole list) comes before its members.
    for (name, (value, origin)) in variables.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let lower = name[PREFIX.len()..].to_ascii_lowercase();
        let path: Vec<&str> = lower.split("__").collect();
        if path.iter().any(|part| part.is_empty()) || (path.len() < 2 && !matches!(path[..], ["source" | "threshold"])) {
            faults.push(Fault {
                origin: origin.clone(),
                key: None,
                text: "expected a name such as AUDITCAST__SECTION__KEY".to_owned(),
            });
            continue;
        }
        if let [section, key] = path[..]
            && let Some(stem) = key.strip_suffix("_file")
            && (SECRET_KEYS.contains(&[section, stem]) || SECRET_LISTS.contains(&[section, stem]))
        {
            let direct = name[..name.len() - "_FILE".len()].to_owned();
            if variables.contains_key(&direct) {
                faults.push(Fault {
                    origin: origin.clone(),
                    key: None,
                    text: format!("{direct} is set as well, one of them must go"),
                });
            } else if let Some(text) = secret_file(value, origin, faults) {
                if SECRET_LISTS.contains(&[section, stem]) {
                    let items = text.lines().map(str::trim).filter(|line| !line.is_empty());
                    let items = items.map(|item| Node { value: Value::Text(item.to_owned()), origin: origin.clone() }).collect();
                    tree.set_path(&[section, stem], Node { value: Value::List(items), origin: origin.clone() });
                } else {
                    lay(tree, &[section, stem], &text, origin.clone(), faults);
                }
            }
            continue;
        }
        lay(tree, &path, value, origin.clone(), faults);
    }
}

fn secret_file(named: &str, origin: &Origin, faults: &mut Vec<Fault>) -> Option<String> {
    match read_text(Path::new(named), SECRET_FILE_BYTES_MAX) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => {
            faults.push(Fault {
                origin: origin.clone(),
                key: None,
                text: format!("the file {} cannot be read: {error}", quoted(named)),
            });
            None
        }
    }
}

/// Lays one value over the tree.
fn lay(tree: &mut Table, path: &[&str], text: &str, origin: Origin, faults: &mut Vec<Fault>) {
    let mut layer = Table::default();
    let under_is_table = matches!(tree.path(path), Some(Node { value: Value::Table(_), .. }));
    let value = if under_is_table {
        match parse_value(text, &origin) {
            Some(value @ (Value::Table(_) | Value::List(_))) => value,
            _ => {
                let what = if matches!(path, ["source" | "threshold"]) { "a list of tables" } else { "a table" };
                let text = format!("expected {what} as TOML, found {}", quoted(text));
                return faults.push(Fault { origin, key: Some(path.join(".")), text });
            }
        }
    } else {
        Value::Raw(text.to_owned())
    };
    if path == ["source"] {
        tree.remove("source");
    }
    layer.set_path(path, Node { value, origin });
    layer.name_members(faults);
    tree.merge(layer);
}
