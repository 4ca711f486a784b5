//! Connections. Commands share one multiplexed connection that is made anew after an error; whatever blocks (reader, tail,
//! subscription) or must be quick (the commit) has one of its own. Every wait has an end.

use std::{
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    RedisError, ServerError, Value, aio::MultiplexedConnection, io::tcp::TcpSettings,
};

use super::{StoreError, scripts::Script};

/// How long one request may take, connecting included.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// One server and the shared connection to it.
pub(super) struct Link {
    client: Client,
    /// `127.0.0.1:6379`: for texts.
    pub(super) address: String,
    pub(super) database: u32,
    current: Mutex<Current>,
    /// Held while connecting, so that a hundred requests make one connection.
    connecting: tokio::sync::Mutex<()>,
    /// Connections of any kind that were lost and then made anew.
    pub(super) reconnects: AtomicU64,
    closed: AtomicBool,
}

#[derive(Default)]
struct Current {
    connection: Option<MultiplexedConnection>,
    /// Grows with each connection: who forgets a broken one must not forget its successor.
    number: u64,
    lost: bool,
}

impl Link {
    pub(super) fn open(url: &str) -> Result<Link, StoreError> {
        for kind in ["redis+sentinel:", "redis+cluster:"] {
            if url.starts_with(kind) {
                return Err(StoreError::Refused(format!("{kind}//… is not supported yet; give the address of one server")));
            }
        }
        // The error of the URL parser may quote the URL, and with it the password.
        let unread =
            |_| StoreError::Refused("store.url is not of the form redis://[user:password@]host:port/database".to_owned());
        let info = url.into_connection_info().map_err(unread)?;
        let address = match info.addr() {
            ConnectionAddr::Unix(path) => path.display().to_string(),
            address => address.to_string(),
        };
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            provide_tls();
        }
        let database = u32::try_from(info.redis_settings().db()).map_err(|_| {
            StoreError::Refused(format!("the database {} in store.url is below zero", info.redis_settings().db()))
        })?;
        let keepalive =
            socket2::TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5)).with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Duration::from_secs(20));
        let client = Client::open(info.set_tcp_settings(tcp)).map_err(unread)?;
        Ok(Link {
            client,
            address,
            database,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            reconnects: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// A connection that gives what the server pushes to `sender`, which must not block.
    pub(super) async fn pushed(
        &self,
        sender: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, StoreError> {
        let info = self.client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings)).map_err(|e| self.failure(&e))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_push_sender(sender);
        self.connect(&client, config).await
    }

    async fn connect(&self, client: &Client, config: AsyncConnectionConfig) -> Result<MultiplexedConnection, StoreError> {
        self.open_still()?;
        // The crate's own time limit ends before the greeting (AUTH, SELECT) is answered.
        match tokio::time::timeout(PATIENCE, client.get_multiplexed_async_connection_with_config(&config)).await {
            Ok(made) => made.map_err(|e| self.failure(&e)),
            Err(_) => Err(self.silent()),
        }
    }

    /// Refuses once the store is closed.
    pub(super) fn open_still(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("the store is closed".to_owned()));
        }
        Ok(())
    }

    /// Where to connect and as whom, for a connection that does not go through the crate. Holds the password.
    pub(super) fn info(&self) -> &ConnectionInfo {
        self.client.get_connection_info()
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn shared(&self) -> Result<(u64, MultiplexedConnection), StoreError> {
        let there = |current: &Current| current.connection.clone().map(|connection| (current.number, connection));
        if let Some(found) = there(&self.current()) {
            return Ok(found);
        }
        let _one = self.connecting.lock().await;
        if let Some(found) = there(&self.current()) {
            return Ok(found);
        }
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        let connection = self.connect(&self.client, config).await?;
        let mut current = self.current();
        current.number += 1;
        current.connection = Some(connection.clone());
        if std::mem::take(&mut current.lost) {
            self.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        Ok((current.number, connection))
    }

    fn forget(&self, number: u64) {
        let mut current = self.current();
        if current.number == number && current.connection.take().is_some() {
            current.lost = true;
        }
    }

    /// Sends the commands together and gives a reply to each; a refusal of one is a `Value::ServerError` in its place.
    /// What is asked must bear being done twice: when the connection turns out to be gone, it is asked once more.
    pub(super) async fn ask(&self, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        self.request(commands, true).await
    }

    /// The same for what must not be done twice.
    pub(super) async fn ask_once(&self, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        self.request(commands, false).await
    }

    async fn request(&self, commands: &Pipeline, mut again: bool) -> Result<Vec<Value>, StoreError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut used = None;
        let work = async {
            loop {
                let (number, mut connection) = self.shared().await?;
                used = Some(number);
                match connection.send_packed_commands(commands, 0, commands.len()).await {
                    Ok(replies) if replies.len() == commands.len() => return Ok(replies),
                    Ok(_) => {
                        self.forget(number);
                        return Err(self.garbled());
                    }
                    Err(error) => {
                        let dropped = error.is_io_error() || error.is_unrecoverable_error();
                        if dropped {
                            self.forget(number);
                        }
                        if dropped && again && !error.is_timeout() {
                            again = false;
                            continue;
                        }
                        return Err(self.failure(&error));
                    }
                }
            }
        };
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(result) => result,
            Err(_) => {
                // Behind an unanswered request every later one would wait too.
                if let Some(number) = used {
                    self.forget(number);
                }
                Err(self.silent())
            }
        }
    }

    /// One command, one reply; a refusal is an error.
    pub(super) async fn one(&self, command: redis::Cmd) -> Result<Value, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        let reply = self.ask(&pipeline).await?.pop();
        self.reply(reply)
    }

    /// A reply, or the error it stands for.
    pub(super) fn reply(&self, reply: Option<Value>) -> Result<Value, StoreError> {
        match reply {
            Some(Value::ServerError(error)) => Err(self.refusal(&error)),
            Some(value) => Ok(value),
            None => Err(self.garbled()),
        }
    }

    /// Runs a script by its digest, by its text where the server does not have it (any more). Scripts bear being run twice.
    pub(super) async fn run<K: AsRef<[u8]>, A: AsRef<[u8]>>(
        &self,
        script: &Script,
        keys: &[K],
        args: &[A],
    ) -> Result<Value, StoreError> {
        let command = |name: &str, body: &str| {
            let mut pipeline = Pipeline::with_capacity(1);
            let command = pipeline.cmd(name).arg(body).arg(keys.len());
            for key in keys {
                command.arg(key.as_ref());
            }
            for arg in args {
                command.arg(arg.as_ref());
            }
            pipeline
        };
        let mut reply = self.ask(&command("EVALSHA", &script.sha)).await?.pop();
        if matches!(&reply, Some(Value::ServerError(error)) if error.code() == "NOSCRIPT") {
            reply = self.ask(&command("EVAL", script.text)).await?.pop();
        }
        match reply {
            Some(Value::ServerError(error)) if forbids_scripts(error.code(), error.details().unwrap_or_default()) => {
                Err(self.no_scripts())
            }
            reply => self.reply(reply),
        }
        .map_err(|error| script.named(error))
    }

    pub(super) fn no_scripts(&self) -> StoreError {
        StoreError::NoScripts(format!(
            "Redis at {} does not let this user run EVAL and EVALSHA, which auditcast needs: allow them in the ACL",
            self.address
        ))
    }

    /// After this every request is refused.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.current().connection = None;
    }

    pub(super) fn silent(&self) -> StoreError {
        StoreError::Unavailable(format!("Redis at {} did not answer within {} s", self.address, PATIENCE.as_secs()))
    }

    /// The reply has a shape that no Redis gives.
    pub(super) fn garbled(&self) -> StoreError {
        StoreError::Broken(format!("Redis at {} gave a reply that cannot be read", self.address))
    }

    /// What a failed request means.
    pub(super) fn failure(&self, error: &RedisError) -> StoreError {
        let at = &self.address;
        if let Some(code) = error.code() {
            let detail = error.detail().unwrap_or_default();
            return self.meaning(code, detail);
        }
        let text = error.to_string();
        for code in ["WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "MASTERDOWN"] {
            if text.contains(code) {
                return self.meaning(code, &text);
            }
        }
        if error.kind() == redis::ErrorKind::AuthenticationFailed {
            return self.meaning("WRONGPASS", &text);
        }
        if error.kind() == redis::ErrorKind::InvalidClientConfig {
            return StoreError::Refused(format!("Redis at {at} cannot be used so: {text}"));
        }
        if error.is_connection_refusal() {
            return StoreError::Unavailable(format!("Redis at {at} refused the connection"));
        }
        if error.is_timeout() {
            return self.silent();
        }
        if error.is_connection_dropped() {
            return StoreError::Unavailable(format!("Redis at {at} closed the connection"));
        }
        if text.contains("certificate") {
            return StoreError::Refused(format!("Redis at {at} shows a certificate that is not trusted here: {text}"));
        }
        if error.is_io_error() {
            return StoreError::Unavailable(format!("Redis at {at} cannot be reached: {text}"));
        }
        StoreError::Broken(format!("Redis at {at} failed: {text}"))
    }

    /// What an error reply means.
    pub(super) fn refusal(&self, error: &ServerError) -> StoreError {
        self.meaning(error.code(), error.details().unwrap_or_default())
    }

    /// The same for one as the server wrote it, `NOAUTH Authentication required.`
    pub(super) fn refused(&self, text: &str) -> StoreError {
        let (code, detail) = code_and_detail(text);
        self.meaning(code, detail)
    }

    pub(super) fn meaning(&self, code: &str, detail: &str) -> StoreError {
        let at = &self.address;
        // Up to 6.2 an error inside a script is wrapped: `ERR Error running script (…): @user_script:5: WRONGTYPE …`.
        let (code, detail) = match script_error(detail) {
            Some(inner) if code == "ERR" => inner,
            _ => (code, detail),
        };
        // The crate drops the code of what the server said to its SELECT.
        let code = match code {
            "ERR" if detail.starts_with("Authentication required") => "NOAUTH",
            "ERR" if detail.contains("is loading the dataset") => "LOADING",
            "ERR" if detail.starts_with("Link with MASTER is down") => "MASTERDOWN",
            "ERR" if detail.contains("no permissions") => "NOPERM",
            code => code,
        };
        match code {
            "FENCED" => StoreError::Fenced,
            "FORMAT" => StoreError::Format(detail.to_owned()),
            "NOAUTH" | "WRONGPASS" => StoreError::Refused(format!(
                "Redis at {at} refused the user name or password: set them in store.url or REDIS_PASSWORD"
            )),
            "NOPERM" => StoreError::Refused(format!("Redis at {at} forbids a command or key that auditcast needs: {detail}")),
            "LOADING" => StoreError::Unavailable(format!("Redis at {at} is still loading its data")),
            "READONLY" => StoreError::Unavailable(format!("Redis at {at} is a replica, writes are refused")),
            "OOM" => StoreError::Unavailable(format!("Redis at {at} has reached its maxmemory")),
            "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "UNBLOCKED" | "NOREPLICAS" | "MISCONF" => {
                StoreError::Unavailable(format!("Redis at {at} cannot serve now: {code} {detail}"))
            }
            "MOVED" | "ASK" | "CROSSSLOT" => {
                StoreError::Refused(format!("Redis at {at} is part of a cluster, which is not supported yet"))
            }
            "ERR" if detail.contains("max number of clients") => {
                StoreError::Unavailable(format!("Redis at {at} has no connection left: {detail}"))
            }
            "ERR" if detail.contains("AUTH") || detail.contains("invalid password") => StoreError::Refused(format!(
                "Redis at {at} refused the user name or password: set them in store.url or REDIS_PASSWORD"
            )),
            "ERR" if detail.contains("unknown command") || detail.contains("DB index") => {
                StoreError::Refused(format!("Redis at {at} refuses: {detail}"))
            }
            _ => StoreError::Broken(format!("Redis at {at} refuses: {code} {detail}")),
        }
    }
}

