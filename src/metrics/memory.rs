//! How much memory this process has resident, for `limits.memory`.

/// Resident bytes of this process as the kernel counts them; `None` where it does not say (`/proc` is Linux's).
///
/// `status` rather than `statm`: the one counts in kB, the other in pages, whose size is another question.
pub fn resident_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words() {
        assert_eq!(parse("Name:\tauditcast\nVmHWM:\t   9000 kB\nVmRSS:\t    8192 kB\nRssAnon:\t 1 kB\n"), Some(8 << 20));
        assert_eq!(parse("Name:\tauditcast\n"), None, "a kernel thread has none");
        assert_eq!(parse("VmRSS:\t many kB\n"), None);
        assert_eq!(parse("VmRSS:\t18446744073709551615 kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_some() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100 * 1024));
    }
}
