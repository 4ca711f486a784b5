//! Child processes: none is left behind, and what each used is read from the kernel.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal};

use crate::Res;

/// Lines of a child that nobody has read yet.
const LINES_MAX: usize = 4096;
/// How long a child may take to end when it is told to.
const STOP_WAIT: Duration = Duration::from_secs(20);

/// In which a thread that has done its work comes to rest.
const REST: Duration = Duration::from_millis(10);

/// What must be gone when this process is.
#[derive(Default)]
struct Live {
    pids: Vec<u32>,
    dirs: Vec<PathBuf>,
}

static LIVE: Mutex<Live> = Mutex::new(Live { pids: Vec::new(), dirs: Vec::new() });

fn live() -> MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // One that has just ended is as good as one that was ended.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// At Ctrl-C or SIGTERM: ends the children by their ids, removes the directories, and ends. A child also ends when this process
/// dies in any other way: the kernel sees to that (see [`Proc::start`]).
pub fn clean_up_on_signal() -> Res<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let Ok(mut terminate) = terminate else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            // Held to the end, so that nothing new is started or waited for.
            let live = live();
            live.pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
            let deadline = Instant::now() + Duration::from_secs(2);
            while live.pids.iter().any(|pid| runs(*pid)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            live.dirs.iter().for_each(|dir| drop(fs::remove_dir_all(dir)));
            eprintln!("stopped");
            std::process::exit(130);
        });
    })?;
    Ok(())
}

/// Whether a process is there and not a zombie.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Raises the limit of open files to what is allowed; an error says by how much it is too low.
pub fn allow_files(wanted: u64) -> Res<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let enough = |n: Option<u64>| n.is_none_or(|n| n >= wanted);
    if enough(limit.current) {
        return Ok(());
    }
    if !enough(limit.maximum) {
        let hard = limit.maximum.unwrap_or_default();
        return Err(format!("{wanted} open files are needed and {hard} are allowed: raise the hard limit (ulimit -Hn)").into());
    }
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// A directory that goes away with this process.
pub struct Dir(tempfile::TempDir);

impl Dir {
    pub fn new() -> Res<Dir> {
        let dir = tempfile::Builder::new().prefix("auditcast-bench-").tempdir()?;
        live().dirs.push(dir.path().to_owned());
        Ok(Dir(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        live().dirs.retain(|dir| dir != self.0.path());
    }
}

/// A running child with its lines.
pub struct Proc {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Proc {
    /// Starts a program. Its errors go to `log`, which is shown where it fails.
    ///
    /// Only the main thread calls this: the kernel ends a child with the thread that started it.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Res<Proc> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create(log)?);
        // SAFETY: prctl is one system call and touches no memory of ours.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut live = live();
        let mut child =
            command.spawn().map_err(|e| format!("{name}: {} could not be started: {e}", command.get_program().display()))?;
        live.pids.push(child.id());
        drop(live);
        let (to, lines) = sync_channel(LINES_MAX);
        if let Some(stdout) = child.stdout.take() {
            thread::Builder::new().name(format!("lines of {name}")).spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // Nobody reads what is beyond the bound; the child is not held up.
                    let _ = to.try_send(line);
                }
            })?;
        }
        Ok(Proc { name: name.to_owned(), stdin: child.stdin.take(), child, lines })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to the child.
    pub fn say(&mut self, line: &str) -> Res<()> {
        let stdin = self.stdin.as_mut().ok_or_else(|| format!("{} takes no input any more", self.name))?;
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).map_err(|e| format!("{}: {e}", self.name).into())
    }

    /// The next line that begins so, without the beginning; others are passed over.
    pub fn hear(&self, beginning: &str, patience: Duration) -> Res<String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(beginning) {
                        return Ok(rest.trim().to_owned());
                    }
                    if let Some(error) = line.strip_prefix("error ") {
                        return Err(format!("{}: {error}", self.name).into());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{} did not say `{beginning}` within {patience:?}", self.name).into());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("{} ended before it said `{beginning}`", self.name).into());
                }
            }
        }
    }

    /// CPU time of all its threads, those that ended included. To be asked when it has nothing to do: what a running thread has
    /// used is booked when it stops, or at the next tick, so it is given a moment.
    pub fn cpu(&self) -> Res<Duration> {
        thread::sleep(REST);
        cpu(self.pid()).map_err(|e| format!("{}: {e}", self.name).into())
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> Res<u64> {
        rss(self.pid()).map_err(|e| format!("{}: {e}", self.name).into())
    }

    /// SIGTERM, and waits. One that does not go is killed and is an error.
    pub fn stop(mut self) -> Res<()> {
        signal(self.pid(), Signal::TERM);
        let deadline = Instant::now() + STOP_WAIT;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err(format!("{} did not end within {STOP_WAIT:?}", self.name).into())
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let mut live = live();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let pid = self.pid();
        live.pids.retain(|known| *known != pid);
    }
}

/// The threads that run, to the nanosecond; the whole process, to the clock tick, where that says more (threads that ended).
fn cpu(pid: u32) -> Res<Duration> {
    let mut threads_ns = 0_u64;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between being listed and being read.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        threads_ns += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let process_ns = (ticks(11) + ticks(12)) * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1));
    let ended = process_ns > threads_ns + threads_ns / 20 + 50_000_000;
    Ok(Duration::from_nanos(if ended { process_ns } else { threads_ns }))
}

fn rss(pid: u32) -> Res<u64> {
    let kib = |file: &str, name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    let kib = kib("smaps_rollup", "Rss:").or_else(|| kib("status", "VmRSS:")).ok_or("its memory cannot be read")?;
    Ok(kib * 1024)
}
