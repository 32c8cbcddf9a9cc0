//! What would a process do that was taken over? Each thing once, by name: for the self-test of the sandbox only.
//!
//! Nothing here is harmful where it is allowed: signals are signal 0, what is opened is closed by the end of the process
//! that tries, and what is asked of the kernel beyond that is asked with arguments that it refuses after it has looked at
//! the right.

use std::io;

use libc::{c_int, c_long, c_void};

/// What was tried, and by which name.
pub type Attempt = (&'static str, fn() -> io::Result<()>);

/// Everything that is forbidden to a worker.
pub const FORBIDDEN: [Attempt; 41] = [
    ("open_passwd", || open(c"/etc/passwd", libc::O_RDONLY)),
    ("open_own_memory", || open(c"/proc/self/mem", libc::O_RDWR)),
    ("create_file", || open(c"/tmp/neap-selftest", libc::O_CREAT | libc::O_WRONLY)),
    ("stat_path", || path(libc::SYS_statx)),
    ("remove_file", || path(libc::SYS_unlinkat)),
    ("change_folder", || call(libc::SYS_chdir, [address(c"/".as_ptr()), 0, 0, 0, 0])),
    ("change_root", || call(libc::SYS_chroot, [address(c"/".as_ptr()), 0, 0, 0, 0])),
    ("mount", || call(libc::SYS_mount, [0, address(c"/".as_ptr()), address(c"neap-none".as_ptr()), 0, 0])),
    ("execute", execute),
    ("fork", fork),
    ("tcp_socket", || socket(libc::AF_INET, libc::SOCK_STREAM).map(drop)),
    ("tcp_connect", tcp_connect),
    ("udp_send", udp_send),
    ("unix_connect", unix_connect),
    ("netlink_socket", || socket(libc::AF_NETLINK, libc::SOCK_RAW).map(drop)),
    ("be_traced", || call(libc::SYS_ptrace, [TRACE_ME, 0, 0, 0, 0])),
    ("trace_parent", || call(libc::SYS_ptrace, [TRACE_ATTACH, parent(), 0, 0, 0])),
    ("read_parents_memory", || call(libc::SYS_process_vm_readv, [parent(), 0, 0, 0, 0])),
    ("signal_parent", || call(libc::SYS_kill, [parent(), 0, 0, 0, 0])),
    ("signal_init", || call(libc::SYS_kill, [1, 0, 0, 0, 0])),
    ("signal_thread_of_parent", || call(libc::SYS_tgkill, [parent(), parent(), 0, 0, 0])),
    ("stop_itself", || call(libc::SYS_tgkill, [own(), own(), c_long::from(libc::SIGURG), 0, 0])),
    ("open_process", || call(libc::SYS_pidfd_open, [parent(), 0, 0, 0, 0])),
    ("bpf", || call(libc::SYS_bpf, [0, 0, 0, 0, 0])),
    ("io_uring", || call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0])),
    ("userfaultfd", || call(libc::SYS_userfaultfd, [0, 0, 0, 0, 0])),
    ("perf_event", || call(libc::SYS_perf_event_open, [0, 0, -1, -1, 0])),
    ("keyctl", || call(libc::SYS_keyctl, [0, -3, 0, 0, 0])),
    ("memory_file", || call(libc::SYS_memfd_create, [address(c"neap".as_ptr()), 0, 0, 0, 0])),
    ("be_dumpable", || call(libc::SYS_prctl, [c_long::from(libc::PR_SET_DUMPABLE), 1, 0, 0, 0])),
    ("become_root", || call(libc::SYS_setuid, [0, 0, 0, 0, 0])),
    ("map_executable", map_executable),
    ("make_executable", || call(libc::SYS_mprotect, [0, 0, c_long::from(libc::PROT_EXEC), 0, 0])),
    ("new_namespace", || call(libc::SYS_unshare, [0, 0, 0, 0, 0])),
    ("type_into_terminal", type_into_terminal),
    ("raise_limit", || call(libc::SYS_prlimit64, [0, LIMIT_OF_FILES, 0, 0, 0])),
    ("personality", || call(libc::SYS_personality, [0x0040_0000, 0, 0, 0, 0])),
    ("real_time_class", || call(libc::SYS_sched_setscheduler, [0, c_long::from(libc::SCHED_FIFO), 0, 0, 0])),
    ("raise_priority", || call(libc::SYS_setpriority, [0, 0, -20, 0, 0])),
    ("disarm_dead_man", || call(libc::SYS_setitimer, [c_long::from(libc::ITIMER_PROF), 0, 0, 0, 0])),
    ("ignore_dead_man", ignore_dead_man),
];

/// What shows that the test can tell: something that is allowed, and ends that are no violation.
pub const CONTROLS: [Attempt; 4] = [
    ("allowed", || call(libc::SYS_getppid, [0; 5])),
    ("abort", || std::process::abort()),
    ("fault", fault),
    ("over_memory", over_memory),
];

