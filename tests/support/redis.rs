//! A real redis-server of the test's own: a free port, a directory that goes away, killed by its process id.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a server may take to start or to go.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct RedisServer {
    binary: String,
    extra: Vec<String>,
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl RedisServer {
    /// The binary named by `$AUDITCAST_REDIS_SERVER`, else `redis-server`; that there is none fails the test.
    pub fn start(extra: &[&str]) -> RedisServer {
        let binary = std::env::var("AUDITCAST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        RedisServer::start_binary(&binary, extra)
    }

    pub fn start_binary(binary: &str, extra: &[&str]) -> RedisServer {
        let mut server = RedisServer {
            binary: binary.to_owned(),
            extra: extra.iter().map(|arg| (*arg).to_owned()).collect(),
            dir: tempfile::tempdir().expect("a temporary directory"),
            port: 0,
            child: None,
        };
        // Between finding a free port and taking it somebody else may have taken it.
        for _ in 0..10 {
            server.port = free_port();
            if server.run() {
                return server;
            }
        }
        panic!("{binary} does not start; its log: {}", server.log());
    }

    /// On the same port and data as before; for after [`RedisServer::kill`].
    pub fn start_again(&mut self) {
        assert!(self.run(), "the server does not start again; its log: {}", self.log());
    }

    /// SIGKILL: nothing is saved on the way out.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("a killed child ends");
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A connection for doing what auditcast does not.
    pub fn client(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|client| client.get_connection()).expect("the server answers")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn run(&mut self) -> bool {
        let child = Command::new(&self.binary)
            .args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no", "--logfile", "log"])
            // Older ones open the log before they go to --dir.
            .current_dir(self.dir.path())
            .args(["--port", &self.port.to_string(), "--dir"])
            .arg(self.dir.path())
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{} cannot be run ({e}): install redis-server or set AUDITCAST_REDIS_SERVER", self.binary)
            });
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended {
                self.child = None;
                return false;
            }
            if self.answers() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        false
    }

    /// Answered at all: a server with a password says NOAUTH, which will do; one that loads its data will not.
    fn answers(&self) -> bool {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let mut reply = [0; 64];
        let Ok(()) = stream.write_all(b"PING\r\n") else { return false };
        let Ok(n) = stream.read(&mut reply) else { return false };
        reply[..n].starts_with(b"+PONG") || reply[..n].starts_with(b"-NOAUTH")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port nobody listens on right now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}