/// `…: @user_script:5: WRONGTYPE Operation …` → `WRONGTYPE`, `Operation …`. The place may come twice, the code with its `-`.
fn script_error(detail: &str) -> Option<(&str, &str)> {
    let (_, place) = detail.rsplit_once("@user_script:")?;
    let (_line, inner) = place.split_once(": ")?;
    let (code, rest) = inner.trim_start_matches('-').split_once(' ')?;
    (!code.is_empty() && code.bytes().all(|b| b.is_ascii_uppercase())).then_some((code, rest))
}

/// An error reply without its `-`: a word in capitals, and what it says.
pub(super) fn code_and_detail(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

/// Whether an error reply says that this user may run no scripts at all.
pub(super) fn forbids_scripts(code: &str, detail: &str) -> bool {
    code == "NOPERM" && detail.contains("'eval")
}

/// TLS takes its cryptography from the process-wide provider; `main` sets it, a library user may not have.
fn provide_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that there is one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_inside_a_script_is_found_in_its_wrapping() {
        let wrapped = |text| script_error(text).unwrap();
        let six = "Error running script (call to f_0123): @user_script:5: WRONGTYPE Operation against a key";
        assert_eq!(wrapped(six), ("WRONGTYPE", "Operation against a key"));
        let twice = "Error running script (call to f_0123): @user_script:5: @user_script: 5: -OOM command not allowed";
        assert_eq!(wrapped(twice), ("OOM", "command not allowed"));
        assert_eq!(script_error("value is not an integer or out of range"), None);
        assert_eq!(script_error("Error running script: @user_script:5: attempt to index a nil value"), None);
    }

    #[test]
    fn what_an_error_reply_means() {
        let link = Link::open("redis://:hunter2@h:1/2").unwrap();
        let shown = |code, detail| format!("{:?}", link.meaning(code, detail));
        for (code, detail, kind) in [
            ("FENCED", "x", "Fenced"),
            ("NOAUTH", "Authentication required.", "Refused"),
            ("ERR", "Authentication required.", "Refused"),
            ("WRONGPASS", "invalid username-password pair", "Refused"),
            ("NOPERM", "this user has no permissions", "Refused"),
            ("LOADING", "Redis is loading the dataset in memory", "Unavailable"),
            ("ERR", "Redis is loading the dataset in memory", "Unavailable"),
            ("READONLY", "You can't write against a read only replica.", "Unavailable"),
            ("MASTERDOWN", "Link with MASTER is down", "Unavailable"),
            ("CLUSTERDOWN", "The cluster is down", "Unavailable"),
            ("TRYAGAIN", "Multiple keys request during rehashing of slot", "Unavailable"),
            ("OOM", "command not allowed when used memory > 'maxmemory'.", "Unavailable"),
            ("ERR", "max number of clients reached", "Unavailable"),
            ("MOVED", "1 h:2", "Refused"),
            ("WRONGTYPE", "Operation against a key holding the wrong kind of value", "Broken"),
            ("ERR", "syntax error", "Broken"),
        ] {
            let text = shown(code, detail);
            assert!(text.starts_with(kind), "{code} {detail}: {text}");
            assert!(!text.contains("hunter2"));
        }
    }
}