/// Makes one attempt, if there is one of that name.
pub fn attempt(name: &str) -> Option<io::Result<()>> {
    let known = FORBIDDEN.iter().chain(&CONTROLS).find(|(known, _)| *known == name);
    known.map(|(_, attempt)| attempt())
}

fn own() -> c_long {
    c_long::from(rustix::process::getpid().as_raw_nonzero().get())
}

fn parent() -> c_long {
    rustix::process::getppid().map_or(1, |parent| c_long::from(parent.as_raw_nonzero().get()))
}

fn address<T>(pointer: *const T) -> c_long {
    pointer.addr().cast_signed() as c_long
}

fn call(number: c_long, [a, b, c, d, e]: [c_long; 5]) -> io::Result<()> {
    // SAFETY: every use in this file passes integers, null, or the address of a value that outlives the call; none asks
    // the kernel to write into memory that is in use.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, 0 as c_long) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open(path: &std::ffi::CStr, flags: c_int) -> io::Result<()> {
    call(libc::SYS_openat, [c_long::from(libc::AT_FDCWD), address(path.as_ptr()), c_long::from(flags), 0o600, 0])
}

/// A call that takes a folder, a path and a place for a result: the path is one that is not there.
fn path(number: c_long) -> io::Result<()> {
    let path = c"/etc/passwd/neap-selftest";
    call(number, [c_long::from(libc::AT_FDCWD), address(path.as_ptr()), 0, 0, 0])
}

fn execute() -> io::Result<()> {
    let path = c"/bin/true";
    let arguments = [path.as_ptr(), std::ptr::null()];
    call(libc::SYS_execve, [address(path.as_ptr()), address(arguments.as_ptr()), 0, 0, 0])
}

fn fork() -> io::Result<()> {
    // SAFETY: this process has one thread, and the child ends at once without touching anything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: ends the child; it runs no code of this process.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

fn socket(family: c_int, kind: c_int) -> io::Result<c_long> {
    // SAFETY: the call takes three integers.
    let socket = unsafe { libc::syscall(libc::SYS_socket, family, kind, 0) };
    if socket < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// The first byte of an address of each family; both families have small numbers.
const INTERNET: u8 = libc::AF_INET.to_ne_bytes()[if cfg!(target_endian = "little") { 0 } else { 3 }];
const LOCAL: u8 = libc::AF_UNIX.to_ne_bytes()[if cfg!(target_endian = "little") { 0 } else { 3 }];

/// Port 9 of this machine, as the kernel wants addresses.
const LOOPBACK: [u8; 16] = [INTERNET, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

fn tcp_connect() -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM)?;
    call(libc::SYS_connect, [socket, address(LOOPBACK.as_ptr()), 16, 0, 0])
}

fn udp_send() -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    // SAFETY: four bytes and an address are read, both of which outlive the call.
    let sent = unsafe { libc::syscall(libc::SYS_sendto, socket, c"neap".as_ptr(), 4, 0, LOOPBACK.as_ptr(), 16) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn unix_connect() -> io::Result<()> {
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
    // An abstract name.
    let name = [LOCAL, 0, 0, b'n', b'e', b'a', b'p'];
    call(libc::SYS_connect, [socket, address(name.as_ptr()), 7, 0, 0])
}

fn map_executable() -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: asks for fresh memory at a place of the kernel's choice.
    let block = unsafe {
        libc::mmap(std::ptr::null_mut::<c_void>(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if block == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

// The C libraries disagree about the types of these, not about their numbers.
const TIOCSTI: c_long = 0x5412;
const TRACE_ME: c_long = 0;
const TRACE_ATTACH: c_long = 16;
const LIMIT_OF_FILES: c_long = 7;

fn type_into_terminal() -> io::Result<()> {
    let letter = b'x';
    call(libc::SYS_ioctl, [0, TIOCSTI, address(&raw const letter), 0, 0])
}

fn ignore_dead_man() -> io::Result<()> {
    // A null action asks only what the handler is; the filter looks at the signal.
    call(libc::SYS_rt_sigaction, [c_long::from(libc::SIGPROF), 0, 0, 8, 0])
}

/// One block more than the limit allows.
fn over_memory() -> io::Result<()> {
    super::alloc::set_limit(super::alloc::used());
    Err(io::Error::other(format!("{} bytes", std::hint::black_box(vec![0_u8; 1 << 20]).len())))
}

/// A fault of the memory, which is the kernel's to end.
fn fault() -> io::Result<()> {
    // SAFETY: it is not: no page is mapped at this address, so the process ends here, which is what is asked for. The
    // read is volatile, so that it is made.
    let byte = unsafe { std::ptr::without_provenance::<u8>(16).read_volatile() };
    Err(io::Error::other(format!("read {byte}")))
}
